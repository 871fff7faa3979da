"""Files that hold many recordings and are damaged, of another form, or refused."""

import os
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import build_here
from packed import KINDS, PackedInputs, add, reasons, records, refused, reject_rows


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    inputs = PackedInputs(tmp_path_factory.mktemp("inputs") / "in")
    for kind in KINDS:
        inputs.write(kind)
    return inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file(tmp_path, capfd, kind):
    """One line; the clips of it that can still be found are read, the others are listed."""
    inputs = PackedInputs(tmp_path)
    inputs.write(kind, inputs.ids[:10], "a")
    broken = inputs.write(kind, inputs.ids[10:], "b")
    size = broken.stat().st_size
    os.truncate(broken, size * 2 // 3)
    audio = f"{tmp_path}/?.{kind}"
    build_here(**inputs.arguments(audio, with_segments=True), output_dir=tmp_path / "x")
    found, missing = records(tmp_path / "x"), reasons(tmp_path / "x")
    assert sorted([*found, *missing]) == sorted(inputs.ids)
    assert set(inputs.ids[:10]) <= set(found)
    for clip_id, record in found.items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected(kind, clip_id))
    assert set(missing.values()) <= {"no_file", "unreadable"}
    if kind == "tar":
        assert 25 < len(found) < 40
        assert list(missing.values()).count("unreadable") <= 1  # the one that is cut in two
    else:
        assert len(missing) == 30
    warnings = [w for w in capfd.readouterr().err.splitlines() if w.startswith("warning: ")]
    assert str(broken) in warnings[0]
    assert len(warnings) == (1 if kind == "tar" else 2)  # the second, because half are lost
    assert all("the most common reason is no_file (30)" in warning for warning in warnings[1:])
    details = [row["detail"] for row in reject_rows(tmp_path / "x") if row["reason"] == "no_file"]
    assert all(str(broken) in detail for detail in details)

    build_here(**inputs.arguments(audio, with_segments=False), output_dir=tmp_path / "y")
    warnings = [w for w in capfd.readouterr().err.splitlines() if w.startswith("warning: ")]
    assert len(warnings) == 1
    assert str(broken) in warnings[0]
    assert sorted(records(tmp_path / "y")) == sorted(found)
    of_broken = [row for row in reject_rows(tmp_path / "y") if str(broken) in row["detail"]]
    assert of_broken[-1]["clip_id"] == ""

    # nothing else: one line, and nothing is begun
    arguments = inputs.arguments(broken, with_segments=True)
    inputs.segments.write_text(f'{inputs.ids[39]}, 0, 10, "/m/dog"\n')
    assert str(broken) in refused(arguments, tmp_path / "z", capfd)
    assert not (tmp_path / "z" / ".build" / "plan.arrow").exists()


def test_many_damaged_files(tmp_path):
    """Beside each missing clip stands the first of them, not all."""
    inputs = PackedInputs(tmp_path, 4)
    for n in range(50):
        (tmp_path / f"x{n:02}.parquet").write_bytes(b"PAR1 and no more")
    inputs.write("tar", inputs.ids[:1])
    audio = f"{tmp_path}/clips.tar,{tmp_path}/x*.parquet"
    build_here(**inputs.arguments(audio, with_segments=True), output_dir=tmp_path / "set")
    for row in reject_rows(tmp_path / "set"):
        assert "50 damaged files, the first: " in row["detail"]
        assert row["detail"].count(".parquet") == 2  # of --audio, and the first


@pytest.mark.parametrize("audio", ["", "AUDIO,"])
def test_an_empty_name_is_not_the_current_folder(tmp_path, capfd, audio):
    inputs = PackedInputs(tmp_path, 2)
    arguments = inputs.arguments(audio.replace("AUDIO", str(inputs.audio)), with_segments=True)
    assert "an empty name; expected folders or files" in refused(arguments, tmp_path / "s", capfd)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"no audio at all " * 999, bytes(10_240)])
def test_a_file_that_is_something_else(tmp_path, capfd, kind, content):
    inputs = PackedInputs(tmp_path, 4)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(content)
    error = refused(inputs.arguments(path, with_segments=True), tmp_path / "set", capfd)
    assert "no recording of any of the 4 clips" in error
    refused(inputs.arguments(path, with_segments=False), tmp_path / "set", capfd)


