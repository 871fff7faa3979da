"""A CPU's devices wait long for each other, and XLA knows the flags that say so."""

import os
import subprocess
import sys

PROGRAM = """
import os
from relabel_jax.ops import cpu_devices
cpu_devices.use_cores(24)
import jax
print(jax.numpy.ones(3).sum(), os.environ["XLA_FLAGS"])
"""


def test_xla_takes_the_flags_and_those_of_the_user_stay():
    own = "--xla_cpu_collective_call_terminate_timeout_seconds=90"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"XLA_FLAGS": own, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    total, *flags = run.stdout.split()
    assert total == "3.0"
    assert flags == [own, "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600"]
