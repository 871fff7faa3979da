"""Opening a built data set: its contents, and the messages for a damaged one."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from relabel_jax import digests
from relabel_jax.data.data_set import INDEX_NAME, open_data_set
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.views import SPLITS

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture
def data(miniature_data, tmp_path) -> pathlib.Path:
    """A copy to damage, without digests as older versions wrote it, so other checks find it."""
    data = pathlib.Path(shutil.copytree(miniature_data, tmp_path / "data"))
    (data / digests.LIST_NAME).unlink()
    return data


@pytest.fixture(scope="module")
def records(miniature_data) -> list[dict]:
    """All records as TFDS reads them, in the order of the splits."""
    builder = tfds.builder_from_directory(miniature_data)
    return [record for split in SPLITS for record in builder.as_data_source(split)]


def test_it_is_what_tfds_reads(miniature_data, records):
    data_set = open_data_set(miniature_data)
    assert data_set.path == miniature_data
    assert len(records) == 96
    assert data_set.clip_ids.tolist() == [record["clip_id"].decode() for record in records]
    assert len(set(data_set.clip_ids)) == 96
    builder = tfds.builder_from_directory(miniature_data)
    sizes = [builder.info.splits[split].num_examples for split in SPLITS]
    assert data_set.clip_splits.dtype == np.int8
    assert data_set.clip_splits.tolist() == [s for s in range(3) for _ in range(sizes[s])]
    assert data_set.labels.dtype == bool
    assert data_set.labels.shape == (96, len(data_set.ontology))
    assert data_set.labels.any(axis=1).all()
    pel, masked = relabel(data_set.labels, data_set.ontology, "pe_cml")
    for name, expected in (("ol", data_set.labels), ("pel", pel), ("masked", masked)):
        np.testing.assert_array_equal([record[name] for record in records], expected)


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(96),
        np.random.default_rng(0).permutation(96),
        np.array([95, 0, 95, 40, 0]),
        np.array([81]),
    ],
    ids=["all", "shuffled", "twice", "one"],
)
def test_waveforms_in_any_order(miniature_data, records, rows):
    waveforms = open_data_set(miniature_data).read_waveforms(rows)
    assert waveforms.dtype == np.int16
    assert waveforms.shape == (len(rows), 80_000)
    for row, waveform in zip(rows, waveforms, strict=True):
        np.testing.assert_array_equal(waveform, records[row]["waveform"])
        assert waveform.any()


def test_fingerprint_is_of_the_contents(miniature_data, data):
    before = open_data_set(miniature_data).fingerprint
    assert open_data_set(data).fingerprint == before
    index = pq.read_table(data / INDEX_NAME)
    seen = {before}
    for name, column in (
        ("clip_id", pa.array([f"x{i}" for i in range(96)])),
        ("split", pa.array(["train"] * 96)),
        ("ol", pa.array([[0]] * 96, index["ol"].type)),
    ):
        changed = index.set_column(index.column_names.index(name), name, column)
        pq.write_table(changed, data / INDEX_NAME)
        seen.add(open_data_set(data).fingerprint)
    pq.write_table(index, data / INDEX_NAME)
    ontology = (data / "ontology.json").read_text()
    (data / "ontology.json").write_text(ontology.replace("Speech", "Talking"))
    seen.add(open_data_set(data).fingerprint)
    assert len(seen) == 5


def one_line(data: pathlib.Path) -> str:
    """The error message of opening, one line that names the folder."""
    with pytest.raises(InputError) as raised:
        open_data_set(data)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert str(data) in message
    return message


def edit_index(data: pathlib.Path, name: str, change) -> None:
    """Changes one column of the index, given and returned as a list."""
    index = pq.read_table(data / INDEX_NAME)
    values = change(index[name].to_pylist())
    kind = index[name].type
    column = pa.array(values, kind)
    pq.write_table(
        index.set_column(index.column_names.index(name), name, column), data / INDEX_NAME
    )


def test_an_absent_folder(tmp_path):
    assert "not a finished data set" in one_line(tmp_path / "nowhere")


def test_an_unfinished_build(data):
    (data / INDEX_NAME).unlink()
    assert "it has no clips.parquet" in one_line(data)


def test_an_absent_ontology(data):
    (data / "ontology.json").unlink()
    assert "cannot read the ontology" in one_line(data)


@pytest.mark.parametrize("content", [b"", b"PAR1 not at all PAR1", None])
def test_a_damaged_index(data, content):
    whole = (data / INDEX_NAME).read_bytes()
    (data / INDEX_NAME).write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert "cannot read the clip index" in one_line(data)


@pytest.mark.parametrize("name", ["clip_id", "split", "ol"])
def test_an_index_without_a_column(data, name):
    pq.write_table(pq.read_table(data / INDEX_NAME).drop_columns([name]), data / INDEX_NAME)
    assert name in one_line(data)


@pytest.mark.parametrize("number", [-1, "number of classes", 30_000])
def test_a_class_number_outside_the_ontology(data, number):
    num_classes = len(open_data_set(data).ontology)
    number = num_classes if number == "number of classes" else number
    edit_index(data, "ol", lambda rows: [*rows[:5], [1, number], *rows[6:]])
    message = one_line(data)
    assert f"class number {number}" in message
    assert f"{num_classes} classes" in message


@pytest.mark.parametrize("split", ["dev", ""])
def test_an_unknown_split(data, split):
    edit_index(data, "split", lambda rows: [*rows[:5], split, *rows[6:]])
    assert repr(split) in one_line(data)


@pytest.mark.parametrize("name", ["clip_id", "split", "ol"])
def test_an_index_with_an_empty_place(data, name):
    edit_index(data, name, lambda rows: [*rows[:5], None, *rows[6:]])
    assert name in one_line(data)


def test_columns_of_another_type(data):
    index = pq.read_table(data / INDEX_NAME)
    at = index.column_names.index("ol")
    pq.write_table(index.set_column(at, "ol", pa.array(["a"] * 96)), data / INDEX_NAME)
    assert "ol" in one_line(data)


def shards(data: pathlib.Path) -> list[pathlib.Path]:
    return sorted(data.glob("*.array_record-*"))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train", "2 shards of the split train are there, expected 00003"),
        ("validation", "the shards hold 87 records but clips.parquet lists 96 clips"),
    ],
)
def test_a_missing_shard(data, split, message):
    next(shard for shard in shards(data) if f"-{split}." in shard.name).unlink()
    assert message in one_line(data)


def test_what_a_copying_program_left_is_no_shard(data):
    before = open_data_set(data).fingerprint
    for shard in shards(data)[:2]:
        shutil.copy(shard, shard.with_name(f".{shard.name}.x8Tq"))
        shutil.copy(shard, shard.with_name(f"{shard.name}.part"))
    assert open_data_set(data).fingerprint == before


def test_no_shard_at_all(data):
    for shard in shards(data):
        shard.unlink()
    assert "has an index but no shards" in one_line(data)


def test_a_count_that_does_not_fit(data):
    index = pq.read_table(data / INDEX_NAME)
    pq.write_table(index.slice(0, 95), data / INDEX_NAME)
    assert "the shards hold 96 records but clips.parquet lists 95 clips" in one_line(data)


@pytest.mark.parametrize("size", [0, 100, 2**16 + 7])
def test_a_shard_that_is_cut_off(data, size):
    os.truncate(shards(data)[-1], size)
    assert "build the data set again" in one_line(data)


def test_a_shard_that_is_overwritten(data):
    """The end of the shard, with its index, is intact: opening works, reading raises the error."""
    rows = np.flatnonzero(open_data_set(data).clip_splits == 0)
    with open(shards(data)[1], "r+b") as file:
        file.seek(2**16)
        file.write(bytes(2**18))
    with pytest.raises(InputError, match="cannot read a record") as raised:
        open_data_set(data).read_waveforms(rows)
    assert len(str(raised.value).splitlines()) == 1
    assert str(data) in str(raised.value)


def test_many_shards_need_many_open_files(data):
    """In a separate process, because a hard limit cannot be raised again."""
    script = """
import pathlib, resource, sys
import numpy as np
from relabel_jax.data import data_set
from relabel_jax.errors import InputError
resource.setrlimit(resource.RLIMIT_NOFILE, (64, int(sys.argv[2])))
print(data_set.open_data_set(sys.argv[1]).read_waveforms(np.array([0, 95])).shape)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
try:
    data_set._allow_open_files(pathlib.Path("D"), 1500)
except InputError as error:
    print(error)
"""

    def answer(hard):
        command = [sys.executable, "-c", script, str(data), str(hard)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    num_shards = len(shards(data))
    assert answer(2048) == ["(2, 80000)", f"{num_shards + 512}"]
    *opened, refused = answer(128)
    assert opened == ["(2, 80000)", "128"]
    assert refused.startswith("D: has 1500 shards, which are all kept open, and this process may")
    assert "open 128 files; raise that limit (ulimit -Hn) to 2012, or" in refused
