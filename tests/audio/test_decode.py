"""One recording -> one waveform: formats, resampling, levels, and what is rejected."""

import contextlib
import itertools
import struct
import tracemalloc

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.signal
import soundfile

from relabel_jax.audio.decode import decode, decode_blocks, read_waveform, resample, to_int16
from relabel_jax.data.schema import WAVEFORM_SAMPLES
from relabel_jax.errors import Rejected


def tone(frequency_hz, rate_hz, duration_s=4.0, amplitude=0.9):
    """A sine that fades in and out over 50 ms: a hard start has energy at all frequencies."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    fade = np.clip(np.minimum(time_s, duration_s - time_s) / 0.05, 0, 1)
    return amplitude * np.sin(2 * np.pi * frequency_hz * time_s) * np.sin(fade * np.pi / 2) ** 2


def rms_db(samples):
    return 20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64))) + 1e-12)


def write(path, samples, rate_hz, subtype="FLOAT", **options):
    soundfile.write(path, np.asarray(samples, np.float32), rate_hz, subtype=subtype, **options)
    return str(path)


@pytest.mark.parametrize("rate_hz", [11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_what_is_above_4_khz_does_not_fold_back(tmp_path, rate_hz):
    for frequency_hz in (4_200, 5_000, min(11_000, 0.45 * rate_hz)):
        samples = tone(frequency_hz, rate_hz)
        waveform, _ = read_waveform(write(tmp_path / "tone.wav", samples, rate_hz))
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
    waveform, _ = read_waveform(write(tmp_path / "noise.wav", samples, rate_hz))
    found = waveform[: len(expected)] / 32_768
    assert rms_db(found - expected) < rms_db(expected) - 60
    # and the level of every 200 Hz wide band
    edges = np.arange(200, limit_hz - 200, 200)
    spectra = [scipy.signal.welch(x, 8_000, nperseg=4_000)[1] for x in (found, expected)]
    powers = [np.add.reduceat(spectrum, (edges / 2).astype(int))[:-1] for spectrum in spectra]
    np.testing.assert_allclose(10 * np.log10(powers[0] / powers[1]), 0, atol=0.1)


@pytest.mark.parametrize(
    ("extension", "subtype"),
    [
        *(("wav", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        *(("wav", s) for s in ("ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")),
        *(("flac", s) for s in ("PCM_S8", "PCM_16", "PCM_24")),
        *(("aiff", s) for s in ("PCM_S8", "PCM_16", "PCM_24", "FLOAT")),
        *(("caf", s) for s in ("PCM_16", "PCM_24", "ALAC_16", "FLOAT")),
        *(("ogg", s) for s in ("VORBIS", "OPUS")),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_formats(tmp_path, extension, subtype, channels):
    samples = tone(440, 16_000, amplitude=0.5)
    path = tmp_path / f"tone.{extension}"
    write(path, np.tile(samples[:, None], channels), 16_000, subtype)
    waveform, duration_s = read_waveform(str(path))
    assert duration_s == pytest.approx(4, abs=0.2)  # MP3 and ADPCM come in frames
    spectrum = np.abs(np.fft.rfft(waveform[:32_000] * np.hanning(32_000)))
    assert np.argmax(spectrum) == pytest.approx(440 * 4, abs=2)
    assert rms_db(waveform[8_000:24_000] / 32_768) == pytest.approx(rms_db([0.5 / 2**0.5]), abs=0.2)


def test_mp3_inside_wav(tmp_path):
    """libsndfile reads it and does not write it: a RIFF header (format 0x55) around an MP3."""
    samples = tone(440, 16_000, amplitude=0.5)
    write(tmp_path / "x.mp3", samples, 16_000, "MPEG_LAYER_III")
    mp3 = (tmp_path / "x.mp3").read_bytes()
    mp3 += bytes(len(mp3) % 2)
    about = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 16_000, 8_000, 1, 0, 12, 1, 2, 288, 1, 1_105)
    chunks = b"".join(
        name + struct.pack("<I", len(chunk)) + chunk
        for name, chunk in (
            (b"fmt ", about),
            (b"fact", struct.pack("<I", len(samples))),
            (b"data", mp3),
        )
    )
    riff = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    (tmp_path / "x.wav").write_bytes(riff)
    with soundfile.SoundFile(tmp_path / "x.wav") as file:
        assert (file.format, file.subtype) == ("WAV", "MPEG_LAYER_III")
    waveform, _ = read_waveform(str(tmp_path / "x.wav"))
    np.testing.assert_array_equal(waveform, read_waveform(str(tmp_path / "x.mp3"))[0])


def test_a_16_bit_recording_at_8_khz_is_kept_bit_for_bit(tmp_path):
    samples = np.random.default_rng(0).integers(-32_768, 32_768, 80_000).astype(np.int16)
    soundfile.write(tmp_path / "x.flac", samples, 8_000)
    waveform, duration_s = read_waveform(str(tmp_path / "x.flac"))
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
        waveform, _ = read_waveform(write(tmp_path / "loud.wav", samples, rate_hz))
        inside = np.abs(reference) > 0.5
        np.testing.assert_array_equal(
            np.sign(waveform[:32_000])[inside], np.sign(reference)[inside]
        )
    waveform, _ = read_waveform(write(tmp_path / "loud.wav", sine, rate_hz))
    assert (waveform.max(), waveform.min()) == (32_767, -32_768)


@hypothesis.given(hypothesis.extra.numpy.arrays(np.float32, 5, elements=st.floats(-4, 4, width=32)))
def test_to_int16_against_python_integers(samples):
    expected = [min(max(round(float(x) * 32_768), -32_768), 32_767) for x in samples]
    np.testing.assert_array_equal(to_int16(samples), expected)


def test_channels_are_averaged(tmp_path):
    left = tone(440, 8_000)
    path = write(tmp_path / "x.wav", np.stack([left, -left], 1), 8_000)
    assert not read_waveform(path)[0].any()
    path = write(tmp_path / "x.wav", np.full((100, 3), [0.5, 0.25, 0.0]), 8_000)
    np.testing.assert_array_equal(read_waveform(path)[0][:100], 8_192)


def test_short_recordings_are_padded_at_the_end(tmp_path):
    waveform, duration_s = read_waveform(write(tmp_path / "x.wav", np.full(800, 0.5), 8_000))
    assert waveform.shape == (WAVEFORM_SAMPLES,)
    assert duration_s == 0.1
    np.testing.assert_array_equal(waveform[:800], 16_384)
    assert not waveform[800:].any()


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 48_000])
def test_long_recordings_are_cut_as_if_all_of_them_had_been_read(tmp_path, rate_hz):
    samples = 0.1 * np.random.default_rng(0).standard_normal(rate_hz * 23)
    samples[rate_hz * 12 :] = np.nan  # what is cut off does not matter
    waveform, duration_s = read_waveform(write(tmp_path / "x.wav", samples, rate_hz))
    assert duration_s == 10
    expected, _ = read_waveform(write(tmp_path / "y.wav", samples[: rate_hz * 11], rate_hz))
    np.testing.assert_array_equal(waveform, expected)


@pytest.mark.parametrize("rate_hz", [11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_stop_band_of_noise(tmp_path, rate_hz):
    """All that is above 4.2 kHz, at once, against scipy's polyphase resampler on the rest."""
    noise = np.random.default_rng(0).standard_normal(rate_hz * 3)
    high = scipy.signal.firwin(4_001, 4_400, fs=rate_hz, pass_zero=False, window=("kaiser", 12))
    samples = 0.1 * scipy.signal.fftconvolve(noise, high, mode="same")
    samples *= scipy.signal.windows.tukey(len(samples), 0.2)
    low = 0.01 * tone(1_000, rate_hz, 3)
    waveform, _ = read_waveform(write(tmp_path / "high.wav", samples, rate_hz))
    assert rms_db(waveform[:24_000] / 32_768) < rms_db(samples) - 60
    waveform, _ = read_waveform(write(tmp_path / "both.wav", samples + low, rate_hz))
    expected = 0.01 * tone(1_000, 8_000, 3)
    assert rms_db(waveform[:24_000] / 32_768 - expected) < rms_db(samples) - 60


