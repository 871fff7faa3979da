"""Which checkpoints of a run stay."""

import shutil

import jax
import numpy as np
from jax.experimental import multihost_utils

from relabel_jax.train.checkpoint import Checkpoints
from relabel_jax.train.step import Recipe, TrainState, init_state


def state_of(value: float) -> TrainState:
    variables = {"params": {"w": np.full(3, value, np.float32)}, "batch_stats": {}}
    return jax.device_get(init_state(variables, Recipe(0.001, 0.987, 10)))


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_the_latest_and_the_best_stay_though_neither_is_both(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for epoch, validation_map in enumerate((0.1, 0.4, 0.2, 0.4, 0.3), start=1):
            checkpoints.save(epoch, state_of(epoch), validation_map)
    assert kept(tmp_path) == [2, 5]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest == 5
        np.testing.assert_array_equal(checkpoints.restore(2, state_of(0)).params["w"], 2)


def test_what_a_kill_left_of_a_deletion_is_deleted(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1), 0.1)
        checkpoints.save(2, state_of(2), 0.2)
    shutil.copytree(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / "1")
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "metrics")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 2
        checkpoints.save(3, state_of(3), 0.3)
    assert kept(tmp_path) == [3]


def test_no_number_of_an_epoch_reaches_the_preemption_service(tmp_path, monkeypatch):
    """It counts chunks; told an epoch, it had two processes stop at different ones, for ever."""
    told = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", told.append)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1), 0.1)
        checkpoints.save_interrupted(state_of(2))
    assert kept(tmp_path) == [1]
    assert not told
