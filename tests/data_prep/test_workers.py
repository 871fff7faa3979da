"""Builds and workers that are killed, clips that hang, recordings that disappear."""

import contextlib
import fcntl
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import threading
import time

import pytest
from building import children_of, command, contents, make_inputs, rejects

from data_prep.build import build, main
from data_prep.plan import Plan
from data_prep.shards import write_shard
from relabel_jax.errors import InputError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.release,
    pytest.mark.skipif(
        not os.path.exists("/proc/self/task"), reason="needs Linux: /proc and leases on files"
    ),
]

KILLS = 9  # of each kind
DEADLINE_S = 120


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Arguments and the undisturbed data set: 160 clips of 16 recordings, 80 small shards."""
    folder = tmp_path_factory.mktemp("kills")
    arguments = make_inputs(folder, 16, duration_s=10) | {"clips_per_shard": 2}
    names = sorted(path.name for path in arguments["audio"].iterdir())
    rows = [(f"clip{number}", names[number % 16]) for number in range(160)]
    (folder / "segments.csv").write_text(
        "".join(f'{clip_id}, 0, 10, "/m/dog,/m/cat"\n' for clip_id, _ in rows)
    )
    (folder / "paths.csv").write_text(
        "clip_id,path\n" + "".join(f"{clip_id},{name}\n" for clip_id, name in rows)
    )
    arguments["paths"] = folder / "paths.csv"
    build(**arguments, output_dir=folder / "undisturbed", num_workers=2)
    return arguments, folder / "undisturbed"


@pytest.fixture(scope="module")
def forks():
    """Processes that have imported everything but have no thread yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_prep.build", "building"])
    return context


def run(arguments: dict, data_dir: pathlib.Path, **more) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os._exit(main(command(arguments, data_dir, num_workers=2, **more)[3:]))


def num_done(data_dir: pathlib.Path) -> int:
    return len(list(data_dir.glob(".build/*-*.json")))


def wait_until(condition, process) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition() and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_build_killed_at_random_moments(inputs, forks, tmp_path):
    """While it plans, while its workers write shards, and while it writes the metadata."""
    arguments, undisturbed = inputs
    rng = random.Random(4)
    data_dir = tmp_path / "set"
    expected = contents(undisturbed)
    kills: list[str] = []

    def kill(phase, condition, at_most_s):
        process = forks.Process(target=run, args=(arguments, data_dir))
        process.start()
        wait_until(condition, process)
        time.sleep(rng.uniform(0, at_most_s))
        if process.is_alive():
            kills.append(phase)
        process.kill()
        process.join()
        # Workers that are still ending may delete their temporary files now.
        for path in filter(pathlib.Path.is_file, data_dir.glob("[!.]*")):
            assert path.read_bytes() == expected[path.name]

    for _ in range(3):
        shutil.rmtree(data_dir, ignore_errors=True)
        kill("plan", lambda: data_dir.exists(), 0.03)
    for _ in range(4):
        before = num_done(data_dir)
        kill("shards", lambda before=before: num_done(data_dir) > before, 0.1)
    assert 4 <= num_done(data_dir) < 80
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert contents(data_dir) == expected
    for _ in range(4):
        for name in expected:
            if "array_record" not in name:
                (data_dir / name).unlink(missing_ok=True)
        kill("rest", lambda: any(data_dir.glob("*rejects*")), 0.03)
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert contents(data_dir) == expected
    assert {path.name for path in (data_dir / ".build").iterdir()} == {
        path.name for path in (undisturbed / ".build").iterdir()
    }
    assert len(kills) >= KILLS, kills


def test_workers_killed_at_random_moments(inputs, forks, tmp_path):
    arguments, undisturbed = inputs
    rng = random.Random(5)
    data_dir = tmp_path / "set"
    process = forks.Process(target=run, args=(arguments, data_dir))
    process.start()
    kills = 0
    while kills < KILLS:
        before = num_done(data_dir)
        wait_until(lambda before=before: num_done(data_dir) > before, process)
        time.sleep(rng.uniform(0, 0.1))
        assert process.is_alive()
        if workers := children_of(process.pid):
            os.kill(rng.choice(workers), signal.SIGKILL)
            kills += 1
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    assert contents(data_dir) == contents(undisturbed)


def test_a_build_that_is_paused_gives_up_no_clip(inputs, forks, tmp_path):
    """Ctrl-Z and fg: the clips waited longer than the limit, but all processes were stopped."""
    arguments, undisturbed = inputs
    data_dir = tmp_path / "set"
    process = forks.Process(target=run, args=(arguments, data_dir), kwargs={"clip_timeout_s": 1})
    process.start()
    wait_until(lambda: num_done(data_dir) > 3, process)
    everybody = [process.pid, *children_of(process.pid)]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.1)
    process.join(DEADLINE_S)
    assert process.exitcode == 0
    assert contents(data_dir) == contents(undisturbed)


@contextlib.contextmanager
def held(path: pathlib.Path):
    """Makes open() of the file wait in other processes, for longer than a test takes."""
    # SIGIO announces that a process waits; by default it kills this process.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with open(path, "rb+") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            pytest.skip(f"needs a file system with leases: {error}")
        yield


def test_a_clip_that_hangs_is_left_out(tmp_path, capfd):
    arguments = make_inputs(tmp_path / "inputs", 20) | {"clips_per_shard": 10}
    (path,) = arguments["audio"].glob("Y_clip005*")
    with held(path):
        flags = command(arguments, tmp_path / "set", num_workers=2, clip_timeout_s=1)
        assert main(flags[3:]) == 0
    assert rejects(tmp_path / "set") == {"_clip005": "timeout"}
    assert "was not read within 1 s" in (tmp_path / "set" / "rejects.csv").read_text()
    assert "written                19" in capfd.readouterr().err
    path.write_bytes(b"")
    build(**arguments, output_dir=tmp_path / "empty")  # the other clips are the same
    both = [contents(tmp_path / name) for name in ("set", "empty")]
    assert rejects(tmp_path / "empty") == {"_clip005": "empty"}
    for name in ("rejects.csv", "sha256.json"):  # the second has a digest of the first
        assert all(each.pop(name) for each in both)
    assert both[0] == both[1]


def test_no_clip_is_given_up_in_no_time(inputs, tmp_path, capfd):
    arguments, _ = inputs
    for value in ("0", "-1", "nan"):
        flags = command(arguments, tmp_path / "set", clip_timeout_s=value)
        assert main(flags[3:]) == 1
        assert "expected seconds, more than 0" in capfd.readouterr().err


def test_recordings_that_go_away_while_it_works(inputs, tmp_path, capfd):
    """A disk that is unmounted is not 100 bad recordings."""
    arguments, undisturbed = inputs
    data_dir = tmp_path / "set"
    audio = arguments["audio"]

    def unmount():
        while num_done(data_dir) < 3:
            time.sleep(0.001)
        audio.rename(audio.with_name("away"))

    thread = threading.Thread(target=unmount)
    thread.start()
    try:
        assert main(command(arguments, data_dir, num_workers=2)[3:]) == 1
        thread.join()
        error = capfd.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: {audio}: the recordings were here when the build began")
        assert "No such file or directory" in error
        assert not (data_dir / "clips.parquet").exists()
        plan = Plan.open(data_dir)
        shard = plan.shards[-1]
        audio.mkdir()  # where it was mounted
        with pytest.raises(InputError, match="it is empty; finished shards are kept"):
            write_shard(plan, shard, on_clip=lambda _: None, fatal={})
        audio.rmdir()
    finally:
        audio.with_name("away").rename(audio)
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert contents(data_dir) == contents(undisturbed)
