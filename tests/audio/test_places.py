"""The search for recordings: every kind of file in a folder is found, or counted."""

import gzip
import io
import os
import shutil
import socket
import tarfile

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from relabel_jax.audio.decode import decode
from relabel_jax.audio.places import (
    EXTENSIONS,
    Search,
    audio_places,
    path_of_text,
    path_text,
)
from relabel_jax.errors import InputError, Rejected


def sound(file_format="WAV"):
    file = io.BytesIO()
    soundfile.write(file, np.full(800, 0.25), 8_000, format=file_format)
    return file.getvalue()


def found(folder, **how):
    search = Search(**how)
    return [os.path.relpath(path, folder) for path in search.in_folder(folder)], search


@pytest.mark.parametrize(
    "name",
    ["a.xyz", "a", ".hidden", "a.WAV.part", "a.b c", "é", "a.txt", "sub/a.dat", "x.wav/a.bin"],
)
@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "AU", "W64", "VOC", "AIFF", "NIST"])
def test_a_recording_under_any_name(tmp_path, name, file_format):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(sound(file_format))
    assert found(tmp_path)[0] == [name]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_damaged_recording_with_a_usual_extension_is_found(tmp_path, extension):
    """So that it is rejected with a reason."""
    (tmp_path / f"a{extension.upper()}").touch()
    assert found(tmp_path)[0] == [f"a{extension.upper()}"]


def test_what_is_no_recording_is_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the paths of sockets must be short
    texts = ["1.txt", "2.TXT", "a.wav.txt", "3.json", "README", ".DS_Store", "empty", "x.a b c"]
    for name in texts:
        (tmp_path / name).write_text("text")
    (tmp_path / "._a.wav").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s.wav")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "a.wav").touch()
    names, search = found(tmp_path)
    assert names == ["a.wav"]
    assert search.kinds == {
        ".txt": 3,
        "no extension": 3,
        "pipes or devices": 2,
        "broken links": 2,
        ".json": 1,
        "odd extensions": 1,
        "._ files of macOS": 1,
    }
    (line,) = search.lines()
    assert line == (
        "13 files are not recordings (no extension 3, .txt 3, broken links 2, pipes or devices 2, "
        "._ files of macOS 1, .json 1, others 1)"
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").touch()
    assert found(tmp_path / "b")[1].lines() == ["1 file is not a recording (.txt 1)"]


def test_links_to_recordings(tmp_path):
    (tmp_path / "elsewhere").write_bytes(sound())
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.wav").symlink_to(tmp_path / "nowhere")
    assert found(folder)[0] == ["a", "gone.wav"]
    with pytest.raises(Rejected, match="No such file"):
        decode(os.fspath(folder / "gone.wav"))


def test_archives_are_named(tmp_path):
    (tmp_path / "sub").mkdir()
    for name, mode in (("a.tgz", "w:gz"), ("b.tar.xz", "w:xz"), ("c.tar.bz2", "w:bz2"), ("d", "w")):
        with tarfile.open(tmp_path / "sub" / name, mode) as tar:
            tar.addfile(tarfile.TarInfo("x"))
    (tmp_path / "a.wav.gz").write_bytes(gzip.compress(sound()))
    (tmp_path / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(20))
    shutil.make_archive(os.fspath(tmp_path / "y"), "zip", tmp_path / "sub")
    names, search = found(tmp_path, packed=(".zip",))
    assert names == ["y.zip"]
    assert search.lines() == [
        f"6 archives or compressed files are not searched, the first: {tmp_path}/a.wav.gz; "
        "unpack them if there are recordings inside"
    ]
    assert len(found(tmp_path)[1].archives) == 7


def test_a_pipe_does_not_hang_the_decoder(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(Rejected, match="not a regular file"):
        decode(os.fspath(tmp_path / "pipe.wav"))


def test_a_video_without_sound_is_rejected(tmp_path):
    path = os.fspath(tmp_path / "silent.mp4")
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    assert found(tmp_path)[0] == ["silent.mp4"]
    with pytest.raises(Rejected, match="no audio in it"):
        decode(path)


def test_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.wav", "a/2.wav", "a/notes.txt", "b,c/3.wav", "b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")

    def listed(audio):
        return list(Search().in_places(audio_places(audio)))

    assert listed("a/*.wav") == [(0, "a/1.wav"), (1, "a/2.wav")]
    assert listed("a/*") == [(0, "a/1.wav"), (1, "a/2.wav")]
    assert listed("b,c") == [(0, "b,c/3.wav")]
    assert listed("b.txt") == [(0, "b.txt")]  # the user named it
    assert listed("a/1.wav,a") == [(0, "a/1.wav"), (1, "a/2.wav")]
    assert sorted(path for _, path in listed("**")) == ["a/1.wav", "a/2.wav", "b,c/3.wav"]
    with pytest.raises(InputError, match="an empty name"):
        audio_places("a,,b.txt")
    with pytest.raises(InputError, match=r"x\*: cannot list the recordings: No such file"):
        listed("x*")


@given(st.lists(st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name)))
def test_different_names_have_different_texts(names):
    names += [b"a\xff", rb"a\xff", rb"a\x5cxff", "é".encode(), b"\xed\xa0\x80"]
    for name in names:
        path = os.fsdecode(name)
        path_text(path).encode()
        assert path_of_text(path_text(path)) == path
    assert path_text(os.fsdecode(b"a\xff")) == r"a\xff"
    assert path_text("plain é\\n.wav") == "plain é\\n.wav"
