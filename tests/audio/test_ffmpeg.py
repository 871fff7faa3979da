"""Formats that libsndfile does not read, decoded by FFmpeg."""

import functools
import io
import pathlib
import tarfile

import av
import numpy as np
import pyarrow as pa
import pytest
import sounds
from sounds import paper_waveform, rms_db

from data_prep.recordings import find_by_name
from data_prep.sources import open_source
from relabel_jax.audio.decode import decode
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import Rejected
from relabel_jax.labels.segments import Segments

FORMS = [
    ("m4a", "ipod", "aac"),
    ("m4a", "ipod", "alac"),
    ("mp4", "mp4", "aac"),
    ("webm", "webm", "libopus"),
    ("mka", "matroska", "libopus"),
    ("mkv", "matroska", "ac3"),
    ("mkv", "matroska", "pcm_s24le"),
    ("aac", "adts", "aac"),
    ("wma", "asf", "wmav2"),
]


tone = functools.partial(sounds.tone, amplitude=0.5)


def encode(file, form, channels, rate_hz, *, video=False, tags=None, audio=True):
    """Writes float[channels, time] by FFmpeg's own encoders."""
    _, container_format, codec = form
    with av.open(file, "w", format=container_format) as container:
        container.metadata.update(tags or {})
        if video:
            pictures = container.add_stream("mpeg4", rate=10)
            pictures.width = pictures.height = 64
            pictures.pix_fmt = "yuv420p"
        if audio:
            stream = container.add_stream(codec, rate=rate_hz)
            stream.codec_context.layout = "mono" if len(channels) == 1 else "stereo"
            stream.codec_context.bit_rate = 128_000  # where that means something
            convert = av.AudioResampler(
                stream.codec_context.format, stream.codec_context.layout, rate_hz, frame_size=1_024
            )
            samples = np.asarray(channels, np.float32)
            frame = av.AudioFrame.from_ndarray(
                samples, "fltp", "mono" if len(channels) == 1 else "stereo"
            )
            frame.sample_rate = rate_hz
            for each in [*convert.resample(frame), *convert.resample(None)]:
                container.mux(stream.encode(each))
            container.mux(stream.encode(None))
        if video:
            for number in range(20):
                picture = np.full((64, 64, 3), number, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                container.mux(pictures.encode(frame))
            container.mux(pictures.encode(None))


@pytest.mark.parametrize("form", FORMS, ids="-".join)
@pytest.mark.parametrize("rate_hz", [32_000, 44_100, 48_000])
def test_formats(tmp_path, form, rate_hz):
    if form[2] == "libopus":
        rate_hz = {32_000: 24_000, 44_100: 16_000}.get(rate_hz, rate_hz)  # those that it has
    path = tmp_path / f"x.{form[0]}"
    encode(str(path), form, [tone(440, rate_hz)] * 2, rate_hz)
    waveform, duration_s = paper_waveform(str(path))
    assert waveform.shape == (PAPER_FORMAT.num_samples,)
    assert duration_s == pytest.approx(4, abs=0.2)  # codecs have frames
    spectrum = np.abs(np.fft.rfft(waveform[:32_000] * np.hanning(32_000)))
    assert np.argmax(spectrum) == pytest.approx(440 * 4, abs=2)
    assert rms_db(waveform[8_000:24_000] / 32_768) == pytest.approx(rms_db([0.5 / 2**0.5]), abs=0.5)
    by_file, same_rate = decode(io.BytesIO(path.read_bytes()))
    np.testing.assert_array_equal(by_file, decode(str(path))[0])
    assert same_rate in (rate_hz, 48_000)  # Opus always decodes to 48 kHz


@pytest.mark.parametrize("form", [FORMS[0], FORMS[1], FORMS[3], FORMS[5]], ids="-".join)
def test_what_is_above_4_khz_does_not_fold_back(tmp_path, form):
    path = str(tmp_path / f"x.{form[0]}")
    encode(path, form, [tone(5_000, 48_000)], 48_000)
    waveform, _ = paper_waveform(path)
    # Lossy codecs add some noise.
    assert rms_db(waveform[1_000:31_000] / 32_768) < -60


def test_lossless_content_is_exact_and_channels_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    left, right = (np.rint(rng.uniform(-1, 1, (2, 8_000)) * 2**20) / 2**23).astype(np.float32)
    path = str(tmp_path / "x.mkv")
    encode(path, ("mkv", "matroska", "pcm_s24le"), [left, right], 8_000)
    mono, rate_hz = decode(path)
    assert rate_hz == 8_000
    np.testing.assert_allclose(mono, (left + right) / 2, atol=2**-23)
    encode(path, ("mkv", "matroska", "pcm_s24le"), [left, -left], 8_000)
    assert not paper_waveform(path)[0].any()


def test_only_the_beginning_is_decoded(tmp_path):
    path = str(tmp_path / "x.mkv")
    ramp = np.arange(22 * 8_000) / 2**18
    encode(path, ("mkv", "matroska", "pcm_s24le"), [ramp], 8_000)
    mono, _ = decode(path, PAPER_FORMAT.read_s)
    np.testing.assert_allclose(mono, ramp[: 11 * 8_000], atol=2**-23)
    np.testing.assert_allclose(decode(path)[0], ramp, atol=2**-23)
    waveform, duration_s = paper_waveform(path)
    assert duration_s == 10
    np.testing.assert_allclose(waveform, ramp[:80_000] * 32_768, atol=0.51)


def test_short_and_odd_recordings(tmp_path):
    """0.1 s; a video with sound; tags that are not UTF-8; an .m4a that is called .wav or .mp3."""
    form = FORMS[0]
    encode(str(tmp_path / "short.m4a"), form, [tone(440, 48_000, 0.1)], 48_000)
    assert 0.1 <= paper_waveform(str(tmp_path / "short.m4a"))[1] < 0.2
    encode(str(tmp_path / "film.mp4"), FORMS[2], [tone(440, 48_000)], 48_000, video=True)
    assert paper_waveform(str(tmp_path / "film.mp4"))[1] == pytest.approx(4, abs=0.1)
    encode(str(tmp_path / "x.m4a"), form, [tone(440, 48_000)], 48_000, tags={"title": "caf??s"})
    content = (tmp_path / "x.m4a").read_bytes()
    assert content.count(b"caf??s") == 1
    expected = paper_waveform(str(tmp_path / "x.m4a"))[0]
    for name in ("y.m4a", "y.wav", "y.mp3"):
        (tmp_path / name).write_bytes(content.replace(b"caf??s", b"caf\xe9\xffs"))
        np.testing.assert_array_equal(paper_waveform(str(tmp_path / name))[0], expected)


def test_found_by_name_and_in_tars(tmp_path):

    for name in ("a.m4a", "Yb.WEBM", "c_30.mkv"):
        extension = pathlib.Path(name).suffix.lower()[1:]
        form = next(form for form in FORMS if form[0] == extension)
        encode(str(tmp_path / name), form, [tone(440, 48_000, 1)], 48_000)
    clips = Segments(pa.array(list("abc")), np.full(3, 30.0), np.full(3, 40.0), pa.array([[0]] * 3))
    names = [pathlib.Path(each[0].path).name for each in find_by_name(clips, tmp_path)]
    assert names == ["a.m4a", "Yb.WEBM", "c_30.mkv"]
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in names:
            tar.add(tmp_path / name, name)
    source = open_source(str(tmp_path / "x.tar"))
    for entry, name in zip(source.entries(False), names, strict=True):
        mono, _ = source.read(entry.recording.member)
        np.testing.assert_array_equal(mono, decode(str(tmp_path / name))[0])


def rejected(path) -> Rejected:
    with pytest.raises(Rejected) as caught:
        paper_waveform(str(path))
    assert "\n" not in caught.value.detail
    return caught.value


@pytest.mark.parametrize("form", FORMS[:4], ids="-".join)
def test_damaged_files(tmp_path, form):
    path = tmp_path / f"x.{form[0]}"
    encode(str(path), form, [tone(440, 48_000)], 48_000)
    content = path.read_bytes()
    for size in (9, 40, 200):
        path.write_bytes(content[:size])
        assert rejected(path).reason in ("unreadable", "empty")
    path.write_bytes(content[:200] + bytes(len(content) - 200))
    assert rejected(path).reason in ("unreadable", "empty")
    # Cut in the middle: MP4 has its index at the end, Matroska is a stream.
    path.write_bytes(content[: len(content) // 2])
    if form[0] == "webm":
        assert 1 < paper_waveform(str(path))[1] < 3
    else:
        assert rejected(path).reason == "unreadable"


def test_a_codec_without_a_decoder(tmp_path):
    path = tmp_path / "x.mka"
    encode(str(path), ("mka", "matroska", "libopus"), [tone(440, 48_000)], 48_000)
    content = path.read_bytes()
    assert content.count(b"A_OPUS") == 1
    path.write_bytes(content.replace(b"A_OPUS", b"A_NONE"))
    error = rejected(path)
    assert error.reason == "unreadable"
    assert error.detail.startswith("FFmpeg: no decoder for its audio; libsndfile: ")


def test_no_sound_in_it(tmp_path):
    encode(str(tmp_path / "x.mp4"), FORMS[2], [], 48_000, video=True, audio=False)
    assert rejected(tmp_path / "x.mp4").detail.startswith("FFmpeg: no audio in it; libsndfile: ")


@pytest.mark.parametrize("name", ["x.m4a", "x.wav", "x.mkv", "x.mp3", "x.aac"])
@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
        "ffconcat version 1.0\nfile secret.m4a\n",
        '<?xml version="1.0"?><MPD><BaseURL>{}</BaseURL></MPD>',
        "v=0\nm=audio 5004 RTP/AVP 96\nc=IN IP4 127.0.0.1\n",
        "../secret.m4a",
    ],
)
def test_a_file_that_names_another_does_not_open_it(tmp_path, name, text):
    encode(str(tmp_path / "secret.m4a"), FORMS[0], [tone(440, 48_000, 1)], 48_000)
    (tmp_path / name).write_text(text.format(tmp_path / "secret.m4a"))
    assert rejected(tmp_path / name).reason == "unreadable"


def test_a_quicktime_reference_is_not_followed(tmp_path):
    """A `dref` entry in an MP4 can refer to samples in another file."""
    encode(str(tmp_path / "secret.m4a"), FORMS[0], [tone(440, 48_000, 1)], 48_000)
    content = (tmp_path / "secret.m4a").read_bytes()
    entry = b"\x00\x00\x00\x0curl \x00\x00\x00\x01"  # flag 1: in this file
    assert content.count(entry) == 1
    # An alias to a file that does not exist, with the same number of bytes, so offsets are kept.
    (tmp_path / "x.m4a").write_bytes(
        content.replace(entry, b"\x00\x00\x00\x0calis\x00\x00\x00\x00")
    )
    before = sorted(tmp_path.iterdir())
    try:
        waveform, _ = paper_waveform(str(tmp_path / "x.m4a"))
    except Rejected:
        pass
    else:  # FFmpeg takes the samples from the file itself
        np.testing.assert_array_equal(waveform, paper_waveform(str(tmp_path / "secret.m4a"))[0])
    assert sorted(tmp_path.iterdir()) == before
