"""Resampling: what passes, what does not, levels, lengths, and samples that are not finite."""

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.signal
import soundfile
from sounds import paper_waveform, rms_db, tone, write

from relabel_jax.audio.decode import decode, decode_blocks, read_waveform
from relabel_jax.audio.resample import resample, resample_blocks, to_int16, to_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.errors import Rejected


@pytest.mark.parametrize("rate_hz", [11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_what_is_above_4_khz_does_not_fold_back(tmp_path, rate_hz):
    for frequency_hz in (4_200, 5_000, min(11_000, 0.45 * rate_hz)):
        samples = tone(frequency_hz, rate_hz)
        waveform, _ = paper_waveform(write(tmp_path / "tone.wav", samples, rate_hz))
        assert rms_db(waveform[:32_000] / 32_768) < rms_db(samples) - 60


# Those of real recordings, and one below 8 kHz.
RATES_HZ = [6_000, 11_000, 11_025, 16_000, 22_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_pass_band_agrees_with_scipys_polyphase_resampler(tmp_path, rate_hz):
    limit_hz = min(3_400, 0.42 * rate_hz)
    noise = np.random.default_rng(0).standard_normal(rate_hz * 3)
    band = scipy.signal.firwin(1_001, limit_hz, fs=rate_hz)
    samples = 0.1 * scipy.signal.fftconvolve(noise, band, mode="same")
    samples *= scipy.signal.windows.tukey(len(samples), 0.2)
    up, down = (8_000 // np.gcd(8_000, rate_hz), rate_hz // np.gcd(8_000, rate_hz))
    low_pass = scipy.signal.firwin(
        2 * 96 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 10)
    )
    expected = scipy.signal.resample_poly(samples, up, down, window=low_pass)
    waveform, _ = paper_waveform(write(tmp_path / "noise.wav", samples, rate_hz))
    found = waveform[: len(expected)] / 32_768
    assert rms_db(found - expected) < rms_db(expected) - 60
    # and the level of every 200 Hz wide band
    edges = np.arange(200, limit_hz - 200, 200)
    spectra = [scipy.signal.welch(x, 8_000, nperseg=4_000)[1] for x in (found, expected)]
    powers = [np.add.reduceat(spectrum, (edges / 2).astype(int))[:-1] for spectrum in spectra]
    np.testing.assert_allclose(10 * np.log10(powers[0] / powers[1]), 0, atol=0.1)


@pytest.mark.parametrize("rate_hz", [11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_stop_band_of_noise(tmp_path, rate_hz):
    """All that is above 4.2 kHz, at once, against scipy's polyphase resampler on the rest."""
    noise = np.random.default_rng(0).standard_normal(rate_hz * 3)
    high = scipy.signal.firwin(4_001, 4_400, fs=rate_hz, pass_zero=False, window=("kaiser", 12))
    samples = 0.1 * scipy.signal.fftconvolve(noise, high, mode="same")
    samples *= scipy.signal.windows.tukey(len(samples), 0.2)
    low = 0.01 * tone(1_000, rate_hz, 3)
    waveform, _ = paper_waveform(write(tmp_path / "high.wav", samples, rate_hz))
    assert rms_db(waveform[:24_000] / 32_768) < rms_db(samples) - 60
    waveform, _ = paper_waveform(write(tmp_path / "both.wav", samples + low, rate_hz))
    expected = 0.01 * tone(1_000, 8_000, 3)
    assert rms_db(waveform[:24_000] / 32_768 - expected) < rms_db(samples) - 60


def test_a_16_bit_recording_at_8_khz_is_kept_bit_for_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32_768, 32_768, 80_000).astype(np.int16)
    soundfile.write(tmp_path / "x.flac", samples, 8_000)
    waveform, duration_s = paper_waveform(str(tmp_path / "x.flac"))
    np.testing.assert_array_equal(waveform, samples)
    assert waveform.dtype == np.int16
    assert duration_s == 10


@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_what_is_too_loud_saturates_and_never_wraps(tmp_path, rate_hz):
    """A float WAV beyond ±1, and (by the resampler's overshoot) a full-scale square wave."""
    sine = tone(100, rate_hz, amplitude=3.0)
    square = 0.999 * np.sign(tone(100, rate_hz))
    reference = tone(100, 8_000)
    for samples in (sine, square):
        waveform, _ = paper_waveform(write(tmp_path / "loud.wav", samples, rate_hz))
        inside = np.abs(reference) > 0.5
        np.testing.assert_array_equal(
            np.sign(waveform[:32_000])[inside], np.sign(reference)[inside]
        )
    waveform, _ = paper_waveform(write(tmp_path / "loud.wav", sine, rate_hz))
    assert (waveform.max(), waveform.min()) == (32_767, -32_768)


@hypothesis.given(hypothesis.extra.numpy.arrays(np.float32, 5, elements=st.floats(-4, 4, width=32)))
def test_to_int16_against_python_integers(samples):
    expected = [min(max(round(float(x) * 32_768), -32_768), 32_767) for x in samples]
    np.testing.assert_array_equal(to_int16(samples), expected)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_full_scale_and_dc(tmp_path, subtype, rate_hz):
    """A constant largest or smallest value of each depth: no overflow, no shift, no gain."""
    for level in (-1.0, 0.0, 0.5, 1.0):
        samples = np.full(rate_hz, level)
        waveform, _ = paper_waveform(write(tmp_path / "x.wav", samples, rate_hz, subtype))
        step = 256 if subtype == "PCM_U8" else 1
        expected = np.clip(level * 32_768, -32_768, 32_768 - step)
        np.testing.assert_allclose(waveform[300:7_700], expected, atol=max(step, 5))


def test_short_recordings_are_padded_at_the_end(tmp_path):
    waveform, duration_s = paper_waveform(write(tmp_path / "x.wav", np.full(800, 0.5), 8_000))
    assert waveform.shape == (PAPER_FORMAT.num_samples,)
    assert duration_s == 0.1
    np.testing.assert_array_equal(waveform[:800], 16_384)
    assert not waveform[800:].any()


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 48_000])
def test_long_recordings_are_cut_as_if_all_of_them_had_been_read(tmp_path, rate_hz):
    samples = 0.1 * np.random.default_rng(0).standard_normal(rate_hz * 23)
    samples[rate_hz * 12 :] = np.nan  # the part that is cut off does not matter
    waveform, duration_s = paper_waveform(write(tmp_path / "x.wav", samples, rate_hz))
    assert duration_s == 10
    expected, _ = paper_waveform(write(tmp_path / "y.wav", samples[: rate_hz * 11], rate_hz))
    np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize("rate_hz", [8_000, *RATES_HZ])
@pytest.mark.parametrize("duration_s", [0.1, 22.0])
def test_the_shortest_and_the_longest_at_every_rate(tmp_path, rate_hz, duration_s):
    samples = np.full(round(duration_s * rate_hz), 0.25)
    path = write(tmp_path / "x.wav", samples, rate_hz, "PCM_24")
    waveform, found_s = paper_waveform(path)
    assert found_s == pytest.approx(min(duration_s, 10), abs=1 / 8_000)
    length = round(found_s * 8_000)
    edge = min(300, length // 4)  # where the filter rings
    np.testing.assert_allclose(waveform[edge : length - edge], 8_192, atol=30)  # DC stays DC
    assert not waveform[length:].any()


@hypothesis.given(
    st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000]),
    st.integers(13, 50_000),
    st.floats(0, 1),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_one_sample_that_is_not_finite_is_found(rate_hz, num_samples, place, value):
    """The check for non-finite samples comes after the resampling."""
    samples = np.zeros(num_samples, np.float32)
    samples[round(place * (num_samples - 1))] = value
    with pytest.raises(Rejected, match="1 samples are NaN or inf"):
        resample(samples, rate_hz, 8_000)


@pytest.mark.parametrize("to_rate_hz", [8_000, 22_050])
def test_resampling_in_pieces_changes_nothing(recordings, to_rate_hz):
    for path in recordings[:20]:
        whole = resample(*decode(str(path)), to_rate_hz)
        blocks = decode_blocks(str(path), block_samples=10_000)
        pieces = np.concatenate(list(resample_blocks(blocks, to_rate_hz)))
        assert len(pieces) == len(whole)
        assert np.abs(pieces.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("to_rate_hz", [1_000, 11_025, 24_000, 32_000, 48_000])
def test_other_rates_agree_with_scipys_polyphase_resampler(to_rate_hz):
    rate_hz = 16_000
    band = scipy.signal.firwin(1_001, 0.42 * min(rate_hz, to_rate_hz), fs=rate_hz)
    noise = np.random.default_rng(0).standard_normal(rate_hz * 3)
    samples = 0.1 * scipy.signal.fftconvolve(noise, band, mode="same")
    samples *= scipy.signal.windows.tukey(len(samples), 0.2)
    factor = np.gcd(rate_hz, to_rate_hz)
    up, down = to_rate_hz // factor, rate_hz // factor
    low_pass = scipy.signal.firwin(
        2 * 96 * max(up, down) + 1, 1 / max(up, down), window=("kaiser", 10)
    )
    expected = scipy.signal.resample_poly(samples, up, down, window=low_pass)
    found = resample(samples.astype(np.float32), rate_hz, to_rate_hz) / 32_768
    assert len(found) == len(expected)
    assert rms_db(found - expected) < rms_db(expected) - 60


@pytest.mark.parametrize(("rate_hz", "to_rate_hz"), [(44_100, 16_000), (16_000, 16_000)])
@pytest.mark.parametrize("duration_s", [0.25, 3.0, 12.5])
def test_a_waveform_of_another_format(tmp_path, rate_hz, to_rate_hz, duration_s):
    """The same as resampling the whole recording and cutting or padding it then."""
    waveform_format = WaveformFormat(to_rate_hz, duration_s)
    noise = 0.1 * np.random.default_rng(0).standard_normal(rate_hz * 7)
    path = write(tmp_path / "x.wav", noise, rate_hz)
    waveform, found_s = read_waveform(path, waveform_format)
    assert waveform.shape == (round(to_rate_hz * duration_s),)
    assert found_s == min(duration_s, 7)
    whole = resample(*decode(path), to_rate_hz)[: len(waveform)]
    # Reading stops a second after the end, so the last bit may round differently.
    assert np.abs(waveform[: len(whole)].astype(int) - whole).max() <= 1
    assert not waveform[len(whole) :].any()
    by_samples, _ = to_waveform(decode(path)[0], rate_hz, waveform_format)
    np.testing.assert_array_equal(by_samples[: len(whole)], whole)
