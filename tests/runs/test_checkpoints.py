"""Which checkpoints of a run stay."""

import dataclasses
import resource
import shutil

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from relabel_jax.errors import InputError
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.step import Recipe, TrainState, init_state


def state_of(value: float) -> TrainState:
    variables = {"params": {"w": np.full(3, value, np.float32)}, "batch_stats": {}}
    return jax.device_get(init_state(variables, Recipe(0.001, 0.987, 10)))


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_the_latest_and_the_best_stay_though_neither_is_both(tmp_path):
    with Checkpoints(Workdir(tmp_path)) as checkpoints:
        for epoch, validation_map in enumerate((0.1, 0.4, 0.2, 0.4, 0.3), start=1):
            checkpoints.save(epoch, state_of(epoch), validation_map)
    assert kept(tmp_path) == [2, 5]
    with Checkpoints(Workdir(tmp_path), read_only=True) as checkpoints:
        assert checkpoints.latest == 5
        np.testing.assert_array_equal(checkpoints.restore(2, state_of(0)).params["w"], 2)


@pytest.mark.parametrize("max_bytes", [60, 700])
def test_a_disk_that_is_full(tmp_path, max_bytes):
    """For a line of the metrics, for a checkpoint; by a limit on files' sizes."""
    line = {"step": 10, "train_loss": 0.25, "validation_mAP": 0.1, "clips_per_s": None}
    with TrainingFolder(Workdir(tmp_path), 10) as folder:
        folder.finish_epoch({"epoch": 1} | line, state_of(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def second_epoch():
        with TrainingFolder(Workdir(tmp_path), 10) as folder:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, before[1]))
            folder.finish_epoch({"epoch": 2} | line | {"step": 20}, state_of(2))
            folder.progress()  # the training's next question; it waits for the checkpoint

    try:
        with pytest.raises(InputError, match=f"{tmp_path}: cannot write there") as caught:
            second_epoch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    with TrainingFolder(Workdir(tmp_path), 10) as folder:
        assert folder.progress() == [1, 10]
        np.testing.assert_array_equal(folder.restore(1, 10, state_of(0)).params["w"], 1)
        folder.finish_epoch({"epoch": 2} | line | {"step": 20}, state_of(2))
    assert 2 in kept(tmp_path)


def test_what_a_kill_left_of_a_deletion_is_deleted(tmp_path):
    with Checkpoints(Workdir(tmp_path)) as checkpoints:
        checkpoints.save(1, state_of(1), 0.1)
        checkpoints.save(2, state_of(2), 0.2)
    shutil.copytree(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / "1")
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "metrics")
    with Checkpoints(Workdir(tmp_path)) as checkpoints:
        assert checkpoints.latest == 2
        checkpoints.save(3, state_of(3), 0.3)
    assert kept(tmp_path) == [3]


def test_an_interrupted_state_that_no_epoch_leads_up_to(tmp_path):
    """Left by a kill before the epoch was on the disk, it must not stand in a later one's way."""
    line = {"epoch": 1, "step": 10, "train_loss": 0.2, "validation_mAP": 0.1, "clips_per_s": None}

    def at(step):
        return dataclasses.replace(state_of(step), step=np.array(step, np.int32))

    with TrainingFolder(Workdir(tmp_path), 10) as folder:
        folder.finish_epoch(line, at(10))
        folder.save_interrupted(at(22))
    with TrainingFolder(Workdir(tmp_path), 10) as folder:
        with pytest.raises(InputError, match="has a later step than 15"):
            folder.save_interrupted(at(15))
        assert folder.progress() == [1, 10]
        folder.save_interrupted(at(15))
    with TrainingFolder(Workdir(tmp_path), 10) as folder:
        assert folder.progress() == [1, 15]
        np.testing.assert_array_equal(folder.restore(1, 15, at(0)).params["w"], 15)


def test_no_number_of_an_epoch_reaches_the_preemption_service(tmp_path, monkeypatch):
    """It counts chunks; told an epoch, it had two processes stop at different ones, for ever."""
    told = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", told.append)
    with Checkpoints(Workdir(tmp_path)) as checkpoints:
        checkpoints.save(1, state_of(1), 0.1)
        checkpoints.save_interrupted(state_of(2))
    assert kept(tmp_path) == [1]
    assert not told
