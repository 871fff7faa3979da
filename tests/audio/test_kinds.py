"""Odd recordings that people hold: each kind is read to its end, or rejected with a reason.

The kinds are made here, as files and in memory.
"""

import io
import re
import struct

import av
import numpy as np
import pytest
import soundfile
from sounds import tone

from relabel_jax.audio.decode import decode, decoders
from relabel_jax.audio.facts import Facts
from relabel_jax.audio.signatures import is_audio
from relabel_jax.errors import Rejected

RATE_HZ = 22_050
VBR = {"flags": "+qscale", "global_quality": str(4 * 118)}  # the unit of quality in FFmpeg


def melody(duration_s, rate_hz=RATE_HZ):
    """Tones of changing pitch and noise of changing level, so that the bit rate varies."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(len(time_s))
    level = 10 ** (-2 + 1.5 * np.sin(2 * np.pi * 0.7 * time_s))
    return 0.2 * np.sin(2 * np.pi * 300 * time_s * (1 + 0.1 * time_s)) + 0.02 * level * noise


def packed(samples, rate_hz=RATE_HZ, **how):
    """The bytes of a recording that libsndfile writes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, **how)
    return file.getvalue()


def encoded(samples, container_format, codec, rate_hz=RATE_HZ, muxer=None, **options):
    """The bytes of a recording that FFmpeg writes."""
    file = io.BytesIO()
    with av.open(file, "w", format=container_format, options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate_hz, options=options)
        stream.codec_context.layout = "mono"
        convert = av.AudioResampler(stream.codec_context.format, "mono", rate_hz, frame_size=1_024)
        frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "fltp", "mono")
        frame.sample_rate = rate_hz
        for each in [*convert.resample(frame), *convert.resample(None)]:
            container.mux(stream.encode(each))
        container.mux([packet for packet in stream.encode(None) if packet.size])
    return file.getvalue()


def with_field(content, place, layout, value):
    """The content with another number in its header."""
    changed = bytearray(content)
    struct.pack_into(layout, changed, place, value)
    return bytes(changed)


def wav(duration_s=3):
    return packed(melody(duration_s), format="WAV", subtype="PCM_16")


def mp3(duration_s=5, **muxer):
    return encoded(melody(duration_s), "mp3", "libmp3lame", muxer=muxer, **VBR)


def vbr_without_xing(duration_s=30):
    return mp3(duration_s, write_xing="0", id3v2_version="0")


def info_says(num_frames):
    content = mp3()
    place = max(content.find(b"Xing"), content.find(b"Info"))
    return with_field(content, place + 8, ">I", num_frames)


def vorbis(duration_s, rate_hz=RATE_HZ, subtype="VORBIS"):
    return packed(melody(duration_s, rate_hz), rate_hz, format="OGG", subtype=subtype)


def flac(duration_s=5, says_s=None):
    content = packed(melody(duration_s), format="FLAC")
    if says_s is None:
        return content
    bits = struct.unpack(">Q", content[18:26])[0]  # the low 36 bits are the number of samples
    return with_field(content, 18, ">Q", bits >> 36 << 36 | round(says_s * RATE_HZ))


def id3(size):
    return b"ID3\x04\x00\x00" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def with_unpadded_chunk():
    content = wav()
    text = b"LIST" + struct.pack("<I", 25) + b"INFOISFT\x0d\0\0\0Lavf58.29.100"
    return content[:36] + text + content[36:]


