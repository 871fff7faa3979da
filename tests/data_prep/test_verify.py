"""Damage is found, named, and repaired to the same bytes."""

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from building import contents, make_inputs

from data_prep.build import build
from data_prep.verify import main, verify
from relabel_jax.data.schema import record_features

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), 60)


@pytest.fixture(scope="module")
def good(arguments, tmp_path_factory):
    (arguments["audio"] / "-clip000.flac").write_bytes(b"")  # one row in rejects.csv
    data_dir = tmp_path_factory.mktemp("data") / "set"
    build(**arguments, output_dir=data_dir, num_workers=1)
    return data_dir


@pytest.fixture
def data_dir(good, tmp_path):
    """A copy to damage."""
    shutil.copytree(good, tmp_path / "set")
    return tmp_path / "set"


def train(data_dir, number):
    (path,) = data_dir.glob(f"*-train.array_record-{number:05d}-of-*")
    return path


def rewrite(path, change, num_samples=80_000):
    """Rewrites the shard with well-formed records of other contents."""
    features = record_features(8, 80_000)
    serialized = ArrayRecordReader(os.fspath(path)).read_all()
    records = [features.deserialize_example_np(each) for each in serialized]
    change(records)
    waveform = tfds.features.Tensor(shape=(num_samples,), dtype=np.int16, encoding="bytes")
    features = tfds.features.FeaturesDict(dict(features) | {"waveform": waveform})
    writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
    for record in records:
        record["waveform"] = record["waveform"][:num_samples]
        writer.write(features.serialize_example(record))
    writer.close()


def test_nothing_is_wrong(good, capfd):
    before = {path: path.stat().st_mtime_ns for path in good.rglob("*")}
    assert main([f"--data_dir={good}", "--num_workers=1"]) == 0
    output = capfd.readouterr()
    assert output.out == ""
    assert "all 59 clips are as they should be" in output.err
    assert main([f"--data_dir={good}", "--repair"]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in good.rglob("*")}


def test_damaged_shards_are_named_and_built_again(good, data_dir, capfd):
    index = pq.read_table(data_dir / "clips.parquet").to_pylist()
    lengths = json.loads((good / "dataset_info.json").read_text())["splits"][0]["shardLengths"]
    first = np.concatenate([[0], np.cumsum([int(length) for length in lengths])])

    def id_of(shard, position):
        return index[first[shard] + position]["clip_id"]

    train(data_dir, 0).unlink()
    train(data_dir, 1).write_bytes(b"")
    path = train(data_dir, 2)
    path.write_bytes(path.read_bytes()[:-1_000])
    path = train(data_dir, 3)
    damaged = bytearray(path.read_bytes())
    damaged[12_000] ^= 4  # one bit; a record of half a second of noise has some 7,500 bytes
    path.write_bytes(damaged)

    def labels(records):
        records[2]["ol"] = ~records[2]["ol"]
        records[3]["pel"] = np.zeros(8, bool)
        records[4]["masked"] = ~records[4]["masked"]

    rewrite(train(data_dir, 4), labels)
    rewrite(train(data_dir, 5), lambda records: records.insert(0, records.pop(1)))
    rewrite(train(data_dir, 6), lambda records: records.pop())
    rewrite(train(data_dir, 7), lambda records: None, num_samples=79_999)
    (data_dir / "relabel_audioset-train.array_record-00099-of-00100").touch()

    assert main([f"--data_dir={data_dir}"]) == 1
    output = capfd.readouterr()
    found = sorted(line.partition(".array_record-")[2] for line in output.out.splitlines())
    count = f"of-{len(lengths):05d}"
    expected = [
        f"00000-{count}: is missing",
        f"00001-{count}: 0 records, but dataset_info.json says {lengths[1]}",
        f"00002-{count}: 0 records, but dataset_info.json says {lengths[2]}",
        f"00003-{count}: record 1 ({id_of(3, 1)}): cannot be read: ",
        f"00004-{count}: record 2 ({id_of(4, 2)}): ol are not what",
        f"00004-{count}: record 3 ({id_of(4, 3)}): pel are not what",
        f"00004-{count}: record 4 ({id_of(4, 4)}): masked are not what",
        f"00005-{count}: record 0: is {id_of(5, 1)}, but clips.parquet says {id_of(5, 0)}",
        f"00005-{count}: record 1: is {id_of(5, 0)}, but clips.parquet says {id_of(5, 1)}",
        f"00006-{count}: {int(lengths[6]) - 1} records, but dataset_info.json says {lengths[6]}",
        *(
            f"00007-{count}: record {n} ({id_of(7, n)}): cannot be read: cannot reshape array of "
            "size 79999 into shape (80000,)"
            for n in range(int(lengths[7]))
        ),
        "00099-of-00100: is not in dataset_info.json",
    ]
    assert len(found) == len(expected), output.out
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning), output.out
    assert f"{len(expected)} problems in 9 files" in output.err

    (data_dir / "relabel_audioset-train.array_record-00099-of-00100").unlink()
    untouched = {path: path.stat().st_mtime_ns for path in data_dir.glob("*-validation*")}
    assert main([f"--data_dir={data_dir}", "--repair"]) == 0
    assert "building 8 shards again" in capfd.readouterr().err
    assert contents(data_dir) == contents(good)
    assert untouched == {path: path.stat().st_mtime_ns for path in data_dir.glob("*-validation*")}


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("ontology.json", None, "ontology.json: "),
        ("ontology.json", "{", "ontology.json: "),
        ("features.json", "{}", "dataset_info.json: TFDS cannot read it, or features.json: "),
        ("dataset_info.json", None, "dataset_info.json: TFDS cannot read it"),
        ("clips.parquet", None, "clips.parquet: is missing: the build has not ended"),
        ("clips.parquet", "PAR1", "clips.parquet: cannot be read: "),
        ("rejects.csv", None, "rejects.csv: cannot be read: "),
        (
            "rejects.csv",
            "clip_id\n_clip001\n",
            "rejects.csv: 1 clips are in the index too",
        ),
    ],
)
def test_damaged_descriptions(data_dir, name, text, line):
    if text is None:
        (data_dir / name).unlink()
    else:
        (data_dir / name).write_text(text)
    problems = [str(problem) for problem in verify(data_dir, num_workers=1)]
    assert len(problems) == 1
    assert problems[0].startswith(line)


