"""Starts programs that need their own devices or several processes."""

import os
import pathlib
import socket
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).parents[2]


def start(log_path, command, num_devices=1):
    """Starts Python; what it prints goes to a file."""
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    )
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(log_path.parents[1] / "programs"),  # of all tests
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with open(log_path, "w") as log:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env=os.environ | cache | {"XLA_FLAGS": flags},
            stdout=log,
            stderr=log,
        )


def wait(processes, timeout_s=300):
    """Their exit statuses; none is left behind."""
    try:
        deadline = time.monotonic() + timeout_s
        return [process.wait(max(0.1, deadline - time.monotonic())) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def free_address():
    """An address on loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"