FULL = {
    "VBR MP3 without a Xing header": (vbr_without_xing, 30),
    "the second half of it": (lambda: vbr_without_xing()[80_000:], None),
    "MP3 whose header says fewer frames": (lambda: info_says(50), 5),
    "two MP3s": (lambda: mp3() + mp3(), 10),
    "MP3 behind zeros": (lambda: bytes(80_000) + mp3(), 5),
    "MP3 behind text": (lambda: b"HTTP/1.1 200 OK\r\n\r\n" + mp3(), 5),
    "MP3 with two tags": (lambda: id3(3_000) + bytes(3_000) + mp3(), 5),
    "MP3 whose tag says the wrong size": (lambda: id3(10) + bytes(3_000) + mp3(), 5),
    "chained Vorbis": (lambda: vorbis(5) + vorbis(4), 9),
    "chained Vorbis of two rates": (lambda: vorbis(5) + vorbis(4, 44_100), 9),
    "chained Opus": (lambda: vorbis(5, 48_000, "OPUS") + vorbis(4, 48_000, "OPUS"), 9),
    "Vorbis of one page": (lambda: vorbis(0.5), 0.5),
    "FLAC whose header says less": (lambda: flac(5, says_s=1), 5),
    "FLAC whose header says nothing": (lambda: flac(5, says_s=0), 5),
    "FLAC behind a tag": (lambda: id3(300) + bytes(300) + flac(), 5),
    "FLAC in Ogg": (lambda: encoded(melody(5), "ogg", "flac"), 5),
    "WAV without a length": (lambda: with_field(wav(), 40, "<I", 0), 3),
    "WAV from a pipe of SoX": (lambda: with_field(wav(), 40, "<I", 0x7FFF_F000), 3),
    "WAV from a pipe of FFmpeg": (lambda: with_field(wav(), 40, "<I", 0xFFFF_FFFF), 3),
    "WAV behind a tag": (lambda: id3(2_048) + bytes(2_048) + wav(), 3),
    "WAV before rubbish": (lambda: wav() + bytes(range(200, 256)) * 40, 3),
    "WAV with a chunk without pad byte": (with_unpadded_chunk, 3),
    "big-endian WAV": (lambda: packed(melody(3), format="WAV", endian="BIG"), 3),
    "RF64": (lambda: packed(melody(3), format="RF64"), 3),
    "AU": (lambda: packed(melody(3), format="AU"), 3),
    "AVR": (lambda: packed(melody(3), format="AVR", subtype="PCM_16"), 3),
    "NIST": (lambda: packed(melody(3), format="NIST"), 3),
    "VOC": (lambda: packed(melody(3), format="VOC"), 3),
    "W64": (lambda: packed(melody(3), format="W64"), 3),
    "AC3": (lambda: encoded(melody(5, 48_000), "ac3", "ac3", 48_000), 5),
    "G.722 in RIFF": (lambda: encoded(melody(5, 16_000), "wav", "g722", 16_000), 5),
    "Yamaha ADPCM in RIFF": (lambda: encoded(melody(5), "wav", "adpcm_yamaha"), 5),
    "3GP": (lambda: encoded(melody(5), "3gp", "aac"), 5),
    "AVI": (lambda: encoded(melody(5), "avi", "libmp3lame"), 5),
    "FLV": (lambda: encoded(melody(5), "flv", "libmp3lame"), 5),
    "MPEG-TS": (lambda: encoded(melody(5), "mpegts", "aac"), 5),
    "MP2": (lambda: encoded(melody(5), "mp2", "mp2"), 5),
    "TTA": (lambda: encoded(melody(5), "tta", "tta"), 5),
    "WavPack": (lambda: encoded(melody(5), "wv", "wavpack"), 5),
    "FLAC in Matroska": (lambda: encoded(melody(5), "matroska", "flac"), 5),
}


def decoded(content, tmp_path):
    """Decodes a file and the same bytes in memory; returns the samples, the rate and the facts."""
    (tmp_path / "x").write_bytes(content)
    facts = Facts()
    samples, rate_hz = decode(str(tmp_path / "x"), facts=facts)
    in_memory, same_rate_hz = decode(io.BytesIO(content))
    np.testing.assert_array_equal(in_memory, samples)
    assert same_rate_hz == rate_hz
    return samples, rate_hz, facts