def test_an_index_that_does_not_fit(good, data_dir):
    index = pq.read_table(good / "clips.parquet")
    (data_dir / "sha256.json").unlink()  # as of an older version: other checks find the damage

    def problems(table):
        pq.write_table(table, data_dir / "clips.parquet")
        return "\n".join(map(str, verify(data_dir, num_workers=1)))

    def with_column(name, values):
        number = index.schema.get_field_index(name)
        return index.set_column(number, index.schema.field(name), pa.chunked_array([values]))

    ol = index["ol"].to_pylist()
    type_ = pa.list_(pa.int16())
    first, last = index["clip_id"][0].as_py(), index["clip_id"][-1].as_py()
    assert f"1 clips more than once, the first is {first}" in problems(
        pa.concat_tables([index.slice(0, 1), index])
    )
    assert "is not in the order train, validation, test" in problems(
        pa.concat_tables([index.slice(1), index.slice(0, 1)])
    )
    assert "not among the 8 classes" in problems(with_column("ol", pa.array([[8], *ol[1:]], type_)))
    assert "not in ascending order" in problems(
        with_column("ol", pa.array([[1, 0], *ol[1:]], type_))
    )
    assert "has the columns clip_id string, split" in problems(index.drop_columns(["ol"]))
    text = problems(index.slice(0, len(index) - 1))
    assert "test records, but clips.parquet has" in text
    other = with_column("ol", pa.array([*ol[:-1], [c for c in range(8) if c not in ol[-1]]], type_))
    (line,) = problems(other).splitlines()
    assert "-test.array_record-" in line
    assert f"({last}): ol" in line


def test_everything_but_the_plan_is_damaged(good, data_dir):
    """Index and metadata come first, because the shards need them."""
    for name in ("clips.parquet", "features.json", "ontology.json", "rejects.csv"):
        (data_dir / name).write_bytes(b"?")
    rewrite(train(data_dir, 0), lambda records: records.reverse())
    outcome = data_dir / ".build" / "train-00001.json"
    outcome.write_text(outcome.read_text()[:20])
    assert main([f"--data_dir={data_dir}", "--repair"]) == 0
    assert contents(data_dir) == contents(good)


def test_a_recording_that_is_gone_is_told(arguments, data_dir, capfd):
    index = pq.read_table(data_dir / "clips.parquet").to_pylist()
    clip_id = index[0]["clip_id"]
    (path,) = (path for path in arguments["audio"].iterdir() if clip_id in path.name)
    train(data_dir, 0).write_bytes(b"")
    path.rename(path.with_suffix(".away"))
    try:
        assert main([f"--data_dir={data_dir}", "--repair"]) == 1
        (line,) = capfd.readouterr().out.splitlines()
        assert line == f"rejects.csv: has 1 clips that were in the data set, the first is {clip_id}"
        assert verify(data_dir) == []
    finally:
        path.with_suffix(".away").rename(path)


def test_what_cannot_be_repaired(good, data_dir, tmp_path, capfd):
    assert main([f"--data_dir={tmp_path / 'nowhere'}"]) == 1
    assert "nowhere: no such folder" in capfd.readouterr().err
    shutil.rmtree(data_dir / ".build")
    assert verify(data_dir) == []
    train(data_dir, 0).unlink()
    assert main([f"--data_dir={data_dir}", "--repair"]) == 1
    assert "has no folder .build" in capfd.readouterr().err
    shutil.copytree(good / ".build", data_dir / ".build")
    (data_dir / ".build" / "plan.arrow").write_bytes(b"?")
    assert main([f"--data_dir={data_dir}", "--repair"]) == 1
    assert "plan.arrow: damaged" in capfd.readouterr().err
