"""Labels as values: vectors of 0 and 1, scores, and what is none of them."""

import json
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from building import plan_only
from packed import PackedInputs, add, check, listed, refused

from data_prep.sources.label_values import positive_labels
from relabel_jax.errors import InputError, Rejected


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return PackedInputs(tmp_path_factory.mktemp("inputs") / "in", 6)


def vectors(inputs) -> np.ndarray:
    return np.array([[m in inputs.labels[c] for m in inputs.class_mids] for c in inputs.ids])


def write(inputs, path, values) -> None:
    """A parquet file, a tar or an HDF5 file with these labels."""
    getattr(inputs, f"write_{path.suffix[1:]}")(path, inputs.ids)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        column = table.column_names.index("labels")
        pq.write_table(table.set_column(column, "labels", pa.array(list(values))), path)
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            del file["target"]
            file["target"] = values
    else:
        with tarfile.open(path, "w") as tar:
            for clip_id, each in zip(inputs.ids, values, strict=True):
                add(tar, f"{clip_id}.flac", inputs.flac(clip_id))
                add(tar, f"{clip_id}.json", json.dumps({"labels": each.tolist()}).encode())


@pytest.mark.parametrize("kind", ["parquet", "tar", "h5"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.float32])
def test_vectors(inputs, tmp_path, kind, dtype):
    write(inputs, tmp_path / f"x.{kind}", vectors(inputs).astype(dtype))
    found = listed(inputs, tmp_path)
    assert list(found) == inputs.ids
    for clip_id, (labels, _) in found.items():
        assert labels == set(inputs.labels[clip_id])
    if kind != "h5":
        check(inputs, found)


@pytest.mark.parametrize("kind", ["parquet", "tar", "h5"])
def test_scores_need_a_threshold(inputs, tmp_path, kind):
    rng = np.random.default_rng(0)
    scores = np.where(vectors(inputs), rng.uniform(0.6, 1, (6, 5)), rng.uniform(0.01, 0.5, (6, 5)))
    write(inputs, tmp_path / f"x.{kind}", scores)
    with pytest.raises(InputError, match=r"x\..*labels are scores .*--label_threshold=0.5"):
        listed(inputs, tmp_path)
    found = listed(inputs, tmp_path, label_threshold=0.6)
    assert {c: labels for c, (labels, _) in found.items()} == {
        c: set(labels) for c, labels in inputs.labels.items()
    }


def test_targets_that_are_no_numbers(inputs, tmp_path):
    values = vectors(inputs).astype(np.float32)
    values[2, 1] = np.nan
    write(inputs, tmp_path / "x.h5", values)
    assert list(listed(inputs, tmp_path)) == [*inputs.ids[:2], *inputs.ids[3:]]
    write(inputs, tmp_path / "y.h5", vectors(inputs).astype("S5"))
    with pytest.raises(InputError, match=r"target has the type \|S5; expected numbers"):
        listed(inputs, tmp_path / "y.h5")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1], [0, 1]),  # class numbers: too few for a vector
        ([1], [1]),
        ([0, 0], [0, 0]),
        ([0, 1, 0, 0, 1], [1, 4]),
        ([0, 0, 0, 0, 0], []),
        ([4, 2, 0], [4, 2, 0]),
        ([True, False, False, False, False], [0]),
        ([0.0, 1.0, 0.0, 0.0, 0.0], [1]),
        ({"Dog": 1, "Cat": 0}, ["Dog"]),
        ({"Dog": 0.7, "Cat": 0.4}, ["Dog"]),
        (["Dog", 3], ["Dog", 3]),
        (np.array([0, 0, 1, 0, 0], np.uint8), [2]),
        (np.array([0.4, 0.5, 0, 0, 0]), [1]),
    ],
)
def test_positive_labels(labels, expected):
    assert list(positive_labels(labels, 5, 0.5, "x")) == expected


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0], "3 values, but --class_indices has 5"),
        ([True], "1 values, but --class_indices has 5"),
        ([0.5, "Dog"], "names and values"),
        ([0, 1, 0, 0, float("nan")], "NaN"),
        (np.zeros((2, 5)), "2 values"),
    ],
)
def test_labels_that_are_rejected(labels, message):
    with pytest.raises(Rejected, match=message) as raised:
        positive_labels(labels, 5, 0.5, "x")
    assert raised.value.reason == "bad_labels"


def test_the_threshold_is_an_input_of_the_data_set(inputs, tmp_path, capfd):
    write(inputs, tmp_path / "x.h5", np.where(vectors(inputs), 0.9, 0.1))
    arguments = inputs.arguments(tmp_path / "x.h5", with_segments=False)
    assert "--label_threshold=0.5" in refused(arguments, tmp_path / "set", capfd)
    plan_only(arguments | {"label_threshold": 0.5}, tmp_path / "set")
    for other in ({}, {"label_threshold": 0.7}):
        error = refused(arguments | other, tmp_path / "set", capfd)
        assert "was begun with another --label_threshold;" in error


def test_votes_are_not_class_numbers():
    with pytest.raises(InputError, match=r"labels are scores \(2, for example\)"):
        positive_labels([0, 2, 0, 1, 0], 5, None, "x")
    assert positive_labels([0, 2, 0, 1, 0], 5, 2, "x") == [1]
