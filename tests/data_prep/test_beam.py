"""The tasks as a Beam pipeline: the same bytes as by local processes."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest
from building import REPOSITORY, command, contents, make_inputs, rejects
from test_workers import held

import data_prep
from data_prep.build import build, main

pytestmark = [pytest.mark.slow, pytest.mark.extra]

needs_beam = pytest.mark.skipif(
    not importlib.util.find_spec("apache_beam"), reason="needs Apache Beam: the extra `beam`"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beam")
    arguments = make_inputs(folder, 60) | {"clips_per_shard": 5}
    build(**arguments, output_dir=folder / "undisturbed", num_workers=2)
    return arguments, folder / "undisturbed"


@needs_beam
@pytest.mark.parametrize(
    ("runner", "options"),
    [
        ("FnApiRunner", ""),
        ("FnApiRunner", "--direct_num_workers=3 --direct_running_mode=multi_threading"),
        ("DirectRunner", "--direct_num_workers=2 --direct_running_mode=multi_processing"),
    ],
)
def test_runners_make_the_same_bytes(inputs, tmp_path, capfd, runner, options):
    arguments, undisturbed = inputs
    flags = command(arguments, tmp_path / "set", runner=runner, beam_options=options)
    run = subprocess.run(flags, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "written                60" in run.stderr
    assert contents(tmp_path / "set") == contents(undisturbed)


@pytest.fixture
def dask_cluster(tmp_path):
    """A scheduler and two workers over TCP, one of them under a nanny."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    processes = []

    def start(name, *flags):
        with open(tmp_path / f"{name}.log", "w") as log:
            flags = [sys.executable, "-m", f"distributed.cli.dask_{name}", *flags, "--no-dashboard"]
            processes.append(subprocess.Popen(flags, stdout=log, stderr=log, env=environment))

    file = tmp_path / "scheduler.json"
    start("scheduler", "--port=0", f"--scheduler-file={file}")
    start("worker", f"--scheduler-file={file}", "--nthreads=1", "--no-nanny")
    start("worker", f"--scheduler-file={file}", "--nthreads=2", "--nanny")
    yield file, processes
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=60)


@pytest.mark.skipif(
    not (importlib.util.find_spec("apache_beam") and importlib.util.find_spec("distributed")),
    reason="needs Dask: the extra `dask`",
)
def test_a_dask_cluster_that_loses_a_worker(inputs, tmp_path, dask_cluster):
    arguments, undisturbed = inputs
    file, (_, lost, kept) = dask_cluster
    data_dir = tmp_path / "set"
    options = f"--dask_scheduler_file={file} --dask_connection_timeout=60"
    flags = command(arguments, data_dir, runner="dask", beam_options=options)
    build_process = subprocess.Popen(flags, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    while len(list(data_dir.glob(".build/*-*.json"))) < 2 and build_process.poll() is None:
        time.sleep(0.01)
    lost.kill()
    error = build_process.communicate(timeout=120)[1]
    assert build_process.returncode == 0, error
    assert "written                60" in error
    assert contents(data_dir) == contents(undisturbed)
    assert kept.poll() is None


@needs_beam
def test_a_killed_pipeline_is_finished_by_local_processes(inputs, tmp_path):
    arguments, undisturbed = inputs
    data_dir = tmp_path / "set"
    process = subprocess.Popen(
        command(arguments, data_dir, runner="FnApiRunner"), cwd=REPOSITORY, stderr=subprocess.PIPE
    )
    while not list(data_dir.glob(".build/*-*.json")) and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 1 <= len(list(data_dir.glob("*.array_record*"))) < 14
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert contents(data_dir) == contents(undisturbed)


@needs_beam
def test_a_clip_that_hangs_on_a_cluster(tmp_path, capfd):
    arguments = make_inputs(tmp_path / "inputs", 12)
    (path,) = arguments["audio"].glob("Y_clip005*")
    with held(path):
        flags = command(arguments, tmp_path / "set", runner="FnApiRunner", clip_timeout_s=1)
        assert main(flags[3:]) == 0
    assert rejects(tmp_path / "set") == {"_clip005": "timeout"}


@needs_beam
def test_a_pipeline_that_fails_says_why(inputs, tmp_path, capfd):
    arguments, undisturbed = inputs
    data_dir = tmp_path / "set"

    def error(**flags):
        assert main(command(arguments, data_dir, **flags)[3:]) == 1
        return capfd.readouterr().err.splitlines()[-1]

    assert error(runner="Nope").startswith("error: --runner=Nope: Unexpected pipeline runner: Nope")
    line = error(runner="FnApiRunner", beam_options="--direct_num_workers=x")
    assert line == "error: --beam_options: argument --direct_num_workers: invalid int value: 'x'"
    audio = arguments["audio"]
    audio.rename(audio.with_name("away"))
    try:
        line = error(runner="FnApiRunner")
    finally:
        audio.with_name("away").rename(audio)
    assert line.startswith(f"error: --runner=FnApiRunner: {audio}: the recordings were here when")
    assert line.endswith("run the same command again")
    assert not (data_dir / "clips.parquet").exists()
    assert main(command(arguments, data_dir, runner="FnApiRunner")[3:]) == 0
    assert contents(data_dir) == contents(undisturbed)


def test_flags_that_do_not_go_together(inputs, tmp_path, capfd, monkeypatch):
    arguments, _ = inputs

    def error(**flags):
        assert main(command(arguments, tmp_path / "set", **flags)[3:]) == 1
        return capfd.readouterr().err

    assert "--num_workers: not with --runner" in error(runner="FnApiRunner", num_workers=2)
    assert "--beam_options: only with --runner" in error(beam_options="--direct_num_workers=2")
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "data_prep.beam", raising=False)
    monkeypatch.delattr(data_prep, "beam", raising=False)
    line = error(runner="FnApiRunner")
    assert line.startswith("error: --runner=FnApiRunner needs Apache Beam")
    assert line.endswith("pip install '.[beam]' in the checkout of relabel_jax\n")
