"""How members and batches are laid out on accelerators."""

import os

import jax
import pytest

from relabel_jax.errors import InputError
from relabel_jax.ops import tpu_flags
from relabel_jax.train.device_grid import grid


@pytest.fixture
def accelerators(monkeypatch):
    """Sets the number of processes."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def set_processes(number):
        monkeypatch.setattr(jax, "process_count", lambda: number)

    return set_processes


@pytest.mark.parametrize(
    ("num_members", "batch_size", "num_devices", "num_processes", "expected"),
    [
        (1, 24, 1, 1, (1, 1)),
        (1, 24, 4, 1, (1, 4)),
        (4, 24, 4, 1, (4, 1)),  # one member a chip, no sums
        (9, 24, 4, 1, (3, 1)),  # a chip is idle
        (2, 24, 8, 1, (2, 4)),
        (5, 24, 4, 1, (1, 4)),
        (1, 25, 4, 1, (1, 1)),  # nothing that divides the batch
        (1, 24, 8, 2, (1, 8)),
        (2, 24, 8, 2, (2, 4)),
        (3, 24, 8, 2, (1, 8)),  # no row may have a part of a process
    ],
)
def test_members_first(accelerators, num_members, batch_size, num_devices, num_processes, expected):
    accelerators(num_processes)
    assert grid(num_members, batch_size, num_devices) == expected


def test_no_process_may_be_idle(accelerators):
    accelerators(2)
    assert grid(1, 26, 8) == (1, 2)  # one chip of each
    with pytest.raises(InputError, match="batch_size 25 is not divisible by the 2 devices"):
        grid(1, 25, 8)


def test_a_tpu_gets_small_batches_only_with_its_flags(accelerators, monkeypatch):
    accelerators(1)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--some=1")
    assert grid(1, 24, 4) == (1, 1)
    assert grid(1, 48, 4) == (1, 2)
    assert grid(2, 24, 4) == (2, 1)
    tpu_flags.keep_small_batches()
    if not tpu_flags.small_batches_are_kept():
        pytest.skip("this version of the compiler gets no flags")
    assert os.environ["LIBTPU_INIT_ARGS"].startswith("--some=1 --xla_tpu_run_space_to_batch=false")
    assert grid(1, 24, 4) == (1, 4)
    assert grid(2, 24, 4) == (2, 2)
