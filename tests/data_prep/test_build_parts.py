"""A build in parts, as the jobs of a cluster do it."""

import signal
import subprocess
import time

import pytest
from building import REPOSITORY, command, contents, make_inputs

from data_prep.build import build, main
from data_prep.working_folder import working_folder

pytestmark = pytest.mark.slow


def start(arguments, data_dir, part) -> subprocess.Popen:
    return subprocess.Popen(
        command(arguments, data_dir, part=part, num_workers=1),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_four_parts_at_once_and_one_killed(tmp_path):
    arguments = make_inputs(tmp_path, 60, duration_s=4) | {"clips_per_shard": 3}
    build(**arguments, output_dir=tmp_path / "undisturbed", num_workers=1)
    data_dir = tmp_path / "set"
    jobs = {part: start(arguments, data_dir, part) for part in ("1/4", "2/4", "3/4", "4/4")}
    while not list(data_dir.glob(".build/*-*.json")):
        assert any(job.poll() is None for job in jobs.values())
        time.sleep(0.001)
    jobs["3/4"].kill()
    errors = {part: job.communicate(timeout=120)[1] for part, job in jobs.items()}
    codes = {part: job.returncode for part, job in jobs.items()}
    assert codes == {"1/4": 0, "2/4": 0, "3/4": -signal.SIGKILL, "4/4": 0}
    assert not (data_dir / "clips.parquet").exists()
    assert "part 1/4 is done" in errors["1/4"]
    assert "shards are still to do" in errors["1/4"]
    again = start(arguments, data_dir, "3/4")
    assert "written                60" in again.communicate(timeout=120)[1]
    assert contents(data_dir) == contents(tmp_path / "undisturbed")
    # Any part may run again, and a whole build finds nothing to do.
    build(**arguments, output_dir=data_dir, part="2/4", num_workers=1)
    build(**arguments, output_dir=data_dir, part="1/2", num_workers=1)
    build(**arguments, output_dir=data_dir, num_workers=1)
    assert contents(data_dir) == contents(tmp_path / "undisturbed")


def test_a_part_and_a_whole_build_exclude_each_other(tmp_path, capfd):
    arguments = make_inputs(tmp_path, 6)

    def error(part):
        assert main(command(arguments, tmp_path / "set", part=part)[3:]) == 1
        return capfd.readouterr().err.splitlines()[-1]

    with working_folder(tmp_path / "set"):
        assert "another build is at work there" in error("1/2")
    with working_folder(tmp_path / "set", "1/2"):
        assert "part 1/2 is at work there already" in error("1/2")
        assert "another build is at work there" in error("")
    for part in ("0/2", "3/2", "1", "a/b", "1/0"):
        assert error(part) == f"error: --part={part}: expected K/N with K from 1 to N, such as 2/8"
    flags = command(arguments, tmp_path / "set", part="1/2", runner="direct")
    assert main(flags[3:]) == 1
    assert "--part: not with --runner" in capfd.readouterr().err
