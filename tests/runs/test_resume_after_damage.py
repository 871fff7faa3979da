"""From which state a run continues if some of its files are damaged, missing or of another run."""

import dataclasses
import json
import logging
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from relabel_jax.errors import InputError
from relabel_jax.runs.schema import Identity
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.loop import train
from relabel_jax.train.step import Recipe, init_state

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "train"))
import tiny_training as tiny

SPE = 10  # steps per epoch
MAPS = (0.2, 0.6, 0.4, 0.5)
MODEL = {"name": "waveform_cnn", "features": [4] * 9}


def state_at(step):
    variables = {"params": {"w": np.full(3, step, np.float32)}, "batch_stats": {}}
    state = jax.device_get(init_state(variables, Recipe(0.001, 0.987, SPE)))
    return dataclasses.replace(state, step=np.array(step, np.int32))


def begin(path, seed=0):
    config = {"num_epochs": 9, "data_dir": "D", "seed": seed, "model": MODEL}
    Workdir(path).begin(Identity(config, "d"))
    return Workdir(path)


def make_run(path, epochs, interrupted=None, maps=MAPS, seed=0):
    """A run after some epochs, with a state within the next one."""
    workdir = begin(path, seed)
    with TrainingFolder(workdir, SPE) as folder:
        for epoch, validation_map in enumerate(maps[:epochs], start=1):
            line = {"epoch": epoch, "step": epoch * SPE, "train_loss": 0.2, "clips_per_s": None}
            folder.finish_epoch(line | {"validation_mAP": validation_map}, state_at(epoch * SPE))
        folder.wait()
        if interrupted is not None:
            folder.save_interrupted(state_at(interrupted))
    return workdir


def damage(checkpoint):
    """Changes a bit of each file of arrays, as a disk may."""
    paths = [path for path in checkpoint.rglob("*") if path.is_file() and path.parent.name == "d"]
    for path in paths:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    assert paths


def continued(workdir):
    """Where a training continues: epochs, steps, and the weight at that state."""
    with TrainingFolder(workdir, SPE) as folder:
        epochs, steps = folder.progress()
        state = folder.restore(epochs, steps, state_at(0))
    assert len(workdir.metrics_path.read_text().splitlines()) == epochs
    return epochs, steps, float(state.params["w"][0])


def names(path):
    return sorted(each.name for each in path.iterdir())


@pytest.fixture
def warnings(caplog):
    logging.getLogger("relabel_jax").propagate = True
    return lambda: [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def test_an_undisturbed_run(tmp_path, warnings):
    assert continued(make_run(tmp_path / "a", 3)) == (3, 30, 30)
    assert continued(make_run(tmp_path / "b", 3, interrupted=35)) == (3, 35, 35)
    assert continued(make_run(tmp_path / "c", 0, interrupted=4)) == (0, 4, 4)
    assert not warnings()


def test_a_damaged_newest_checkpoint(tmp_path, warnings):
    workdir = make_run(tmp_path / "run", 3)
    damage(workdir.checkpoint_path(3))
    assert continued(workdir) == (2, 20, 20)
    (line,) = warnings()
    assert f"{workdir.checkpoint_path(3)}: cannot restore this checkpoint; it is damaged" in line
    assert line.endswith(f"moved it to {workdir.damaged_path}, continuing after step 20 instead")
    assert (names(workdir.checkpoints_path), names(workdir.damaged_path)) == (["2"], ["3"])


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "metrics/metrics"])
def test_a_checkpoint_that_cannot_be_listed(tmp_path, warnings, name):
    workdir = make_run(tmp_path / "run", 3)
    (workdir.checkpoint_path(3) / name).write_text('{"validation')
    assert continued(workdir) == (2, 20, 20)
    assert "moved to" in warnings()[0]


def test_a_checkpoint_with_another_map_would_keep_the_wrong_epoch(tmp_path, warnings):
    workdir = make_run(tmp_path / "run", 3)
    path = workdir.checkpoint_path(3) / "metrics" / "metrics"
    path.write_text(path.read_text().replace("0.4", "0.9"))
    assert continued(workdir) == (2, 20, 20)
    assert "its mAP is not the one in the line of its epoch" in warnings()[0]


