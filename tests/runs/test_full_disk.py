"""A fatal error of a disk ends the process within seconds, with one line and without the lock."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).with_name("full_disk.py")
REPOSITORY = str(pathlib.Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("max_bytes", "num_epochs"),
    [
        (3_000, 2),  # the first checkpoint
        (5_500, 60),  # TensorBoard's file, after 20 epochs
        (0, 0),  # no disk: a thread that hangs
    ],
)
def test_the_process_ends(tmp_path, max_bytes, num_epochs):
    arguments = [tmp_path / "run", max_bytes, num_epochs]
    process = subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Programs that a full disk cuts off must not get into the cache of the tests.
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONPATH": REPOSITORY},
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("error: "):
                break
        start = time.monotonic()
        rest = process.communicate(timeout=60)[0]
        assert time.monotonic() - start < 10
    finally:
        process.kill()
    assert process.returncode == 1
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in "".join(lines) + rest
    with Workdir(tmp_path / "run").locked():
        pass
