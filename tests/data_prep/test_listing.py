"""Which files of a searched place are recordings of clips, and what is said about the others."""

import os
import tarfile

import numpy as np
import pyarrow as pa
import soundfile
from packed import add

from data_prep.recordings import find_by_name
from relabel_jax.errors import Rejected
from relabel_jax.labels.segments import Segments


def clips(*ids):
    return Segments(
        pa.array(ids),
        np.full(len(ids), 30.0),
        np.full(len(ids), 40.0),
        pa.array([[0]] * len(ids), pa.list_(pa.int16())),
    )


def write(path, file_format="WAV"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(800, 0.25), 8_000, format=file_format)


def names(candidates):
    return [os.path.basename(each.path) for each in candidates]


def test_recordings_with_odd_names_come_after_the_usual_ones(tmp_path):
    for name in ("x.xyz", "x.mp3", "x.au", "x", "title v. 2 [y]", "a.b"):
        write(tmp_path / name, "AU")
    found = find_by_name(clips("x", "y", "a.b"), tmp_path)
    assert list(map(names, found)) == [
        ["x.mp3", "x.au", "x", "x.xyz"],
        ["title v. 2 [y]"],
        ["a.b"],
    ]


def test_a_wildcard_finds_recordings(tmp_path):
    write(tmp_path / "x.wav")
    write(tmp_path / "y.mp3")
    write(tmp_path / "sub" / "z.wav")
    found = find_by_name(clips("x", "y", "z"), f"{tmp_path}/*.wav,{tmp_path}/s*")
    assert [isinstance(each, Rejected) for each in found] == [False, True, False]


def test_the_rest_is_said_in_one_line(tmp_path, capsys):
    write(tmp_path / "x.wav")
    for number in range(12):
        (tmp_path / f"{number}.{'jpg' if number % 3 else 'txt'}").write_text("no sound")
    find_by_name(clips("x"), tmp_path)
    line = f"{tmp_path}: 12 files are not recordings (.jpg 8, .txt 4)\n"
    assert capsys.readouterr().err == line


def test_one_key_in_two_archives_is_ambiguous(tmp_path):
    """Without ids, nobody knows which of the two is the clip."""
    write(tmp_path / "sound.flac", "FLAC")
    content = (tmp_path / "sound.flac").read_bytes()
    (tmp_path / "sound.flac").unlink()
    for archive, keys in (("a.tar", ["000017", "000018"]), ("b.tar", ["000017"])):
        with tarfile.open(tmp_path / archive, "w") as tar:
            for key in keys:
                add(tar, f"{key}.flac", content)
    both, one = find_by_name(clips("000017", "000018"), tmp_path)
    assert isinstance(both, Rejected)
    assert both.reason == "ambiguous"
    assert "a.tar" in both.detail
    assert "b.tar" in both.detail
    assert names(one) == ["a.tar"]
    write(tmp_path / "000017.wav")  # a recording of that name is no key
    both, _ = find_by_name(clips("000017", "000018"), tmp_path)
    assert names(both) == ["000017.wav"]