def test_an_interrupted_state_after_a_damaged_checkpoint(tmp_path, warnings):
    workdir = make_run(tmp_path / "run", 3, interrupted=35)
    damage(workdir.checkpoint_path(3))
    assert continued(workdir) == (3, 35, 35)
    damage(workdir.interrupted_path / "35")
    assert continued(workdir) == (2, 20, 20)
    assert not workdir.interrupted_path.exists()
    assert len(warnings()) >= 2


def test_a_best_checkpoint_that_is_missing_is_noticed_at_the_start(tmp_path):
    workdir = make_run(tmp_path / "run", 3, interrupted=35)
    before = workdir.metrics_path.read_bytes()
    shutil.move(workdir.checkpoint_path(2), tmp_path / "lost")
    message = r"checkpoints/2: .* it is gone, and epoch 2 is the best one until .*; train it again"
    with pytest.raises(InputError, match=message) as caught:
        continued(workdir)
    assert "\n" not in str(caught.value)
    assert workdir.metrics_path.read_bytes() == before
    shutil.move(tmp_path / "lost", workdir.checkpoint_path(2))  # nothing else was changed
    assert continued(workdir) == (3, 35, 35)


def test_nothing_is_left(tmp_path):
    workdir = make_run(tmp_path / "run", 2)
    damage(workdir.checkpoint_path(2))
    for _ in range(2):
        with pytest.raises(InputError, match=r"it is damaged .*; train it again in a new"):
            continued(workdir)


def test_metrics_of_another_run(tmp_path):
    workdir = make_run(tmp_path / "run", 3)
    other = make_run(tmp_path / "other", 3, maps=(0.2, 0.3, 0.4), seed=1)
    shutil.copy(other.metrics_path, workdir.metrics_path)
    with pytest.raises(InputError, match=r"its first 3 lines are not those that this run wrote"):
        continued(workdir)


def test_a_checkpoint_of_another_run(tmp_path, warnings):
    workdir, other = make_run(tmp_path / "run", 3), make_run(tmp_path / "other", 3, seed=1)
    shutil.rmtree(workdir.checkpoint_path(3))
    shutil.copytree(other.checkpoint_path(3), workdir.checkpoint_path(3))
    assert continued(workdir) == (2, 20, 20)
    assert "checkpoints/3: is of another run than config.json" in warnings()[0]


def test_a_run_of_an_older_version(tmp_path, warnings):
    """Its checkpoints and its config hold no digests."""
    workdir = make_run(tmp_path / "run", 3, interrupted=35)
    for path in workdir.path.rglob("_CHECKPOINT_METADATA"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"custom_metadata": {}}))
    config = json.loads(workdir.config_path.read_text())
    del config["run"]
    workdir.config_path.write_text(json.dumps(config))
    assert continued(workdir) == (3, 35, 35)
    assert not warnings()


def test_the_identity_of_a_run_stays_while_it_continues(tmp_path):
    first = begin(tmp_path / "a").run
    workdir = Workdir(tmp_path / "a")
    config = {"num_epochs": 12, "data_dir": "moved", "seed": 0, "model": MODEL, "added_later": 1}
    workdir.begin(Identity(config, "d"))
    assert workdir.run == first
    assert begin(tmp_path / "b").run == first
    assert begin(tmp_path / "c", seed=1).run != first


@pytest.mark.slow
def test_a_training_after_damage_ends_with_the_same_bits(tmp_path):
    def trained(path, num_epochs):
        member = tiny.member(path, 0, 1)  # its best epoch is the second
        train(tiny.training([member], num_epochs=num_epochs))
        return [json.loads(line) for line in member.workdir.metrics_path.read_text().splitlines()]

    expected = trained(tmp_path / "whole", 4)
    trained(tmp_path / "run", 3)
    assert names(tmp_path / "run" / "checkpoints") == ["2", "3"]
    damage(tmp_path / "run" / "checkpoints" / "3")
    got = trained(tmp_path / "run", 4)
    for lines in (expected, got):
        for line in lines:
            del line["clips_per_s"], line["seconds"]
    assert got == expected
    jax.tree.map(
        np.testing.assert_array_equal,
        tiny.states(tmp_path / "run", 2, 4),
        tiny.states(tmp_path / "whole", 2, 4),
    )
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    member, begun = tiny.member(tmp_path / "run", 0, 1), []
    training = tiny.training([member], num_epochs=5, on_start=lambda: begun.append(1))
    with pytest.raises(InputError, match=r"checkpoints/2: cannot restore"):
        train(training)
    assert not begun
