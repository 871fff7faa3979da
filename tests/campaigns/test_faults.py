"""Faults of the system: finished work is kept, no recording is rejected, nothing dead writes."""

import csv
import errno
import os
import pathlib
import subprocess
import sys
import time

import failing_disk
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "data_prep"))
from building import REPOSITORY, build_here, children_of, command, contents, make_inputs, plan_only
from building import rejects as rejects_of

from data_prep import permit
from data_prep.build import build, main
from data_prep.shards import write_shard
from relabel_jax import embed
from relabel_jax.errors import InputError, Rejected
from relabel_jax.faults import read_patiently, system_fault

IS_LINUX = os.path.exists("/proc/self/task")


def failing(number):
    return OSError(number, os.strerror(number))


def test_a_fault_that_passes_is_not_seen():
    left = [failing(errno.ESTALE), Rejected("unreadable", "it")]
    left[1].__cause__ = failing(errno.EIO)

    def read():
        if left:
            raise left.pop()
        return "sound"

    assert read_patiently(read, "a.wav") == "sound"


def test_a_fault_that_lasts_ends_the_command():
    def read():
        raise failing(errno.EMFILE)

    with pytest.raises(InputError, match=r"a.wav: cannot be read: Too many open files; this is a "):
        read_patiently(read, "a.wav")


def test_a_recording_that_is_gone_or_forbidden_is_at_fault_itself():
    for number in (errno.ENOENT, errno.EACCES, errno.EISDIR):
        assert system_fault(failing(number)) is None
    rejected = Rejected("unreadable", "damaged")
    with pytest.raises(Rejected):
        read_patiently(lambda: (_ for _ in ()).throw(rejected), "a.wav")


