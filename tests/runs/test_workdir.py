"""What a run folder says: results, configs of other versions, and what does not fit together."""

import dataclasses
import json

import numpy as np
import pytest

from relabel_jax.errors import InputError
from relabel_jax.runs.grid_folder import GridFolder
from relabel_jax.runs.old_configs import upgraded
from relabel_jax.runs.schema import Identity, RunResult, Scores
from relabel_jax.runs.workdir import Workdir

MODEL = {"name": "waveform_cnn", "features": [4] * 9}
# With the fields of the recipe, which configs of older versions get when they are read.
CONFIG = upgraded({"num_epochs": 3, "data_dir": "D", "seed": 0, "model": MODEL})
RESULT = RunResult(
    test={"mAP": 0.5, "mean_auc": 0.6, "d_prime": None},
    best_epoch=2,
    root="Human sounds",
    root_mid="/m/0dgw9r",
    side="base",
    labeling="ol",
    method="base",
    precision="f32",
    backend="cpu",
    base_labeling="",
    seed=0,
    num_clips={"train": 5, "validation": 2, "test": 3},
    num_labels=2,
    classes="c",
    data_set="d",
    config=CONFIG,
)


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "run").mkdir()
    return Workdir(tmp_path / "run")


def scores():
    labels = np.array([[True, False], [False, True], [True, False]])
    values = np.array([[0.9, 0.2], [0.1, 0.7], [0.8, 0.3]], np.float32)
    return Scores(np.array(["a", "b", "c"]), np.array(["/m/1", "/m/2"]), values, labels, labels & 0)


def test_a_result_is_read_as_it_was_written(workdir):
    assert not workdir.is_finished
    workdir.write_result(RESULT)
    assert workdir.is_finished
    assert workdir.read_result() == RESULT
    assert "test mAP 0.5000, mean AUC 0.6000, d-prime undefined (3 clips" in RESULT.summary


def test_a_run_that_is_begun_again_is_not_finished(workdir):
    assert workdir.begun_with() is None
    workdir.write_result(RESULT)
    workdir.begin(Identity(CONFIG, "d", "b"))
    assert not workdir.is_finished
    before = workdir.begun_with()
    assert (before.config, before.data_set, before.base) == (CONFIG, "d", "b")


@pytest.mark.parametrize("path", ["config_path", "result_path"])
def test_a_newer_version_is_named(workdir, path):
    content = RESULT.as_json() | {"format_version": 99}
    getattr(workdir, path).write_text(json.dumps(content))
    read = workdir.begun_with if path == "config_path" else workdir.read_result
    with pytest.raises(InputError, match=r"newer version of relabel_jax \(format_version 99"):
        read()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RunResult)])
def test_a_result_without_a_field(workdir, field):
    content = RESULT.as_json()
    del content[field]
    workdir.result_path.write_text(json.dumps(content))
    if field in ("precision", "backend"):  # results of older versions do not have these
        assert getattr(workdir.read_result(), field) is None
        return
    with pytest.raises(InputError, match=f"has no field '{field}'"):
        workdir.read_result()


def test_scores_belong_to_the_result(workdir):
    expected = scores()._replace(masked=np.zeros((3, 2), bool))
    workdir.write_scores(expected)
    for got, wanted in zip(workdir.read_scores(1.0), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert workdir.read_scored_mids() == ["/m/1", "/m/2"]
    with pytest.raises(InputError, match=r"its mAP is 1.000000, but result.json says 0.5"):
        workdir.read_scores(0.5)
    workdir.scores_path.write_bytes(workdir.scores_path.read_bytes()[:-50])
    for read in (lambda: workdir.read_scores(1.0), workdir.read_scored_mids):
        with pytest.raises(InputError, match=r"test_scores.npz: cannot read"):
            read()


def test_the_runs_of_a_grid_are_two_folders_down(tmp_path):
    for name in ("a/b", "c", "d/e/f"):
        Workdir(tmp_path / name).write_result(RESULT)
    folder = GridFolder(tmp_path)
    names = [str(run.path.relative_to(tmp_path)) for run in folder.finished_runs()]
    assert names == ["a/b", "c", "d/e/f"]
    assert folder.read_description() == {}
    folder.write_description({"config": CONFIG, "data_set": "d"})
    assert [run.path for run in folder.finished_runs()] == [tmp_path / "a/b"]
    assert folder.read_description()["config"] == CONFIG


@pytest.mark.parametrize("name", ["grid.json", "ontology.json"])
def test_the_files_of_a_grid_belong_together(tmp_path, name):
    folder = GridFolder(tmp_path)
    folder.ontology_path.write_text("[]")
    folder.write_description({"config": CONFIG, "data_set": "d"})
    assert folder.read_description()["data_set"] == "d"
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace('"d"', '"e"').replace("[]", "[1]"))
    with pytest.raises(InputError, match=rf"{name}: is damaged or .*; delete grid.json and run"):
        folder.read_description()


@pytest.mark.parametrize("name", Scores._fields)
def test_arrays_of_other_types_are_refused(workdir, name):
    arrays = scores()._asdict()
    workdir.write_scores(scores())
    for wrong in (np.array(1), arrays[name][:-1], arrays[name].astype("S4"), arrays[name][None]):
        np.savez(workdir.scores_path, **arrays | {name: wrong})
        with pytest.raises(InputError, match=r"test_scores.npz: cannot read it \("):
            workdir.read_scores(1.0)
