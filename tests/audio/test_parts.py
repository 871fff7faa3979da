"""A later part of a recording, the length of the whole, and MP3s in silent processes."""

import io

import numpy as np
import pytest
from test_kinds import FULL, RATE_HZ, VBR, encoded, flac, id3, info_says, melody, mp3, vorbis, wav

from relabel_jax.audio.decode import decode
from relabel_jax.audio.facts import Facts

FORMS = {
    "wav": lambda: wav(6),
    "flac": lambda: flac(6),
    "mp3": lambda: mp3(6),
    "ogg": lambda: vorbis(6),
    "chained ogg": lambda: vorbis(3) + vorbis(3),
    "opus": lambda: vorbis(6, 48_000, "OPUS"),
    "webm": lambda: encoded(melody(6, 48_000), "webm", "libopus", 48_000),
    "m4a": lambda: encoded(melody(6), "mp4", "aac"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("silent", [False, True])
def test_a_part_is_that_of_the_whole(form, silent):
    content = FORMS[form]()
    whole, rate_hz = decode(io.BytesIO(content), 100, silent=silent)
    begin, end = 2 * rate_hz, 5 * rate_hz
    part, _ = decode(io.BytesIO(content), 3, start_s=2, silent=silent)
    np.testing.assert_array_equal(part, whole[begin:end])
    rest, _ = decode(io.BytesIO(content), start_s=5, silent=False)
    assert len(rest) == pytest.approx(len(whole) - end, abs=0.05 * rate_hz)
    after, _ = decode(io.BytesIO(content), 3, start_s=60, silent=silent)
    assert not len(after)


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"chained ogg"}))
def test_the_length_of_the_whole_is_known(form):
    facts = Facts()
    decode(io.BytesIO(FORMS[form]()), 1, facts=facts)
    assert facts.length_s == pytest.approx(6, abs=0.2)


PLAIN = {
    "VBR": mp3,
    "CBR": lambda: encoded(melody(8), "mp3", "libmp3lame", b="64000"),
    "CBR without a header": lambda: encoded(
        melody(8), "mp3", "libmp3lame", muxer={"write_xing": "0", "id3v2_version": "0"}, b="64000"
    ),
    "48 kHz": lambda: encoded(melody(8, 48_000), "mp3", "libmp3lame", 48_000, **VBR),
    "behind a tag": lambda: id3(300) + bytes(300) + mp3(),
    "before a tag": lambda: mp3() + b"TAG" + bytes(125),
    "MP3 with two tags": FULL["MP3 with two tags"][0],
}
MP3 = (
    PLAIN
    | {"says more": lambda: info_says(100_000)}
    | {kind: make for kind, (make, _) in FULL.items() if "MP3" in kind or kind.startswith("the")}
)


@pytest.mark.parametrize("kind", MP3)
@pytest.mark.parametrize("duration_s", [3, 60])
def test_mp3s_are_the_same_in_silent_processes(kind, duration_s):
    content = MP3[kind]()
    loud, silent = Facts(), Facts()
    expected, rate_hz = decode(io.BytesIO(content), duration_s, facts=loud)
    found, same_rate_hz = decode(io.BytesIO(content), duration_s, facts=silent, silent=True)
    assert (same_rate_hz, len(found)) == (rate_hz, len(expected))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert silent.partial == loud.partial
    if duration_s == 60:  # the oddity of some is after 3 s
        assert silent.decoder == ("libsndfile" if kind in PLAIN else "FFmpeg")
    assert loud.decoder == "FFmpeg"
    assert rate_hz == (48_000 if kind == "48 kHz" else RATE_HZ)
