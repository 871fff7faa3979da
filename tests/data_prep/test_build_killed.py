"""Builds and workers that are killed: the same command finishes the work."""

import os
import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from building import children_of, contents, make_inputs, plan_only, rejects, start

from data_prep.build import build
from data_prep.workers import Workers

pytestmark = pytest.mark.slow


def wait_for(process: subprocess.Popen, data_dir: pathlib.Path, num_shards: int) -> None:
    """Waits until this number of shards, or the plan, is done, and a random moment longer."""
    while process.poll() is None:
        if (data_dir / ".build" / "plan.arrow").exists() and (
            len(list(data_dir.glob(".build/*-*.json"))) >= num_shards
        ):
            time.sleep(random.Random(num_shards).uniform(0, 0.05))
            return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def slower(tmp_path_factory):
    """Arguments and the undisturbed data set of a build that takes long enough to be killed."""
    folder = tmp_path_factory.mktemp("slower")
    arguments = make_inputs(folder / "inputs", 30, duration_s=10) | {"clips_per_shard": 3}
    build(**arguments, output_dir=folder / "undisturbed", num_workers=2)
    return arguments, folder / "undisturbed"


def test_a_killed_build_is_finished_by_the_same_command(slower, tmp_path):
    arguments, undisturbed = slower
    data_dir = tmp_path / "set"
    written: dict[str, int] = {}
    for num_shards in (0, 3, 7):
        process = start(arguments, data_dir)
        wait_for(process, data_dir, num_shards)
        process.kill()
        process.communicate(timeout=60)  # until its workers are gone too
        assert process.returncode == -signal.SIGKILL
        for path in data_dir.glob("*.array_record*"):  # complete, and never written again
            assert path.read_bytes() == (undisturbed / path.name).read_bytes()
        for path in data_dir.glob(".build/*-*.json"):
            assert written.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert len(written) >= 7
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert contents(data_dir) == contents(undisturbed)
    assert not list((data_dir / ".build").glob("*.tmp"))


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds workers in Linux's /proc")
def test_a_killed_worker_is_replaced(slower, tmp_path):
    arguments, undisturbed = slower
    process = start(arguments, tmp_path / "set")
    for num_shards in (0, 3, 7):
        wait_for(process, tmp_path / "set", num_shards)
        while not (workers := children_of(process.pid)):
            time.sleep(0.001)
        os.kill(workers[0], signal.SIGKILL)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0, error
    assert contents(tmp_path / "set") == contents(undisturbed)


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds workers in Linux's /proc")
def test_a_clip_that_kills_its_worker_is_left_out(tmp_path, capfd):
    """The worker is killed each time it opens one clip, like a crash of the decoder."""
    arguments = make_inputs(tmp_path / "inputs", 20) | {"clips_per_shard": 20}
    build_dir = tmp_path / "set"
    plan = plan_only(arguments, build_dir)
    shard = max(plan.shards, key=lambda shard: plan.clips(shard).num_rows)
    position = 6
    clip_id = plan.clips(shard)["clip_id"][position].as_py()
    slow = os.fsdecode(plan.clips(shard)["path"][position].as_py())
    noise = np.random.default_rng(0).uniform(-1, 1, (11 * 96_000, 8))
    soundfile.write(slow, noise, 96_000, subtype="PCM_24")  # tenths of a second in the decoder

    done = deaths = 0

    def on_clips(number):
        nonlocal done, deaths
        done += number
        if done == position and deaths < 3:
            (worker,) = children_of(os.getpid())
            os.kill(worker, signal.SIGKILL)
            deaths += 1

    with Workers(plan, num_workers=1, tick_s=0.01) as workers:
        workers.write_shards([shard], on_clips)
    assert deaths == 3
    build(**arguments, output_dir=build_dir)
    assert rejects(build_dir) == {clip_id: "crash"}
    assert "SIGKILL" in (build_dir / "rejects.csv").read_text()
    assert pq.read_table(build_dir / "clips.parquet").num_rows == 19
    assert "rejected               1 (crash 1)" in capfd.readouterr().err
