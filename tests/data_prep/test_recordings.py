"""Finding the recording of each clip."""

import os
import pathlib
import re

import numpy as np
import pyarrow as pa
import pytest

from data_prep.recordings import find_by_list, find_by_name
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels import clip_names
from relabel_jax.labels.segments import Segments


def clips(*rows):
    """Segments of (clip id, start, end)."""
    ids, starts, ends = zip(*rows, strict=True)
    return Segments(
        pa.array(ids),
        np.array(starts, float),
        np.array(ends, float),
        pa.array([[0]] * len(ids), pa.list_(pa.int16())),
    )


def found(recordings, folder):
    """The path below the folder of the first recording, or the reason for the rejection."""
    return [
        each.reason if isinstance(each, Rejected) else os.path.relpath(str(each[0]), folder)
        for each in recordings
    ]


def by_name(folder, files, *rows):
    for file in files:
        path = pathlib.Path(folder, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return found(find_by_name(clips(*rows), folder), folder)


@pytest.mark.parametrize("clip_id", ["abc", "-0a_b", "_x", "--", "a_30", "Y_30_40", "é", "a.b"])
@pytest.mark.parametrize(
    "form",
    [
        "{}.wav",
        "Y{}.flac",
        "{}.OGG",
        "{}.Mp3",
        "a/b/{}.aiff",
        "{}_30.wav",
        "{}_30.000.wav",
        "{}_30000.wav",
        "{}_30_37.5.wav",
        "{}_30.0_37.5.wav",
        "{}_30.000_37.500.wav",
        "{}_30000_37500.wav",
        "{}_30_37.50.caf",
        "{}_30.0-37.5.wav",
        "{}_30_7.5.wav",
        "{}_000030.wav",
        "Y{}_30.000_37.500.wav",
        "Y{}_30.flac",
        "Some title (live) [{}].wav",
        "{}.webm.wav",
        "Y{}_30_37.5.3gp.flac",
        "Some title [{}].f251.opus",
    ],
)
def test_names(tmp_path, clip_id, form):
    file = form.format(clip_id)
    assert by_name(tmp_path, [file], (clip_id, 30, 37.5)) == [file]


@pytest.mark.parametrize(
    "file",
    [
        "abc_31.wav",
        "abc_30_41.wav",
        "abc_7.wav",
        "abc_300.wav",
        "abc_30_.wav",
        "abcd.wav",
        "abc.txt",
        "abc",
        "ABC.wav",
        "YYabc.wav",
        "abc.wav.txt",
        ".wav",
        "abc_030.wav",
        "abc_30-41.wav",
        "abc_30_11.wav",
        "abc_0000030.wav",
        "title-abc.wav",
        "title [abcd].wav",
        "[abc] title.wav",
    ],
)
def test_names_that_are_not_the_clips(tmp_path, file):
    assert by_name(tmp_path, [file], ("abc", 30, 40)) == ["no_file"]


def test_the_name_of_youtube_dl(tmp_path):
    file = "A title-_x-0123abcd.wav"
    assert by_name(tmp_path, [file], ("_x-0123abcd", 30, 40)) == [file]


def test_every_name_of_the_table_means_the_clip():
    """The table is in the docstring of the module."""
    rows = (clip_names.__doc__ or "").partition("|----")[2].splitlines()[1:]
    names = [
        name for row in rows if "|" in row for name in re.findall("`([^`]+)`", row.split("|")[1])
    ]
    assert len(names) >= 12
    clip_id = "-0Gj8_vB1q4"
    for name in names:
        found = clip_names.clips_of_name(
            name.replace("ID", clip_id), {clip_id: 7}.get, {7: (30.0, 40.0)}.__getitem__
        )
        assert list(found) == [7], name


def test_times_that_are_no_whole_seconds(tmp_path):
    assert by_name(tmp_path, ["a_7.wav"], ("a", 7.001, 17)) == ["no_file"]
    assert by_name(tmp_path, ["b_7.001.wav"], ("b", 7.001, 17)) == ["b_7.001.wav"]
    assert by_name(tmp_path, ["c_7001_17000.wav"], ("c", 7.001, 17)) == ["c_7001_17000.wav"]
    assert by_name(tmp_path, ["d_0.wav"], ("d", 0, 10)) == ["d_0.wav"]


def test_of_several_files_the_documented_one(tmp_path):
    preferred = ["1/x.wav", "2/x.WAV", "x.flac", "x.ogg", "x.mp3", "Yx.wav", "x_30_40.wav"]
    preferred.append("x_30.wav")
    for first in range(len(preferred)):
        folder = tmp_path / str(first)
        assert by_name(folder, preferred[first:][::-1], ("x", 30, 40)) == [preferred[first]]


def test_several_clips_of_one_video(tmp_path):
    rows = [("x_30000", 30, 40), ("x_70000", 70, 80)]
    files = ["x_30_40.wav", "Yx_70.0-80.0.wav"]
    assert by_name(tmp_path / "1", files, *rows) == files
    rows += [("x_90000_95000", 90, 95), ("x_90000_99000", 90, 99)]
    files += ["x_90_99.wav", "x_90.0-95.0.flac"]
    assert by_name(tmp_path / "3", files, *rows) == [*files[:2], files[3], files[2]]
    rows = rows[:2]
    assert by_name(tmp_path / "2", ["x_70000_80000.wav"], *rows) == ["no_file", "x_70000_80000.wav"]


def test_all_recordings_of_a_clip_in_the_documented_order(tmp_path):
    files = ["1/x.wav", "2/x.WAV", "x.flac", "Yx.mp3", "x_30_40.wav", "x_30.wav", "t [x].wav"]
    for file in reversed(files):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (candidates,) = find_by_name(clips(("x", 30, 40)), tmp_path)
    assert [os.path.relpath(each.path, tmp_path) for each in candidates] == files


def test_a_clips_own_name_is_no_other_clips(tmp_path):
    rows = [("abc", 0, 10), ("Yabc", 0, 10), ("a", 30, 40), ("a_30", 0, 10)]
    assert by_name(tmp_path / "1", ["Yabc.wav", "a_30.wav"], *rows) == [
        "no_file",
        "Yabc.wav",
        "no_file",
        "a_30.wav",
    ]
    assert by_name(tmp_path / "2", ["Yabc.wav", "YYabc.wav", "Ya.wav"], *rows) == [
        "no_file",
        "Yabc.wav",
        "Ya.wav",
        "no_file",
    ]


def test_a_file_that_fits_two_clips_is_neithers(tmp_path):
    rows = [("a", 30, 40), ("a_30", 40, 50), ("b", 0, 10)]
    files = ["a_30_40.wav", "b.wav"]
    assert by_name(tmp_path, files, *rows) == ["ambiguous", "ambiguous", "b.wav"]
    (tmp_path / "a.wav").touch()
    assert by_name(tmp_path, files, *rows) == ["a.wav", "a_30_40.wav", "b.wav"]


@pytest.mark.parametrize("clip_id", ["../secret", "a/../../secret", "/secret", "sub/x", ".."])
def test_an_id_is_never_a_path(tmp_path, clip_id):
    (tmp_path / "secret.wav").touch()
    clip_id = clip_id.replace("/secret", f"{tmp_path}/secret") if clip_id[0] == "/" else clip_id
    assert by_name(tmp_path / "audio", ["sub/x.wav"], (clip_id, 0, 10)) == ["no_file"]


def test_linked_folders_are_searched_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.wav").touch()
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "audio")
    assert by_name(tmp_path / "audio", [], ("x", 0, 10)) == ["link/x.wav"]


