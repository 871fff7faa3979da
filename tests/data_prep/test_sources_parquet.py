"""The types of columns in Parquet files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packed import MIDS, NAMES, PackedInputs, check, listed

from data_prep.sources import EXTENSIONS, forms, open_source
from relabel_jax.errors import Rejected


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return PackedInputs(tmp_path_factory.mktemp("inputs") / "in", 6)


def write(inputs, path, **columns) -> None:
    """The inputs with other columns; a column that is None is left out."""
    content = {
        "video_id": inputs.ids,
        "audio": [{"bytes": inputs.flac(c), "path": c} for c in inputs.ids],
        "labels": [inputs.labels[c] for c in inputs.ids],
    } | columns
    table = pa.table({name: each for name, each in content.items() if each is not None})
    pq.write_table(table, path)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string_view(),
        pa.large_string(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.binary(9),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_types_of_ids_and_labels(inputs, tmp_path, kind):
    mids = [[mid.encode() for mid in inputs.labels[c]] for c in inputs.ids]
    if pa.types.is_fixed_size_binary(kind):
        labels = pa.array([[m.ljust(9, b"\0") for m in each] for each in mids], pa.list_(kind))
        ids = pa.array([c.encode().ljust(9, b"\0") for c in inputs.ids], kind)
    else:
        as_text = pa.types.is_dictionary(kind) or "string" in str(kind)
        ids = pa.array([c if as_text else c.encode() for c in inputs.ids], kind)
        labels = [[m.decode() if as_text else m for m in each] for each in mids]
        labels = pa.array(labels, pa.list_(kind))
    write(inputs, tmp_path / "x.parquet", video_id=ids, labels=labels)
    found = listed(inputs, tmp_path)
    assert list(found) == inputs.ids
    check(inputs, found)


def test_other_columns_of_labels(inputs, tmp_path):
    names = [[NAMES[MIDS.index(mid)] for mid in inputs.labels[c]] for c in inputs.ids]
    of_clips = [inputs.labels[c] for c in inputs.ids]
    numbers = [[inputs.class_mids.index(mid) for mid in each] for each in of_clips]
    first = [each[:1] * 2 for each in of_clips]
    columns = [
        {"labels": None, "human_labels": names},
        {"labels": None, "label": of_clips, "human_labels": [["a"]] * 6},
        {"labels": pa.array(of_clips, pa.large_list(pa.string()))},
        {"labels": [",".join(each) for each in of_clips]},
        {"labels": [[{"mid": m, "x": 1} for m in each] for each in of_clips]},
        {"labels": [{"name": each} for each in names]},
        {"labels": numbers},
    ]
    for n, each in enumerate(columns):
        write(inputs, tmp_path / f"{n}.parquet", **each)
        found = listed(inputs, tmp_path / f"{n}.parquet")
        assert list(found) == inputs.ids
        check(inputs, found)
    write(inputs, tmp_path / "x.parquet", labels=pa.array(first, pa.list_(pa.string(), 2)))
    found = listed(inputs, tmp_path / "x.parquet")
    assert [labels for labels, _ in found.values()] == [set(each) for each in first]


def test_ids_that_are_numbers_or_null(inputs, tmp_path):
    write(inputs, tmp_path / "x.parquet", video_id=[7, None, 0, -1, 12345678901, 5])
    entries = list(open_source(str(tmp_path / "x.parquet")).entries(False))
    assert [entry.clip_id for entry in entries] == ["7", "", "0", "-1", "12345678901", "5"]
    assert entries[1].recording.reason == "missing"
    source = open_source(str(tmp_path / "x.parquet"))
    mono, _ = source.read(entries[2].recording.member)
    np.testing.assert_array_equal(np.rint(mono * 32_768), inputs.samples[inputs.ids[2]])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_bytes_without_a_struct(inputs, tmp_path, kind):
    audio = pa.array([inputs.flac(c) for c in inputs.ids], kind)
    write(inputs, tmp_path / "x.parquet", audio=audio)
    found = listed(inputs, tmp_path)
    assert list(found) == inputs.ids
    check(inputs, found)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int16()], ids=str)
@pytest.mark.parametrize("is_struct", [True, False])
def test_arrays_of_samples(inputs, tmp_path, kind, is_struct):
    scale = 1 if kind == pa.int16() else 32_768
    arrays = [inputs.samples[c] if scale == 1 else inputs.samples[c] / scale for c in inputs.ids]
    if is_struct:
        fields = [("array", pa.list_(kind)), ("path", pa.string()), ("sampling_rate", pa.int64())]
        rows = [{"array": each, "path": "x", "sampling_rate": 32_000} for each in arrays]
        columns = {"audio": pa.array(rows, pa.struct(fields))}
    else:
        columns = {"audio": pa.array(arrays, pa.list_(kind)), "sampling_rate": [32_000] * 6}
    write(inputs, tmp_path / "x.parquet", **columns)
    found = listed(inputs, tmp_path)
    assert list(found) == inputs.ids
    check(inputs, found)


def test_arrays_that_cannot_be_used(inputs, tmp_path):
    rows = [
        {"array": [9_000.0], "sampling_rate": 8_000},
        {"array": [0.5, None], "sampling_rate": 8_000},
        {"array": [0.5], "sampling_rate": None},
        {"array": None, "sampling_rate": 8_000},
        None,
        {"array": [0.5], "sampling_rate": 8_000},
    ]
    write(inputs, tmp_path / "x.parquet", audio=rows)
    source = open_source(str(tmp_path / "x.parquet"))
    reasons = []
    for entry in source.entries(False):
        try:
            source.read(entry.recording.member)
            reasons.append("")
        except Rejected as error:
            reasons.append(error.reason)
    assert reasons == ["scale", "not_finite", "unreadable", "empty", "empty", ""]


def test_every_extension_has_a_form():
    listed_extensions = {each for form in forms() for each in form.files.split(", ")}
    assert listed_extensions == {f"*{extension}" for extension in EXTENSIONS}
    assert len({form.holds for form in forms()}) == len(forms())
