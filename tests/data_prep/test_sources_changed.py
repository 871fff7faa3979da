"""Recordings that change or go away after the plan was made."""

import shutil

import numpy as np
import pytest
from building import build_here, plan_only
from packed import KINDS, PackedInputs, reasons, records

from relabel_jax.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_after_the_plan_is_never_read_wrongly(tmp_path, kind):
    inputs = PackedInputs(tmp_path, 12)
    path = inputs.write(kind)
    arguments = inputs.arguments(path, with_segments=True)
    plan_only(arguments, tmp_path / "set")
    inputs.write(kind, [*inputs.ids[:4], *inputs.ids[5:8]])
    build_here(**arguments, output_dir=tmp_path / "set")
    found = records(tmp_path / "set")
    assert sorted(found) == sorted(inputs.ids[:4])
    for clip_id, record in found.items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected(kind, clip_id))
    assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[4:], "changed")


@pytest.mark.parametrize("is_named", [True, False])
def test_a_file_that_is_gone_after_the_plan(tmp_path, is_named):
    inputs = PackedInputs(tmp_path, 12)
    folder = tmp_path / "packed"
    folder.mkdir()
    for n, kind in enumerate((*KINDS, "parquet")):
        inputs.write(kind, [inputs.ids[n]], f"packed/k{n}")
        (inputs.audio / f"{inputs.ids[n]}.flac").unlink()
    paths = sorted(folder.iterdir())
    places = paths if is_named else [folder]
    arguments = inputs.arguments(",".join(map(str, [*places, inputs.audio])), with_segments=True)
    plan_only(arguments, tmp_path / "set")
    for path in paths[:3]:
        path.unlink()
    if is_named:  # like a missing folder: not a fault of its clips
        with pytest.raises(InputError, match=r"k0.*: the recordings were here when the build"):
            build_here(**arguments, output_dir=tmp_path / "set")
    else:
        build_here(**arguments, output_dir=tmp_path / "set")
        assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[:3], "unreadable")


def test_a_comma_in_the_name_of_the_folder(tmp_path):
    """The comma does not separate two folders, which would look like missing disks."""
    inputs = PackedInputs(tmp_path, 6)
    folder = inputs.audio.rename(tmp_path / "a, b")
    (folder / f"{inputs.ids[0]}.flac").write_bytes(b"no audio")
    arguments = inputs.arguments(folder, with_segments=True)
    plan_only(arguments, tmp_path / "set")
    (folder / f"{inputs.ids[1]}.flac").unlink()
    build_here(**arguments, output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[:2], "unreadable")


def test_a_recording_that_is_gone_with_its_folder(tmp_path):
    """Each recording is in a different folder, so no disk is missing."""
    inputs = PackedInputs(tmp_path, 6)
    for clip_id in inputs.ids:
        (inputs.audio / f"of {clip_id}").mkdir()
        name = f"{clip_id}.flac"
        (inputs.audio / name).rename(inputs.audio / f"of {clip_id}" / name)
    arguments = inputs.arguments(inputs.audio, with_segments=True)
    plan_only(arguments, tmp_path / "set")
    shutil.rmtree(inputs.audio / f"of {inputs.ids[0]}")
    (inputs.audio / f"of {inputs.ids[1]}" / f"{inputs.ids[1]}.flac").unlink()
    build_here(**arguments, output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[:2], "unreadable")


@pytest.mark.parametrize("is_emptied", [True, False])
def test_a_disk_that_is_gone_after_the_plan_of_a_list(tmp_path, is_emptied):
    """Without --audio there is no folder to check."""
    inputs = PackedInputs(tmp_path, 6)
    inputs.audio.rename(tmp_path / "disk")
    rows = [f"{clip_id},disk/{clip_id}.flac\n" for clip_id in inputs.ids]
    (tmp_path / "paths.csv").write_text("".join(["clip_id,path\n", *rows]))
    arguments = inputs.arguments(None, with_segments=True) | {"paths": tmp_path / "paths.csv"}
    plan_only(arguments, tmp_path / "set")
    (tmp_path / "disk").rename(tmp_path / "away")
    if is_emptied:  # where it was mounted
        (tmp_path / "disk").mkdir()
    with pytest.raises(InputError, match=r"/disk: the recordings were here when the build began"):
        build_here(**arguments, output_dir=tmp_path / "set")
    if is_emptied:
        (tmp_path / "disk").rmdir()
    (tmp_path / "away").rename(tmp_path / "disk")
    (tmp_path / "disk" / f"{inputs.ids[0]}.flac").unlink()  # that is one bad clip
    build_here(**arguments, output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == {inputs.ids[0]: "unreadable"}