def test_a_folder_that_cannot_be_listed(tmp_path):
    with pytest.raises(InputError, match="nowhere: cannot list"):
        find_by_name(clips(("x", 0, 10)), tmp_path / "nowhere")
    (tmp_path / "x.wav").touch()
    with pytest.raises(InputError, match=r"x\.wav: cannot list"):
        find_by_name(clips(("x", 0, 10)), tmp_path / "x.wav")


def by_list(tmp_path, text, *rows, audio_dir="audio"):
    (tmp_path / "lists").mkdir(exist_ok=True)
    (tmp_path / "audio").mkdir(exist_ok=True)
    for file in ("audio/both.wav", "lists/both.wav", "lists/near.wav", "outside.wav"):
        (tmp_path / file).touch()
    (tmp_path / "lists" / "paths.csv").write_text(text)
    folder = None if audio_dir is None else tmp_path / audio_dir
    return found(find_by_list(clips(*rows), tmp_path / "lists" / "paths.csv", folder), tmp_path)


def test_list(tmp_path):
    text = (
        '\ufeffsource,path,clip_id\r\nx,both.wav,-a\r\n"x,y",near.wav,_b\r\n'
        "x,./q/../near.wav,c\r\nx,gone.wav,d\r\nx,near.wav,not in the segments\r\n"
    )
    rows = [(clip_id, 0, 10) for clip_id in ("-a", "_b", "c", "d", "e")]
    expected = ["audio/both.wav", "lists/near.wav", "lists/near.wav", "no_file", "no_file"]
    assert by_list(tmp_path, text, *rows) == expected
    expected[0] = "lists/both.wav"
    assert by_list(tmp_path, text, *rows, audio_dir=None) == expected


def test_list_never_leaves_its_folders(tmp_path):
    rows = [(clip_id, 0, 10) for clip_id in "abcd"]
    text = (
        f"clip_id,path\na,../outside.wav\nb,{tmp_path}/outside.wav\n"
        f"c,{tmp_path}/audio/both.wav\nd,../audio2/x.wav\n"
    )
    (tmp_path / "audio2").mkdir()
    (tmp_path / "audio2" / "x.wav").touch()
    expected = ["outside", "outside", "audio/both.wav", "outside"]
    assert by_list(tmp_path, text, *rows) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip_id,path\na,x.wav\nb,y.wav\na,z.wav\n", "1 clips occur more than once, .* 'a'"),
        ("a,x.wav\n", "no column 'clip_id' \\(found a, x.wav\\)"),
        ("clip_id,file\na,x.wav\n", "no column 'path'"),
        ("clip_id,path\na,x.wav,y,z\n", "cannot read it as a CSV"),
        ("", "cannot read it as a CSV"),
    ],
)
def test_lists_that_are_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=f"paths.csv: {message}") as caught:
        by_list(tmp_path, text, ("a", 0, 10))
    assert "\n" not in str(caught.value)
