"""A run that is killed and started again ends as if nothing had happened, bit for bit."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_network

from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).parents[2]
TIMINGS = ("clips_per_s", "seconds")
NUM_EPOCHS = 3
# The second layer is wide enough for Toom-Cook.
PAPER_NETWORK = (
    "--config.model.features=(32, 32, 4, 4, 4, 4, 4, 4, 4)",
    "--config.model.dense_units=(8, 8)",
)


def start(data_dir, workdir, network, num_epochs=NUM_EPOCHS):
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with open(f"{workdir}.log", "w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "relabel_jax.main", f"--workdir={workdir}"),
                "--config=configs/base_human.py",
                *(f"--config.data_dir={data_dir}", "--config.labeling=pe_cml"),
                *(f"--config.num_epochs={num_epochs}", "--config.batch_size=8"),
                *network,
                "--config.steps_per_call=2",
            ],
            cwd=REPOSITORY,
            env=os.environ | cache | {"JAX_NUM_CPU_DEVICES": "2"},  # as a batch of 24 has
            stdout=log,
            stderr=log,
        )


def log(workdir):
    return pathlib.Path(f"{workdir}.log").read_text()


def num_lines(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def outcome(workdir):
    """All that a run leaves, timings aside."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for field in TIMINGS:
            del line[field]
    result = json.loads((workdir / "result.json").read_text())
    with np.load(workdir / "test_scores.npz") as file:
        scores = {name: file[name] for name in file.files}
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert kept == {result["best_epoch"], NUM_EPOCHS}
    with Checkpoints(Workdir(workdir), read_only=True) as checkpoints:
        states = [checkpoints.restore_arrays(epoch) for epoch in (result["best_epoch"], NUM_EPOCHS)]
    return lines, result, scores, jax.tree.map(np.asarray, states)


@pytest.mark.parametrize(
    ("network", "kills"),
    [
        (small_network.FLAGS, (1,)),
        pytest.param(PAPER_NETWORK, (0, 1), marks=pytest.mark.release),
    ],
    ids=["small_network", "paper_network"],
)
def test_killed_and_started_again(miniature_data, tmp_path, network, kills):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(miniature_data, undisturbed, network).wait() == 0, log(undisturbed)
    rng = random.Random(0)
    # 0: before the first epoch is done; 1: around the moment in which an epoch is being saved.
    for lines in kills:
        run = start(miniature_data, killed, network)
        while not (killed / "config.json").exists() and run.poll() is None:
            time.sleep(0.001)
        while num_lines(killed) < lines and run.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1 if lines else 5))
        run.kill()
        assert run.wait() == -signal.SIGKILL, log(killed)
    assert start(miniature_data, killed, network).wait() == 0, log(killed)

    lines, result, scores, states = outcome(undisturbed)
    assert [line["epoch"] for line in lines] == list(range(1, NUM_EPOCHS + 1))
    again = outcome(killed)
    assert again[0] == lines
    assert again[1] == result
    assert jax.tree.all(jax.tree.map(np.array_equal, again[2], scores))
    assert jax.tree.structure(again[3]) == jax.tree.structure(states)
    assert jax.tree.all(jax.tree.map(np.array_equal, again[3], states))

    # One line, though what Orbax had begun to read continues when the error is there.
    for path in (killed / "checkpoints").rglob("*"):  # of the best epoch too, or it would go on
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(b"damage")
    assert start(miniature_data, killed, network, NUM_EPOCHS + 1).wait() == 1
    assert "cannot restore this checkpoint; it is damaged" in log(killed)
    assert "Traceback" not in log(killed)