@pytest.mark.parametrize("kind", FULL)
def test_all_of_it_is_decoded(tmp_path, capfd, kind):
    make, duration_s = FULL[kind]
    samples, rate_hz, facts = decoded(make(), tmp_path)
    assert not facts.partial
    if duration_s is None:
        assert len(samples) / rate_hz > 10
    else:
        assert len(samples) / rate_hz == pytest.approx(duration_s, abs=0.1)
    tenths = samples[: len(samples) // (rate_hz // 10) * (rate_hz // 10)]
    levels = np.sqrt(np.mean(tenths.reshape(-1, rate_hz // 10) ** 2, axis=1))
    assert (levels[1:] > 0.05).all()  # it sounds everywhere; a part needs a frame to begin
    assert capfd.readouterr() == ("", "")


def test_links_of_another_rate_keep_their_pitch(tmp_path):
    low, high = (
        packed(tone(440, rate_hz), rate_hz, format="OGG", subtype="VORBIS")
        for rate_hz in (16_000, 44_100)
    )
    samples, rate_hz, _ = decoded(low + high, tmp_path)
    assert rate_hz == 16_000
    for link in np.split(samples[: 8 * 16_000], 2):
        assert np.argmax(np.abs(np.fft.rfft(link))) == pytest.approx(440 * 4, abs=1)


@pytest.mark.parametrize(
    ("make", "duration_s"),
    [
        (lambda: mp3()[: len(mp3()) // 2], 2.5),
        (lambda: info_says(100_000), 5),
        (lambda: vorbis(20)[: len(vorbis(20)) // 2], 10),
        (lambda: flac()[: len(flac()) // 2], 2.5),
        (lambda: wav()[: len(wav()) // 2], 1.5),
        (lambda: packed(melody(3), format="AIFF")[:66_150], 1.5),
        (lambda: packed(melody(3), format="AU")[:66_150], 1.5),
        (lambda: encoded(melody(6, 48_000), "webm", "libopus", 48_000)[:30_000], 3),
    ],
    ids=["mp3", "mp3 of 43 min", "ogg", "flac", "wav", "aiff", "au", "webm"],
)
def test_what_is_left_of_a_recording_is_marked_as_partial(tmp_path, capfd, make, duration_s):
    samples, rate_hz, facts = decoded(make(), tmp_path)
    assert len(samples) / rate_hz == pytest.approx(duration_s, abs=2)
    assert facts.partial
    assert capfd.readouterr() == ("", "")


def test_damage_after_the_seconds_that_are_asked_for_is_no_damage(tmp_path):
    (tmp_path / "x.flac").write_bytes(flac(12)[:-10_000])
    facts = Facts()
    decode(str(tmp_path / "x.flac"), 5, facts=facts)
    assert not facts.partial
    decode(str(tmp_path / "x.flac"), facts=facts)
    assert facts.partial


def test_a_damaged_frame_of_a_flac_becomes_silence(tmp_path):
    content = bytearray(flac())
    place = len(content) // 2
    content[place : place + 50] = bytes(50)
    samples, _, facts = decoded(bytes(content), tmp_path)
    whole, _ = decode(io.BytesIO(flac()))
    assert facts == Facts(True, length_s=5.0, has_exact_length=True, decoder="FFmpeg")
    assert len(samples) == len(whole)
    missing = np.flatnonzero(samples != whole)
    assert not samples[missing].any()
    assert missing[-1] - missing[0] < 3 * 4_096


@pytest.mark.parametrize(
    ("make", "reason", "detail"),
    [
        (
            lambda: with_field(wav(), 40, "<I", 66_150),
            "unreadable",
            "the header says 66150 bytes of samples; 66150 more bytes follow",
        ),
        (lambda: with_field(wav(), 22, "<H", 0), "unreadable", "libsndfile: .*; FFmpeg: "),
        (
            lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 96044\n",
            "unreadable",
            "FFmpeg: .*; libsndfile: ",
        ),
        (lambda: encoded(melody(5), "mp4", "aac")[:20_000], "unreadable", "FFmpeg: "),
        (lambda: np.random.default_rng(0).bytes(100_000), "unreadable", "FFmpeg: "),
        (
            lambda: b"\xff\xfb\x90\x64" + np.random.default_rng(0).bytes(100_000),
            "unreadable",
            "FFmpeg: ",
        ),
        *(
            (
                lambda kind=kind, subtype=subtype: packed(
                    23_000 * tone(440, RATE_HZ), format=kind, subtype=subtype
                ),
                "scale",
                "its largest sample is 207",
            )
            for kind in ("WAV", "AIFF", "CAF", "AU", "W64")
            for subtype in ("FLOAT", "DOUBLE")
        ),
        (
            lambda: encoded(23_000 * tone(440, RATE_HZ), "matroska", "pcm_f32le"),
            "scale",
            "its largest sample is 207",
        ),
    ],
)
def test_rejected_with_a_reason(tmp_path, capfd, make, reason, detail):
    content = make()
    for name in ("x.wav", "x.mp3"):
        (tmp_path / name).write_bytes(content)
        for file in (str(tmp_path / name), io.BytesIO(content)):
            with pytest.raises(Rejected, match=detail) as caught:
                decode(file)
            assert caught.value.reason == reason
    assert capfd.readouterr() == ("", "")


def test_a_float_recording_that_exceeds_full_scale_a_little_is_sound(tmp_path):
    samples = (3 * tone(440, RATE_HZ)).astype(np.float32)
    content = packed(samples, format="WAV", subtype="FLOAT")
    np.testing.assert_array_equal(decoded(content, tmp_path)[0], samples)


def test_first_bytes_tell_recordings_from_other_files(tmp_path):
    hidden = {"MP3 behind zeros", "MP3 behind text", "the second half of it"}
    for kind in FULL.keys() - hidden:
        assert is_audio(io.BytesIO(FULL[kind][0]())), kind
    others = (b"", b"plain text\n" * 99, b"{}", b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(999))
    others += (b"\xff\xfeU\0T\0F\0", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\3\4" + bytes(99))
    others += (b"%PDF-1.7", b"PAR1" + bytes(99), b"\x93NUMPY\1\0", b"import os\n", bytes(999))
    for content in others:
        (tmp_path / "x").write_bytes(content)
        assert not is_audio(str(tmp_path / "x"))


def test_the_decoders_are_named():
    assert re.fullmatch(r"libsndfile \S+, FFmpeg [\d.]+ \(PyAV \S+\), soxr \S+", decoders())
