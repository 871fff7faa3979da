"""Puts inputs on the devices: for a whole training if they fit, else chunk by chunk."""

import contextlib
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from relabel_jax.data.pipeline import ReadInputs, read_chunks
from relabel_jax.errors import InputError
from relabel_jax.progress import Progress
from relabel_jax.runs import processes
from relabel_jax.train.population import Layout
from relabel_jax.train.rows import Rows, tiled_shape, to_block

_LOG = logging.getLogger(__name__)
MODES = ("auto", "always", "never")
# So that an index into the elements of a block fits into 32 bits.
_MAX_BLOCK_ELEMENTS = 2**31 - 1
# The share of the free memory that inputs may take if it is not known what a step needs for
# activations, gradients and other buffers.
_SHARE = 0.75
# The share of the free memory that inputs and a step may take. The rest is lost between arrays.
_USABLE = 0.95
_CLIPS_A_READ = 512

Source = tuple[ReadInputs, int]
"""A function that reads the inputs [n, ...] of clips int64[n], and the number of clips."""


def load_resident(
    sources: dict[str, Source],
    mode: str,
    layout: Layout,
    step_bytes: Callable[[dict[str, Rows]], int | None] | None = None,
) -> dict[str, Rows | None]:
    """Puts the inputs of splits on the devices. Each device gets all inputs.

    Each clip is read once. With several processes each one reads a part, and the devices exchange
    the parts.

    Args:
      sources: the clips of each split.
      mode: one of `MODES`; `auto` means `always` if the inputs fit and `never` otherwise.
      layout: the layout of members and batches on the devices.
      step_bytes: returns the bytes that training needs on a device besides these rows, whose
        blocks are `jax.ShapeDtypeStruct`. Without it, or if it returns None, training gets a share
        of the free memory.

    Returns:
      The rows of each split; None if the inputs must be streamed.

    Raises:
      InputError: the mode is `always`, and the inputs do not fit.
    """
    if mode == "never":
        return dict.fromkeys(sources)
    plans = {split: _plan(source, layout) for split, source in sources.items()}
    blocks = [block for rows in plans.values() for block in rows.blocks]
    needed = sum(_num_bytes(block) for block in blocks)
    if layout.mesh.size > 1 and jax.default_backend() != "cpu":  # for a CPU free_bytes counts this
        # While the parts of a block are exchanged, a device holds its part and the whole block.
        needed += max(map(_num_bytes, blocks)) // layout.mesh.size
    free = free_bytes()
    there = int(_SHARE * free)
    # All processes compile the step together, or none does.
    if step_bytes is not None and processes.all_processes(needed <= free):
        of_step = step_bytes(plans)
        there = there if of_step is None else max(0, int(_USABLE * free) - of_step)
    num_clips = sum(number for _, number in sources.values())
    if not processes.all_processes(needed <= there):
        what = (
            f"{num_clips} clips need {needed / 1e9:.3g} "
            f"GB on each device, and {there / 1e9:.3g} GB are available"
        )
        if mode == "always":
            raise InputError(
                f"config.resident=always: {what}; use config.resident=auto, which streams them"
            )
        _LOG.info("streaming: %s", what)
        return dict.fromkeys(sources)
    with Progress("loading", num_clips, "clips") as progress:
        return {
            split: _load(source, plans[split], layout, progress)
            for split, source in sources.items()
        }


def _plan(source: Source, layout: Layout) -> Rows:
    """Returns the rows of a split, with shapes in place of arrays."""
    read, num_clips = source
    like = read(np.zeros(1, np.int64))[0]
    row = tiled_shape(like.shape, like.dtype)
    num_devices = layout.mesh.size
    most = _MAX_BLOCK_ELEMENTS // math.prod(row) // num_devices * num_devices
    # All devices load the same number of clips of a block. So the last block may be longer than the
    # clips that are left; no index refers to the rest.
    padded = num_clips + -num_clips % num_devices
    lengths = [min(most, padded - start) for start in range(0, padded, most)]
    return Rows(
        tuple(
            jax.ShapeDtypeStruct((length, *row), like.dtype, sharding=layout.sharding())
            for length in lengths
        ),
        like.shape,
    )


def _num_bytes(block: jax.ShapeDtypeStruct) -> int:
    return block.size * block.dtype.itemsize


def _load(source: Source, plan: Rows, layout: Layout, progress: Progress) -> Rows:
    """Reads the clips of a split, and puts them on the devices block by block."""
    read, num_clips = source
    blocks: list[jax.Array] = []
    start = 0
    for block in plan.blocks:
        here = layout.part(len(block), "member", "data")
        rows = np.zeros((here.stop - here.start, *block.shape[1:]), block.dtype)
        end = min(here.stop, num_clips - start)
        for at in range(here.start, end, _CLIPS_A_READ):
            clips = np.arange(at, min(at + _CLIPS_A_READ, end))
            to_block(read(start + clips), rows[at - here.start :][: len(clips)])
            progress.update(len(clips))
        divided = layout.put_part(rows, ("member", "data"))
        # On one device the part is the whole block. Donating it avoids a copy.
        whole = jax.jit(
            lambda rows: rows,
            out_shardings=layout.sharding(),
            donate_argnums=() if layout.mesh.size > 1 else (0,),
        )
        blocks.append(whole(divided))
        start += len(block)
    return Rows(tuple(blocks), plan.shape)


def input_chunks(
    read_inputs: ReadInputs,
    clips: np.ndarray,
    batch_size: int,
    batches_per_chunk: int,
    layout: Layout,
    resident: Rows | None,
) -> Iterator[tuple[jax.Array, int]]:
    """Puts chunks of batches on the devices one by one, and reads ahead on the host.

    Every process reads its own part of each batch.

    Args:
      read_inputs: reads the inputs [n, ...] of clips int64[n].
      clips: int64[n], the numbers of the clips; whole batches.
      batch_size: clips a batch.
      batches_per_chunk: batches a chunk.
      layout: the layout of members and batches on the devices.
      resident: the clips on the devices; None if inputs are streamed.

    Yields:
      The inputs [chunk, batch, ...], or the numbers of the clips, int32[chunk, batch], if the
      inputs are resident; and the number of batches that have clips.
    """
    parts = clips.reshape(-1, batch_size)[:, layout.part(batch_size, "data")]
    if resident is not None:
        read_inputs = _as_indices
    for chunk in read_chunks(read_inputs, parts.ravel(), parts.shape[1], batches_per_chunk):
        yield layout.put_part(chunk.inputs, None, "data"), chunk.num_batches


def _as_indices(clips: np.ndarray) -> np.ndarray:
    return clips.astype(np.int32)


def free_bytes() -> int:
    """Returns the free memory of a device of this process; on a CPU, its share of the system's."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    # While a block is loaded, it is in host memory twice. So only half of the memory counts.
    return _free_system_bytes() // (2 * jax.local_device_count())


def _free_system_bytes() -> int:
    """Returns the available memory on Linux, or a container's limit if lower; else all memory."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, StopIteration):
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1])
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max": no limit
        group = pathlib.Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["file"])  # without the cache
        free = min(free, limit - used)
    return free
