"""From recordings to a data set: contents, seeds, splits, and files that stay unchanged."""

import csv
import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from building import (
    REPOSITORY,
    contents,
    make_inputs,
    rejects,
)

from data_prep.build import build
from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.data.data_set import open_data_set
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot, read_segments
from relabel_jax.labels.views import SPLITS, hashed_splits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), 60)


@pytest.fixture(scope="module")
def data_dir(arguments, tmp_path_factory):
    """An undisturbed build."""
    data_dir = tmp_path_factory.mktemp("data") / "set"
    build(**arguments, output_dir=data_dir, num_workers=1)
    return data_dir


def test_tfds_opens_it_without_tensorflow(arguments, data_dir):
    assert not {"tensorflow", "jax"} & imported_by("import data_prep.build, data_prep.workers")
    ontology = Ontology.from_json(arguments["ontology"])
    segments = read_segments(arguments["segments"], ontology)
    labels = multi_hot(segments.labels, len(ontology))
    pel, masked = relabel(labels, ontology, "pe_cml")
    row_of = {clip_id: row for row, clip_id in enumerate(segments.clip_ids.to_pylist())}
    splits = hashed_splits(list(row_of))
    files = {path.stem: path for path in arguments["audio"].iterdir()}

    builder = tfds.builder_from_directory(data_dir)
    index = iter(pq.read_table(data_dir / "clips.parquet").to_pylist())
    for number, split in enumerate(SPLITS):
        assert builder.info.splits[split].num_examples == (splits == number).sum() > 0
        for record in builder.as_data_source(split):
            clip_id = record["clip_id"].decode()
            row = row_of.pop(clip_id)
            assert splits[row] == number
            assert record["waveform"].dtype == np.int16
            stems = (clip_id, f"Y{clip_id}", f"{clip_id}_{row}", f"{clip_id}_{row}_{row + 10}")
            path = files[stems[row % 4]]
            waveform, _ = read_waveform(str(path), PAPER_FORMAT)
            np.testing.assert_array_equal(record["waveform"], waveform)
            for name, expected in (("ol", labels), ("pel", pel), ("masked", masked)):
                assert record[name].dtype == bool
                np.testing.assert_array_equal(record[name], expected[row])
            assert next(index) == {
                "clip_id": clip_id,
                "split": split,
                "start_s": row,
                "end_s": row + 10,
                "ol": segments.labels[row].as_py(),
                "partial": False,
            }
    assert not row_of
    assert next(index, None) is None
    assert (data_dir / "ontology.json").read_text() == ontology.text
    assert rejects(data_dir) == {}


def imported_by(statement: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}, sys; print(*sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


def test_shards_are_balanced(data_dir):
    info = json.loads((data_dir / "dataset_info.json").read_text())
    for split in info["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        assert max(lengths) <= 5
        assert max(lengths) - min(lengths) <= 1
        assert len(lengths) == -(-sum(lengths) // 5)
        assert len(list(data_dir.glob(f"*-{split['name']}.array_record-*"))) == len(lengths)


def test_the_number_of_workers_does_not_change_a_byte(arguments, data_dir, tmp_path):
    build(**arguments, output_dir=tmp_path / "set", num_workers=3)
    assert contents(tmp_path / "set") == contents(data_dir)


def test_the_seed_changes_splits_and_shards(arguments, data_dir, tmp_path):
    build(**arguments, output_dir=tmp_path / "set", split_seed=1, num_workers=1)
    ids = [
        pq.read_table(each / "clips.parquet")["clip_id"] for each in (data_dir, tmp_path / "set")
    ]
    assert ids[0] != ids[1]
    assert set(ids[0].to_pylist()) == set(ids[1].to_pylist())


def test_a_complete_data_set_is_left_alone(arguments, data_dir, capfd):
    before = {path: path.stat().st_mtime_ns for path in data_dir.iterdir() if path.is_file()}
    build(**arguments, output_dir=data_dir, num_workers=1)
    assert "complete already, nothing to do" in capfd.readouterr().err
    assert before == {
        path: path.stat().st_mtime_ns for path in data_dir.iterdir() if path.is_file()
    }


def test_what_is_missing_is_built_again(arguments, data_dir, tmp_path):
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    shards = sorted((tmp_path / "set").glob("*.array_record*"))
    shards[0].unlink()
    shards[3].write_bytes(b"")
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    assert contents(tmp_path / "set") == contents(data_dir)
    for name in ("clips.parquet", "features.json", "rejects.csv"):  # killed near the end
        (tmp_path / "set" / name).unlink()
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    assert contents(tmp_path / "set") == contents(data_dir)


def test_splits_override(arguments, tmp_path, capfd):
    (tmp_path / "splits.csv").write_text(
        "clip_id,split\n-clip000,test\n_clip001,validation\nunknown,train\n"
    )
    build(**arguments, output_dir=tmp_path / "set", splits=tmp_path / "splits.csv", num_workers=1)
    index = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    splits = {row["clip_id"]: row["split"] for row in index}
    assert (splits.pop("-clip000"), splits.pop("_clip001")) == ("test", "validation")
    assert list(splits.values()) == [SPLITS[number] for number in hashed_splits(list(splits))]
    assert "1 clips are not in the segments, the first is 'unknown'" in capfd.readouterr().err


def test_real_recordings(realaudio_dir, audioset_dir, tmp_path):
    """All 1,246 recordings are in the data set; none is damaged."""
    build(
        ontology=audioset_dir / "ontology.json",
        segments=[realaudio_dir / "segments.csv"],
        paths=realaudio_dir / "labels.csv",
        output_dir=tmp_path / "set",
    )
    assert rejects(tmp_path / "set") == {}
    builder = tfds.builder_from_directory(tmp_path / "set")
    index = pq.read_table(tmp_path / "set" / "clips.parquet")
    assert sum(split.num_examples for split in builder.info.splits.values()) == len(index) == 1_246
    with open(realaudio_dir / "clips_detail.csv", newline="") as file:
        detail = {row["clip_id"]: row for row in csv.DictReader(file)}
    silent = 0
    for split in SPLITS:
        for record in builder.as_data_source(split):
            duration_s = float(detail[record["clip_id"].decode()]["duration_s"])
            assert not record["waveform"][round((duration_s + 0.2) * 8_000) :].any()
            silent += np.abs(record["waveform"]).max() <= 4  # of 32,768
    assert silent == 4  # as the recordings' README has it


def test_audiosets_ontology_comes_with_the_package(arguments, tmp_path):
    (tmp_path / "segments.csv").write_text('-clip000, 0, 10, "/m/0bt9lr,/m/07qf0zm"\n')  # Dog, Howl
    arguments = {"segments": [tmp_path / "segments.csv"], "audio": arguments["audio"]}
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    data_set = open_data_set(tmp_path / "set")
    assert len(data_set.ontology) == 632
    assert data_set.ontology.mids == Ontology.audioset().mids
    names = {data_set.ontology.display_names[n] for n in np.flatnonzero(data_set.labels[0])}
    assert names == {"Dog", "Howl"}