@pytest.mark.slow
@pytest.mark.skipif(not failing_disk.is_possible(), reason="needs a C compiler and Linux's /proc")
def test_a_failing_disk_stops_a_build(tmp_path):
    arguments = make_inputs(tmp_path / "inputs", 12) | {"clips_per_shard": 2}
    build_here(tmp_path / "undisturbed", **arguments)
    env = failing_disk.environment(tmp_path, "clip005")
    (tmp_path / "fails").touch()
    line = command(arguments, tmp_path / "set", num_workers=1)
    failed = subprocess.run(line, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert failed.returncode == 1
    (error,) = [each for each in failed.stderr.splitlines() if "%|" not in each]
    assert error.startswith(f"error: {arguments['audio']}/Y_clip005")
    assert "Input/output error; this is a fault of the system" in error
    assert error.endswith("finished shards are kept, so mend this and run the same command again")
    assert not (tmp_path / "set" / "clips.parquet").exists()
    (tmp_path / "fails").unlink()
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    assert contents(tmp_path / "set") == contents(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.skipif(not failing_disk.is_possible(), reason="needs a C compiler and Linux's /proc")
def test_a_failing_disk_is_not_repaired(tmp_path):
    build_here(tmp_path / "set", **make_inputs(tmp_path / "inputs", 4))
    before = contents(tmp_path / "set")
    env = failing_disk.environment(tmp_path, "relabel_audioset-")
    (tmp_path / "fails").touch()
    line = [sys.executable, "-m", "data_prep.verify", f"--data_dir={tmp_path}/set", "--repair"]
    failed = subprocess.run(line, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert failed.returncode == 1
    assert not failed.stdout
    assert "Input/output error; this is a fault of the system" in failed.stderr.splitlines()[-1]
    assert contents(tmp_path / "set") == before


@pytest.mark.slow
@pytest.mark.skipif(not failing_disk.is_possible(), reason="needs a C compiler and Linux's /proc")
def test_a_failing_disk_stops_embed(tmp_path, small_base):
    make_inputs(tmp_path / "inputs", 6)
    env = failing_disk.environment(tmp_path, "clip003")
    (tmp_path / "fails").touch()
    output = tmp_path / "e.parquet"
    flags = [f"--checkpoint={small_base}", f"--audio={tmp_path}/inputs/audio", f"--output={output}"]
    line = [sys.executable, "-m", "relabel_jax.embed", *flags]
    failed = subprocess.run(line, cwd=REPOSITORY, env=env, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert "clip003" in failed.stderr.splitlines()[-1]
    assert "finished parts are kept" in failed.stderr.splitlines()[-1]
    assert not output.exists()
    (tmp_path / "fails").unlink()
    assert embed.main(flags) == 0
    assert pq.read_metadata(output).num_rows == 6


def test_no_worker_of_an_earlier_build_writes(tmp_path):
    arguments = make_inputs(tmp_path / "inputs", 4)
    plan = plan_only(arguments, tmp_path / "set")
    before = permit.current(tmp_path / "set" / ".build")
    plan_only(arguments, tmp_path / "set")  # the next build
    with pytest.raises(InputError, match="another build is at work there now"):
        write_shard(plan, plan.shards[0], on_clip=lambda _: None, fatal={}, permit=before)
    assert not contents(tmp_path / "set")
    now = permit.current(tmp_path / "set" / ".build")
    write_shard(plan, plan.shards[0], on_clip=lambda _: None, fatal={}, permit=now)
    assert plan.outcome(plan.shards[0])


@pytest.mark.slow
@pytest.mark.skipif(not IS_LINUX, reason="finds workers in Linux's /proc")
def test_workers_that_import_while_their_build_is_killed(tmp_path):
    """Their build is killed before they have read a task; they end and write nothing."""
    arguments = make_inputs(tmp_path / "inputs", 4)
    line = command(arguments, tmp_path / "set", num_workers=1)
    process = subprocess.Popen(line, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    while not (workers := children_of(process.pid)):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers):
        assert not contents(tmp_path / "set")
        time.sleep(0.01)
    assert not contents(tmp_path / "set")


def test_rejects_are_tried_again(tmp_path, capfd):
    arguments = make_inputs(tmp_path / "inputs", 12) | {"clips_per_shard": 3}
    build_here(tmp_path / "undisturbed", **arguments)
    (path,) = arguments["audio"].glob("Y_clip005*")
    whole = path.read_bytes()
    path.write_bytes(b"")
    build_here(tmp_path / "set", **arguments)
    assert rejects_of(tmp_path / "set") == {"_clip005": "empty"}
    shards = {each: each.stat().st_mtime_ns for each in (tmp_path / "set").glob("*record-*")}
    path.write_bytes(whole)
    build(**arguments, output_dir=tmp_path / "set", num_workers=1, retry_rejects=True)
    assert "trying 1 rejected clips of 1 shards again" in capfd.readouterr().err
    assert contents(tmp_path / "set") == contents(tmp_path / "undisturbed")
    assert sum(each.stat().st_mtime_ns != time_ns for each, time_ns in shards.items()) == 1
    flags = [*command(arguments, tmp_path / "set", part="1/2")[3:], "--retry_rejects"]
    assert main(flags) == 1
    assert "--retry_rejects: not with --part" in capfd.readouterr().err


@pytest.mark.slow
def test_embed_tries_rejects_again(tmp_path, small_base, capsys):
    make_inputs(tmp_path / "inputs", 5)
    audio, output = tmp_path / "inputs" / "audio", tmp_path / "e.parquet"
    whole = {path: path.read_bytes() for path in audio.iterdir()}
    for path in whole:
        path.write_bytes(b"")
    flags = [f"--checkpoint={small_base}", f"--audio={audio}", f"--output={output}"]
    assert embed.main(flags) == 1
    assert "error: none of the 5 recordings could be embedded" in capsys.readouterr().err
    assert pq.read_metadata(output).num_rows == 0
    for path in sorted(whole)[1:]:
        path.write_bytes(whole[path])
    assert embed.main([*flags, "--retry_rejects"]) == 0
    assert "4 windows of 4 recordings; 1 rejected" in capsys.readouterr().out
    first = min(whole)
    first.write_bytes(whole[first])
    assert embed.main([*flags, "--retry_rejects"]) == 0
    assert pq.read_table(output)["path"].to_pylist() == list(map(str, [*sorted(whole)[1:], first]))
    with open(f"{output}.rejects.csv", newline="") as file:
        assert not list(csv.DictReader(file))
    assert embed.main([*flags, "--retry_rejects"]) == 1
    assert "has no rejected recordings to try again" in capsys.readouterr().err


def test_too_little_memory_is_told_with_the_name():
    def read():
        raise Rejected("unreadable", "no memory") from MemoryError()

    with pytest.raises(MemoryError, match=r"while a.wav was read"):
        read_patiently(read, "a.wav")
