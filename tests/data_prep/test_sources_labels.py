"""Labels in files that hold many recordings."""

import pathlib
import re
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import build_here
from packed import KINDS, MIDS, PackedInputs, add, reasons, records, refused, reject_rows

from data_prep.source_labels import label_by_source
from relabel_jax.labels.ontology import Ontology


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    inputs = PackedInputs(tmp_path_factory.mktemp("inputs") / "in")
    for kind in KINDS:
        inputs.write(kind)
    return inputs


def test_labels_that_are_numbers_need_their_meaning(inputs, tmp_path, capfd):
    arguments = inputs.arguments(inputs.folder / "clips.h5", with_segments=False)
    del arguments["class_indices"]
    error = refused(arguments, tmp_path / "set", capfd)
    assert "its labels are class numbers" in error
    assert "--class_indices=class_labels_indices.csv" in error
    for text, message in (
        ("index,mid\n0,/m/dog\n2,/m/cat\n", "no index '1'"),
        ("mid\n/m/dog\n", "no column 'index'"),
    ):
        (tmp_path / "indices.csv").write_text(text)
        arguments["class_indices"] = tmp_path / "indices.csv"
        assert message in refused(arguments, tmp_path / "set", capfd)


def test_sources_without_labels(inputs, tmp_path, capfd):
    arguments = inputs.arguments(inputs.audio, with_segments=False)
    error = refused(arguments, tmp_path / "set", capfd)
    assert "no labelled recordings; give --segments=CSV" in error
    arguments |= {"paths": inputs.folder / "paths.csv"}
    assert "--paths needs --segments" in refused(arguments, tmp_path / "set", capfd)


def test_bad_labels_are_left_out(tmp_path):
    inputs = PackedInputs(tmp_path, 1)
    flac = inputs.flac(inputs.ids[0])
    labels = {
        "good.json": b'{"labels": ["Dog"]}',
        "bom.json": b'\xef\xbb\xbf["/m/dog"]',
        "name.cls": b" Music, all kinds\n",
        "mids.cls": b"/m/dog ; /m/cat",
        "other.json": b'{"text": "a dog"}',
        "number.json": b"[99]",
        "true.json": b"[true]",
        "unknown.json": b'["/m/unheard"]',
        "broken.json": b'{"labels": [',
        "text.cls": b"\xff",
        "nested.json": b'{"labels": [["/m/dog"]]}',
        "null.json": b'{"labels": null}',
        "deep.json": b"[" * 100_000,
        "long.json": b" " * (1 << 20) + b'["/m/dog"]',
        "near.json": b'["Dogs"]',
        "negative.json": b"[-1]",
        "empty.json": b"",
        "digits.json": b"[" + b"9" * 5_000 + b"]",
        "digits2.cls": b"9" * 5_000,
    }
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in labels.items():
            add(tar, name, content)  # before the recording
            add(tar, f"{name.partition('.')[0]}.flac", flac)
        add(tar, "none.flac", flac)
    arguments = inputs.arguments(tmp_path / "x.tar", with_segments=False)
    build_here(**arguments, output_dir=tmp_path / "set")
    assert {
        clip_id: {MIDS[n] for n in np.flatnonzero(record["ol"])}
        for clip_id, record in records(tmp_path / "set").items()
    } == {
        "good": {"/m/dog"},
        "bom": {"/m/dog"},
        "name": {"/m/music"},
        "mids": {"/m/dog", "/m/cat"},
    }
    expected = dict.fromkeys(
        (name.partition(".")[0] for name in list(labels)[4:]), "bad_labels"
    ) | {"other": "no_labels", "none": "no_labels"}
    assert reasons(tmp_path / "set") == expected
    details = {row["clip_id"]: row["detail"] for row in reject_rows(tmp_path / "set")}
    assert "no class number 99 of 5" in details["number"]
    assert "did you mean 'Dog'?" in details["near"]
    assert f"{tmp_path}/x.tar:" in details["unknown"]


def test_of_clips_with_one_id_the_first_is_taken(tmp_path, capfd):
    inputs = PackedInputs(tmp_path, 10)
    inputs.write("parquet", inputs.ids[:6], "a")
    inputs.labels = {clip_id: ["/m/music"] for clip_id in inputs.ids}
    inputs.write("parquet", inputs.ids[4:], "b")
    ontology = Ontology.from_json(inputs.ontology)
    segments, recordings = label_by_source(f"{tmp_path}/?.parquet", ontology, None, 10)
    assert segments.clip_ids.to_pylist() == inputs.ids
    assert [pathlib.Path(each.path).stem for each in recordings] == ["a"] * 6 + ["b"] * 4
    assert segments.labels.to_pylist()[6:] == [[4]] * 4
    assert "2 recordings have the id of an earlier one" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([5] * 12, r"target has the shape \(12,\); expected \[clips, classes\]"),
        (np.ones((11, 5), bool), "a row for each of the 12 of audio_name"),
        (np.ones((12, 4), bool), "has labels of 4 classes, but --class_indices has 5"),
    ],
)
def test_targets_of_another_label_set(tmp_path, capfd, target, message):
    inputs = PackedInputs(tmp_path, 12)
    path = inputs.write("h5")
    with h5py.File(path, "r+") as file:
        del file["target"]
        file["target"] = target
    assert re.search(
        message, refused(inputs.arguments(path, with_segments=False), tmp_path / "set", capfd)
    )
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "unused")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video_id": [0.5, 1.5]}, "video_id is double; expected strings"),
        ({"labels": [1, 2]}, "labels is int64; expected lists of mids"),
        ({"labels": [[["/m/dog"]], []]}, "labels is list<.*list<.*; expected lists"),
        ({"labels": [[0.5], [1.0]]}, "with 1 values, but --class_indices has 5 classes"),
        ({"audio": ["a.wav", "b.wav"]}, r"no column audio.bytes \(audio is string\)"),
        ({"audio": [{"bytes": "a"}, {"bytes": "b"}]}, r"no column audio.bytes \(audio is struct"),
    ],
)
def test_parquet_columns_of_another_type(tmp_path, capfd, columns, message):
    inputs = PackedInputs(tmp_path, 2)
    path = inputs.write("parquet")
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    error = refused(inputs.arguments(path, with_segments=False), tmp_path / "set", capfd)
    assert f"{path}: " in error
    assert re.search(message, error)


def test_parquet_values_that_are_damaged(tmp_path, capfd):
    """A label that is null, and a name that is not UTF-8, which ends the file."""
    inputs = PackedInputs(tmp_path, 14)
    path = inputs.write("parquet")
    table = pq.read_table(path)
    labels = table["labels"].to_pylist()
    labels[3] = [labels[3][0], None]
    labels = pa.array(labels, pa.list_(pa.string()))
    table = table.set_column(table.column_names.index("labels"), "labels", labels)
    pq.write_table(table, path, row_group_size=7, compression="none", use_dictionary=False)
    content = path.read_bytes()
    name = inputs.ids[9].encode()
    path.write_bytes(content.replace(name, b"\xff" + name[1:]))
    build_here(**inputs.arguments(path, with_segments=False), output_dir=tmp_path / "set")
    assert sorted(records(tmp_path / "set")) == sorted({*inputs.ids[:7]} - {inputs.ids[3]})
    assert reasons(tmp_path / "set") == {inputs.ids[3]: "bad_labels", "": "unreadable"}
    assert f"warning: {path}: row group 1: " in capfd.readouterr().err