@pytest.mark.parametrize("kind", ["parquet", "h5"])
def test_a_file_of_another_form(tmp_path, capfd, kind):
    inputs = PackedInputs(tmp_path, 4)
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"video_id": ["a"], "sound": [b"b"]}), path)
    else:
        with h5py.File(path, "w") as file:
            file["audio_name"] = ["a"]
            file["target"] = np.zeros((1, 5), bool)
    error = refused(inputs.arguments(path, with_segments=True), tmp_path / "set", capfd)
    assert f"{path}: " in error
    assert "expected" in error


def test_damage_within_a_parquet_file(tmp_path):
    """Only the clips of the damaged row group are lost."""
    inputs = PackedInputs(tmp_path, 20)
    path = inputs.write("parquet")
    place = pq.ParquetFile(path).metadata.row_group(1).column(1)
    assert place.path_in_schema == "audio.bytes"
    content = bytearray(path.read_bytes())
    for start in (place.dictionary_page_offset, place.data_page_offset):
        content[start : start + 10] = bytes(10)
    path.write_bytes(content)
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "set")
    lost = reasons(tmp_path / "set")
    assert lost == dict.fromkeys(inputs.ids[7:14], "unreadable")
    for clip_id, record in records(tmp_path / "set").items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected("parquet", clip_id))


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_that_are_damaged_inside(tmp_path, kind):
    inputs = PackedInputs(tmp_path, 12)
    good = inputs.flac
    bad = {
        inputs.ids[1]: b"",
        inputs.ids[2]: b"no audio" * 99,
        inputs.ids[3]: good(inputs.ids[3])[:3_000],
    }
    inputs.flac = lambda clip_id: bad.get(clip_id, good(clip_id))
    path = inputs.write(kind)
    expected = {inputs.ids[1]: "empty", inputs.ids[2]: "unreadable", inputs.ids[3]: "unreadable"}
    if kind == "h5":
        with h5py.File(path, "r+") as file:
            waveforms = file["waveform"][:].astype(np.float32)
            waveforms[5, 7] = np.nan
            del file["waveform"]
            file["waveform"] = waveforms / 32_768
        expected = {inputs.ids[5]: "not_finite"}
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == expected
    for row in reject_rows(tmp_path / "set"):
        assert row["source"].startswith(f"{path}:")
        assert row["clip_id"] in row["source"]


def test_an_extra_that_is_not_installed(inputs, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    arguments = inputs.arguments(inputs.folder / "clips.h5", with_segments=True)
    error = refused(arguments, tmp_path / "set", capfd)
    assert "clips.h5: needs h5py: pip install '.[sources]'" in error


def test_a_compressed_tar_and_other_files_are_refused(inputs, tmp_path, capfd):
    for name in ("x.tar.gz", "x.wav", "x.7z"):
        (tmp_path / name).touch()
        arguments = inputs.arguments(tmp_path / name, with_segments=True)
        error = refused(arguments, tmp_path / "set", capfd)
        assert f"{name}: cannot list the recordings: not a folder, nor a file with many" in error
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        add(tar, "a.flac", inputs.flac(inputs.ids[0]))
    arguments = inputs.arguments(tmp_path / "x.tar", with_segments=True)
    assert "damaged after 0 recordings" in refused(arguments, tmp_path / "set", capfd)


def test_other_sources_are_refused(inputs, tmp_path, capfd):
    arguments = inputs.arguments(inputs.folder / "clips.tar", with_segments=True)
    build_here(**arguments, output_dir=tmp_path / "set")
    arguments["audio"] = f"{inputs.folder}/clips.tar,{inputs.folder}/clips.h5"
    assert "was begun with another --audio;" in refused(arguments, tmp_path / "set", capfd)


def test_a_table_that_lies_beside_recordings_is_left_out(inputs, tmp_path, capfd):
    path = inputs.write("parquet")
    table = path.with_name("embeddings.parquet")
    pq.write_table(pa.table({"path": ["a"], "embedding": [[0.5]]}), table)
    build_here(**inputs.arguments(path.parent, with_segments=True), output_dir=tmp_path / "set")
    assert f"{table}: left out, it has neither video_id nor audio" in capfd.readouterr().err
    assert records(tmp_path / "set").keys() == set(inputs.ids)
