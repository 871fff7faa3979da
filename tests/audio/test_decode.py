"""Decoding: formats, channels, blocks, memory, and what is rejected."""

import contextlib
import itertools
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from sounds import paper_waveform, rms_db, tone, write

from relabel_jax.audio.decode import decode, decode_blocks
from relabel_jax.errors import Rejected


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
    waveform, duration_s = paper_waveform(str(path))
    assert duration_s == pytest.approx(4, abs=0.2)  # MP3 and ADPCM come in frames
    spectrum = np.abs(np.fft.rfft(waveform[:32_000] * np.hanning(32_000)))
    assert np.argmax(spectrum) == pytest.approx(440 * 4, abs=2)
    assert rms_db(waveform[8_000:24_000] / 32_768) == pytest.approx(rms_db([0.5 / 2**0.5]), abs=0.2)


def test_mp3_inside_wav(tmp_path):
    """A RIFF header (format 0x55) around an MP3, which libsndfile reads but does not write."""
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
    waveform, _ = paper_waveform(str(tmp_path / "x.wav"))
    # libsndfile decodes the one, FFmpeg the other.
    np.testing.assert_allclose(waveform, paper_waveform(str(tmp_path / "x.mp3"))[0], atol=1)


def test_channels_are_averaged(tmp_path):
    left = tone(440, 8_000)
    path = write(tmp_path / "x.wav", np.stack([left, -left], 1), 8_000)
    assert not paper_waveform(path)[0].any()
    path = write(tmp_path / "x.wav", np.full((100, 3), [0.5, 0.25, 0.0]), 8_000)
    np.testing.assert_array_equal(paper_waveform(path)[0][:100], 8_192)


@pytest.mark.parametrize(("channels", "extension"), [(6, "wav"), (8, "flac"), (255, "ogg")])
def test_many_channels(tmp_path, channels, extension):
    left = tone(440, 16_000, 1)
    samples = left[:, None] * np.linspace(0, 1, channels)
    path = str(tmp_path / f"x.{extension}")
    soundfile.write(path, samples, 16_000)
    waveform, _ = paper_waveform(path)
    expected, _ = paper_waveform(write(tmp_path / "y.wav", left / 2, 16_000))
    assert rms_db((waveform[:8_000] - expected[:8_000]) / 32_768.0) < rms_db(left) - 40


def test_1024_channels_take_no_more_memory_than_one(tmp_path):
    """WAV's header allows 65,535 channels, libsndfile 1,024; 11 s as float32 would be 1 GB."""
    rng = np.random.default_rng(0)
    path = str(tmp_path / "x.wav")
    samples = rng.integers(-9_000, 9_000, (12_000, 1_024), np.int16)
    soundfile.write(path, samples, 8_000)
    tracemalloc.start()
    try:
        waveform, duration_s = paper_waveform(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert duration_s == 1.5
    np.testing.assert_allclose(waveform[:12_000], samples.mean(axis=1), atol=0.51)
    assert peak < 12e6  # all at once: 49 MB


@pytest.mark.parametrize(
    ("extension", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "IMA_ADPCM"),
        ("flac", "PCM_24"),
        ("caf", "ALAC_16"),
        ("ogg", "VORBIS"),
        ("ogg", "OPUS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_blocks_change_nothing(tmp_path, extension, subtype):
    """The result of soundfile.read without blocks; FFmpeg decodes MP3 and Opus, and rounds."""
    path = tmp_path / f"x.{extension}"
    noise = 0.1 * np.random.default_rng(0).standard_normal((48_000, 2))
    write(path, noise, 48_000, subtype)
    whole, _ = soundfile.read(path, dtype="float32")
    pieces, rates_hz = zip(*decode_blocks(str(path), block_samples=2_000), strict=True)
    assert set(rates_hz) == {48_000}
    assert max(map(len, pieces)) == 1_000  # of two channels
    atol = 1e-6 if subtype in ("OPUS", "MPEG_LAYER_III") else 0
    np.testing.assert_allclose(np.concatenate(pieces), whole.mean(axis=1), rtol=0, atol=atol)
    np.testing.assert_array_equal(decode(str(path))[0], np.concatenate(pieces))


def test_a_duration_that_is_no_whole_number_of_samples(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 12 * 44_100).astype(np.float32)
    path = write(tmp_path / "x.wav", samples, 44_100)
    assert (0.3 + 11) * 44_100 != 498_330  # but nearly
    for duration_s, expected in ((0.3 + 11, 498_330), (1.00002, 44_101)):
        # The reader must end, and so must the test.
        pieces = [mono for mono, _ in itertools.islice(decode_blocks(path, duration_s), 100)]
        assert len(pieces) == 1
        np.testing.assert_array_equal(np.concatenate(pieces), samples[:expected])


def test_real_mp3s_and_a_wav_agree_with_libsndfile(realaudio_dir):
    paths = sorted((realaudio_dir / "audio" / "audioset_real").glob("*.mp3"))[:5]
    for path in [*paths, realaudio_dir / "audio" / "animal_sounds" / "koyun_20.wav"]:
        whole, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        pieces = [mono for mono, _ in decode_blocks(str(path), 11, block_samples=3_000)]
        expected = whole.mean(axis=1)[: 11 * rate_hz]
        np.testing.assert_allclose(np.concatenate(pieces), expected, rtol=0, atol=1e-5)


def test_a_header_that_claims_more_than_there_is(tmp_path):
    """A WAV whose header says 4 GB, or 4 GHz: only the samples that exist take memory."""
    path = tmp_path / "x.wav"
    write(path, np.full(800, 0.5), 8_000, "PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFF_FF00)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        waveform, duration_s = paper_waveform(str(path))
        content[24:28] = struct.pack("<I", 4_000_000_000)
        path.write_bytes(content)
        with contextlib.suppress(Rejected):
            paper_waveform(str(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert duration_s == 0.1
    np.testing.assert_array_equal(waveform[:800], 16_384)
    assert peak < 12e6


def test_silence_is_a_recording_like_any_other(tmp_path):
    waveform, duration_s = paper_waveform(write(tmp_path / "x.wav", np.zeros(44_100), 44_100))
    assert not waveform.any()
    assert duration_s == 1


@pytest.mark.parametrize(
    ("reason", "detail", "make"),
    [
        ("unreadable", "No such file", lambda path: None),
        ("unreadable", "Is a directory|not recognised", lambda path: path.mkdir()),
        ("unreadable", "not recognised", lambda path: path.write_text("no audio at all " * 99)),
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
            paper_waveform(str(tmp_path / name))
        assert caught.value.reason == reason


def test_the_content_decides_and_not_the_name(tmp_path):
    """libsndfile takes a file called .raw for samples alone."""
    write(tmp_path / "x.raw", [0.5] * 9, 8_000, format="WAV")
    np.testing.assert_array_equal(decode(str(tmp_path / "x.raw"))[0], np.full(9, 0.5))
    (tmp_path / "x.raw").write_bytes(bytes(range(256)) * 99)
    with pytest.raises(Rejected, match=r"FFmpeg: .*; libsndfile: "):
        decode(str(tmp_path / "x.raw"))
