"""Over how many devices members and batches are divided."""

import math

import jax

from relabel_jax.errors import InputError
from relabel_jax.ops import tpu_flags

# The cost of a step on a TPU v5e that does not depend on the number of clips, as a number of clips,
# by the compiler's estimates for the paper's network.
_FIXED_CLIPS = 6
# A TPU is not faster with fewer clips unless `tpu_flags.py` has set the compiler's flags.
_LEAST_CLIPS = 24


def grid(num_members: int, batch_size: int, num_devices: int) -> tuple[int, int]:
    """Returns the numbers of rows and columns of devices.

    On a CPU all devices are used: the members are divided first, then the batch. On an accelerator
    the grid is the one with the shortest step. Of equally fast ones it is the smallest.

    Raises:
      InputError: the batch cannot be divided among the devices.
    """
    if jax.default_backend() == "cpu":
        grids = [whole_grid(num_members, num_devices, jax.process_count())]
    else:
        grids = _grids(num_members, num_devices, jax.process_count())
    divided = [each for each in grids if batch_size % each[1] == 0]
    if not divided:
        least = min(columns for _, columns in grids)
        raise InputError(
            f"config.batch_size {batch_size} is not divisible by the {least} devices "
            f"that share a batch; use a multiple of {least}"
        )

    is_any_size_fast = jax.default_backend() != "tpu" or tpu_flags.small_batches_are_kept()
    least = 1 if is_any_size_fast else _LEAST_CLIPS

    def cost(rows_and_columns):
        rows, columns = rows_and_columns
        clips = max(batch_size // columns, least) + _FIXED_CLIPS
        return num_members // rows * clips, rows * columns

    return min(divided, key=cost)


def whole_grid(num_members: int, num_devices: int, num_processes: int = 1) -> tuple[int, int]:
    """Returns the rows and columns of all devices: the members are divided first, then the batch.

    Args:
      num_members: the number of members.
      num_devices: the devices of all processes.
      num_processes: the number of processes.
    """
    grids = _grids(num_members, num_devices, num_processes)
    return max(each for each in grids if math.prod(each) == num_devices)


def _grids(num_members: int, num_devices: int, num_processes: int) -> list[tuple[int, int]]:
    """Returns the grids in which each process has as many devices, in one row or in whole rows."""

    def is_possible(rows: int, columns: int) -> bool:
        of_process, rest = divmod(rows * columns, num_processes)
        if rest or not 0 < of_process <= num_devices // num_processes:
            return False
        return columns % of_process == 0 or of_process % columns == 0

    return [
        (rows, columns)
        for rows in range(1, num_members + 1)
        for columns in range(1, num_devices // rows + 1)
        if num_members % rows == 0 and is_possible(rows, columns)
    ]
