"""Several devices and several processes give what one device gives; what ends a run of several."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_network
from launching import REPOSITORY, free_address, start, wait
from tiny_training import EPOCHS, STEPS_PER_EPOCH, states

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import paper_config
from relabel_jax.experiments.run import run
from relabel_jax.runs import processes

pytestmark = pytest.mark.slow

NUM_EPOCHS = 4
SMALL = {
    "model.dropout": 0.0,  # devices draw other values than one device
    "batch_size": 8,
    "num_epochs": NUM_EPOCHS,
    "steps_per_call": 2,
    "seed": 1,
}


def main(data_dir, workdir, *flags, **fields):
    return [
        "-m",
        "relabel_jax.main",
        "--config=configs/base_human.py",
        f"--workdir={workdir}",
        *small_network.FLAGS,
        *(f"--config.{name}={value}" for name, value in (SMALL | fields).items()),
        f"--config.data_dir={data_dir}",
        *flags,
    ]


def start_two(data_dir, workdir, fields=({}, {}), other_data_dir=None):
    """Two processes on loopback, a device each; `other_data_dir` is for the second."""
    address = free_address()
    return [
        start(
            workdir.parent / f"{i}.log",
            main(
                other_data_dir if i and other_data_dir else data_dir,
                workdir,
                f"--coordinator_address={address}",
                "--num_processes=2",
                f"--process_id={i}",
                **of_process,
            ),
        )
        for i, of_process in enumerate(fields)
    ]


def wait_for_lines(workdir, num_lines, processes, timeout_s=300):
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + timeout_s
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        if path.exists() and len(path.read_text().splitlines()) >= num_lines:
            return
        time.sleep(0.005)
    pytest.fail("the processes have ended or hang")


@pytest.fixture(scope="module")
def on_one_device(miniature_data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    config = paper_config("Human sounds", "base")
    config.data_dir = str(miniature_data)
    small_network.use_in(config)
    config.update_from_flattened_dict(SMALL)
    run(config, workdir)
    return workdir


def assert_close(folders, epoch, rtol=0):
    """The states after an epoch, 20 steps or more."""
    got, expected = (states(folder, epoch)[0] for folder in folders)
    assert int(got["step"]) >= 20
    close = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-5)
    jax.tree.map(close, got, expected)


def assert_same_run(workdir, expected):
    # The variances of the spectrogram are above 100, where float32 is coarser than 1e-5.
    assert_close((workdir, expected), NUM_EPOCHS, rtol=1e-6)
    files = [np.load(folder / "test_scores.npz") for folder in (workdir, expected)]
    np.testing.assert_allclose(files[0]["scores"], files[1]["scores"], rtol=0, atol=1e-4)
    for file in files:
        file.close()
    # Written once, by one process, and nothing else is left. TensorBoard's are named by the time.
    names, expected_names = (
        {path.name.partition(".out.")[0] for path in folder.iterdir()}
        for folder in (workdir, expected)
    )
    assert names == expected_names


@pytest.mark.release
def test_a_run_on_eight_devices(miniature_data, on_one_device, tmp_path):
    assert wait([start(tmp_path / "log", main(miniature_data, tmp_path / "run"), 8)]) == [0], (
        tmp_path / "log"
    ).read_text()
    assert_same_run(tmp_path / "run", on_one_device)


@pytest.mark.release
def test_populations_on_eight_devices(alone, tmp_path):
    """The batch over 4 devices for each of two members, over 2 for each of four."""
    script = str(REPOSITORY / "tests" / "train" / "tiny_training.py")
    process = start(tmp_path / "log", [script, str(tmp_path / "8"), "ab", "abcd"], 8)
    assert wait([process]) == [0], (tmp_path / "log").read_text()
    assert "8 devices" in (tmp_path / "log").read_text()
    assert EPOCHS * STEPS_PER_EPOCH >= 20
    for names in ("ab", "abcd"):
        for name in names:
            assert_close((tmp_path / "8" / names / name, alone / name), EPOCHS)


# Each size gets a process of its own, from one that has imported JAX.
NUM_DEVICES = """
import os, sys, jax
from relabel_jax.ops import cpu_devices
for batch_size in map(int, sys.argv[1:]):
    if not os.fork():
        cpu_devices.use_cores(batch_size)
        print(len(jax.devices()), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize(
    ("batch_sizes", "environment", "expected"),
    [
        ([24, 23, 25], {}, [2, 1, 1]),  # 23 are too few for two, 25 are not divisible
        ([24], {"JAX_NUM_CPU_DEVICES": "3"}, [3]),
        ([24], {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}, [4]),
    ],
)
def test_a_device_for_every_twelve_clips_of_a_batch(batch_sizes, environment, expected):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    done = subprocess.run(
        [sys.executable, "-c", NUM_DEVICES, *map(str, batch_sizes)],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [int(line) for line in done.stdout.split()] == expected


@pytest.mark.parametrize(
    "checks",
    [
        ["step_of_head", "mixup", "embeddings"],
        pytest.param(["step_of_network", "populations"], marks=pytest.mark.release),
    ],
)
def test_two_devices(tmp_path, checks):
    script = str(REPOSITORY / "tests" / "train" / "two_devices.py")
    process = start(tmp_path / "log", [script, str(tmp_path), *checks], 2)
    assert wait([process]) == [0], (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().split() == checks


@pytest.mark.parametrize(
    "modes",
    [
        ["1_map", "4_vmap"],
        pytest.param(["2_map", "3_map", "4_map"], marks=pytest.mark.release),
    ],
)
def test_two_processes_train_every_kind_of_population(alone, tmp_path, modes):
    """One run, a member a process, more members than devices; by map and by vmap."""
    address, script = free_address(), str(REPOSITORY / "tests" / "train" / "two_processes.py")
    logs = [tmp_path / f"{i}.log" for i in (0, 1)]
    started = [
        start(logs[i], [script, address, str(i), str(tmp_path / "two"), *modes]) for i in (0, 1)
    ]
    assert wait(started) == [0, 0], logs[0].read_text()
    folders = sorted((tmp_path / "two").iterdir())
    assert [folder.name for folder in folders] == modes
    for folder in folders:
        for of_member in folder.iterdir():
            assert_close((of_member, alone / of_member.name), EPOCHS)


def test_two_processes_stopped_and_started_again(miniature_data, on_one_device, tmp_path):
    """By a SIGTERM to one, then by a SIGKILL; one process alone ends what two began."""
    workdir = tmp_path / "run"
    logs = [tmp_path / f"{i}.log" for i in (0, 1)]
    processes = start_two(miniature_data, workdir)
    wait_for_lines(workdir, 1, processes)
    processes[1].terminate()
    assert wait(processes) == [143, 143], logs[0].read_text()
    saved = [
        line for path in logs for line in path.read_text().splitlines()
        if line.startswith("interrupted; saved after step ")
    ]  # fmt: skip
    assert len(saved) == 2
    assert saved[0] == saved[1]

    num_lines = len((workdir / "metrics.jsonl").read_text().splitlines())
    processes = start_two(miniature_data, workdir)
    wait_for_lines(workdir, num_lines + 1, processes)
    processes[1].kill()
    assert wait(processes) == [1, -signal.SIGKILL]
    log = logs[0].read_text()
    assert "continuing after step" in log
    assert "error: a process or its network failed (" in log
    assert "start all processes again with the same command" in log
    assert "Traceback" not in log
    assert not (workdir / "result.json").exists()
    assert len(states(workdir, max(int(p.name) for p in (workdir / "checkpoints").iterdir()))) == 1

    assert wait([start(tmp_path / "log", main(miniature_data, workdir))]) == [0], (
        tmp_path / "log"
    ).read_text()
    assert_same_run(workdir, on_one_device)


def test_what_one_of_two_cannot_read_ends_both(miniature_data, tmp_path):
    """Soon: neither waits for the other."""
    damaged = tmp_path / "damaged"
    shutil.copytree(miniature_data, damaged)
    for shard in damaged.glob("*-train.*"):
        with open(shard, "r+b") as file:  # records, not the index at its end
            file.seek(2**16)
            file.write(bytes(2**18))
    processes = start_two(miniature_data, tmp_path / "run", other_data_dir=damaged)
    assert wait(processes, timeout_s=120) == [1, 1]
    logs = [(tmp_path / f"{i}.log").read_text() for i in (0, 1)]
    assert "error: a process or its network failed (" in logs[0]
    assert f"error: {damaged}: cannot read a record" in logs[1]
    assert not any("Traceback" in log or "stack trace" in log for log in logs)


def test_what_the_first_of_two_cannot_write_ends_both(miniature_data, tmp_path):
    workdir = tmp_path / "run"
    processes = start_two(miniature_data, workdir)
    wait_for_lines(workdir, 1, processes)
    (workdir / "metrics.jsonl").rename(tmp_path / "before.jsonl")
    (workdir / "metrics.jsonl").mkdir()
    status, other = wait(processes, timeout_s=120)
    assert status == 1
    assert other in (1, -signal.SIGABRT)  # JAX's own, when process 0 is gone
    log = (tmp_path / "0.log").read_text()
    assert f"error: {workdir}: cannot write there ([Errno 21] Is a directory" in log
    assert "Traceback" not in log


def test_one_of_two_without_the_data_set_ends_both(miniature_data, tmp_path):
    processes = start_two(miniature_data, tmp_path / "run", other_data_dir=tmp_path / "nowhere")
    assert wait(processes, timeout_s=120) == [1, 1]
    logs = [(tmp_path / f"{i}.log").read_text() for i in (0, 1)]
    assert "error: another process cannot continue, see there" in logs[0]
    assert "nowhere: not a finished data set" in logs[1]
    assert not any("Traceback" in log or "stack trace" in log for log in logs)


def test_processes_with_different_configs_are_refused(miniature_data, tmp_path):
    processes = start_two(miniature_data, tmp_path / "run", ({}, {"seed": 2}))
    assert wait(processes) == [1, 1]
    logs = [(tmp_path / f"{i}.log").read_text() for i in (0, 1)]
    assert "error: another process has another config or data set than process 0" in logs[0]
    assert "error: process 1 has config.seed 2 but process 0 has 1; start all" in logs[1]
    assert not any("Traceback" in log for log in logs)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator_address=localhost:1"], "goes with --num_processes and --process_id"),
        (["--num_processes=2", "--process_id=0"], "--coordinator_address=auto with neither"),
        (
            ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 is not below --num_processes=2",
        ),
    ],
)
def test_flags_that_do_not_fit(tmp_path, flags, message):
    values = dict(flag.removeprefix("--").split("=") for flag in flags)
    with pytest.raises(InputError, match=message):
        processes.connect(
            values.get("coordinator_address", "auto"),
            *(int(values[name]) if name in values else None
              for name in ("num_processes", "process_id")),
        )  # fmt: skip