@pytest.mark.parametrize("rate_hz", [8_000, *RATES_HZ])
@pytest.mark.parametrize("duration_s", [0.1, 22.0])
def test_the_shortest_and_the_longest_at_every_rate(tmp_path, rate_hz, duration_s):
    samples = np.full(round(duration_s * rate_hz), 0.25)
    path = write(tmp_path / "x.wav", samples, rate_hz, "PCM_24")
    waveform, found_s = read_waveform(path)
    assert found_s == pytest.approx(min(duration_s, 10), abs=1 / 8_000)
    length = round(found_s * 8_000)
    edge = min(300, length // 4)  # there the filter rings
    np.testing.assert_allclose(waveform[edge : length - edge], 8_192, atol=30)  # DC stays DC
    assert not waveform[length:].any()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_full_scale_and_dc(tmp_path, subtype, rate_hz):
    """The largest and the smallest value of each depth, held: no wrap, no shift, no gain."""
    for level in (-1.0, 0.0, 0.5, 1.0):
        samples = np.full(rate_hz, level)
        waveform, _ = read_waveform(write(tmp_path / "x.wav", samples, rate_hz, subtype))
        step = 256 if subtype == "PCM_U8" else 1
        expected = np.clip(level * 32_768, -32_768, 32_768 - step)
        np.testing.assert_allclose(waveform[300:7_700], expected, atol=max(step, 5))


@pytest.mark.parametrize(("channels", "extension"), [(6, "wav"), (8, "flac"), (255, "ogg")])
def test_many_channels(tmp_path, channels, extension):
    left = tone(440, 16_000, 1)
    samples = left[:, None] * np.linspace(0, 1, channels)
    path = str(tmp_path / f"x.{extension}")
    soundfile.write(path, samples, 16_000)
    waveform, _ = read_waveform(path)
    expected, _ = read_waveform(write(tmp_path / "y.wav", left / 2, 16_000))
    assert rms_db((waveform[:8_000] - expected[:8_000]) / 32_768.0) < rms_db(left) - 40


def test_1024_channels_take_no_more_memory_than_one(tmp_path):
    """WAV's header allows 65,535 and libsndfile 1,024; as float32 11 s of them would be 1 GB."""
    rng = np.random.default_rng(0)
    path = str(tmp_path / "x.wav")
    samples = rng.integers(-9_000, 9_000, (12_000, 1_024), np.int16)
    soundfile.write(path, samples, 8_000)
    tracemalloc.start()
    try:
        waveform, duration_s = read_waveform(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert duration_s == 1.5
    np.testing.assert_allclose(waveform[:12_000], samples.mean(axis=1), atol=0.51)
    assert peak < 12e6  # all at once: 49 MB


@pytest.mark.parametrize(
    ("extension", "subtype"),
    [
        *(("wav", "PCM_16"), ("wav", "IMA_ADPCM"), ("flac", "PCM_24"), ("caf", "ALAC_16")),
        *(("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")),
    ],
)
def test_blocks_change_nothing(tmp_path, monkeypatch, extension, subtype):
    """What soundfile.read gives at once."""
    path = tmp_path / f"x.{extension}"
    noise = 0.1 * np.random.default_rng(0).standard_normal((48_000, 2))
    write(path, noise, 48_000, subtype)
    whole, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr("relabel_jax.audio.decode._BLOCK_SAMPLES", 2_000)
    mono, rate_hz = decode(str(path))
    assert rate_hz == 48_000
    np.testing.assert_array_equal(mono, whole.mean(axis=1))


def test_a_duration_that_is_no_whole_number_of_samples(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 12 * 44_100).astype(np.float32)
    path = write(tmp_path / "x.wav", samples, 44_100)
    assert (0.3 + 11) * 44_100 != 498_330  # but nearly
    for duration_s, expected in ((0.3 + 11, 498_330), (1.00002, 44_101)):
        # It must come to an end, and a test too.
        pieces = [mono for mono, _ in itertools.islice(decode_blocks(path, duration_s), 100)]
        assert len(pieces) == 1
        np.testing.assert_array_equal(np.concatenate(pieces), samples[:expected])


def test_blocks_change_nothing_in_real_mp3s(realaudio_dir, monkeypatch):
    """With a seek after each block, as soundfile does it, each of these comes out otherwise."""
    monkeypatch.setattr("relabel_jax.audio.decode._BLOCK_SAMPLES", 3_000)
    paths = sorted((realaudio_dir / "audio" / "audioset_real").glob("*.mp3"))[:5]
    for path in [*paths, realaudio_dir / "audio" / "animal_sounds" / "koyun_20.wav"]:
        whole, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        mono, _ = decode(str(path))
        np.testing.assert_array_equal(mono, whole.mean(axis=1)[: 11 * rate_hz])


def test_a_header_that_claims_more_than_there_is(tmp_path):
    """A WAV that says 4 GB, and a rate of 4 GHz: only what is there takes memory."""
    path = tmp_path / "x.wav"
    write(path, np.full(800, 0.5), 8_000, "PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFF_FF00)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        waveform, duration_s = read_waveform(str(path))
        content[24:28] = struct.pack("<I", 4_000_000_000)
        path.write_bytes(content)
        with contextlib.suppress(Rejected):
            read_waveform(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert duration_s == 0.1
    np.testing.assert_array_equal(waveform[:800], 16_384)
    assert peak < 12e6


def test_silence_is_a_recording_like_any_other(tmp_path):
    waveform, duration_s = read_waveform(write(tmp_path / "x.wav", np.zeros(44_100), 44_100))
    assert not waveform.any()
    assert duration_s == 1


def test_an_mp3_that_ends_before_its_header_says(tmp_path):
    """soundfile's blocks() fills the rest with whatever was in memory."""
    path = write(tmp_path / "x.mp3", tone(440, 8_000, 8), 8_000, "MPEG_LAYER_III")
    content = (tmp_path / "x.mp3").read_bytes()
    (tmp_path / "x.mp3").write_bytes(content[: len(content) // 2])
    with soundfile.SoundFile(path) as file:
        num_claimed = file.frames
        decoded = file.read(dtype="float32")
    assert len(decoded) < num_claimed
    waveform, _ = read_waveform(path)
    np.testing.assert_array_equal(waveform[: len(decoded)], to_int16(decoded))
    assert not waveform[len(decoded) :].any()


def _truncated_flac(path):
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 80_000), 8_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:50_000])


@pytest.mark.parametrize(
    ("reason", "detail", "make"),
    [
        ("unreadable", "No such file", lambda path: None),
        ("unreadable", "Is a directory|not recognised", lambda path: path.mkdir()),
        ("unreadable", "not recognised", lambda path: path.write_text("no audio at all " * 99)),
        ("unreadable", "flac decoder", _truncated_flac),
        ("empty", "0 bytes", lambda path: path.touch()),
        ("empty", "no samples", lambda path: write(path, [], 8_000, format="WAV")),
        ("empty", "no samples", lambda path: write(path, [0.5], 96_000, format="WAV")),
        ("unreadable", "^999 Hz: expected", lambda path: write(path, [0.5] * 9, 999, format="WAV")),
        ("not_finite", "1 samples", lambda path: write(path, [0, np.nan], 8_000, format="WAV")),
        ("not_finite", "2 samples", lambda path: write(path, [np.inf] * 2, 8_000, format="WAV")),
    ],
)
def test_rejects(tmp_path, reason, detail, make):
    for name in ("x.wav", "x.mp3"):  # libsndfile has other words for an .mp3
        make(tmp_path / name)
        with pytest.raises(Rejected, match=detail) as caught:
            read_waveform(str(tmp_path / name))
        assert caught.value.reason == reason


def test_a_name_that_libsndfile_takes_for_samples_alone(tmp_path):
    write(tmp_path / "x.raw", [0.5] * 9, 8_000, format="WAV")
    with pytest.raises(Rejected, match="does not say its rate") as caught:
        read_waveform(str(tmp_path / "x.raw"))
    assert caught.value.reason == "unreadable"


@hypothesis.given(
    st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 192_000]),
    st.integers(13, 50_000),
    st.floats(0, 1),
    st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_one_sample_that_is_not_finite_is_found(rate_hz, num_samples, place, value):
    """After the resampling too, where it is looked for."""
    samples = np.zeros(num_samples, np.float32)
    samples[round(place * (num_samples - 1))] = value
    with pytest.raises(Rejected, match="1 samples are NaN or inf"):
        resample(samples, rate_hz)
