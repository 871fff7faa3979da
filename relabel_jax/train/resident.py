"""Puts inputs on the devices: for a whole training if they fit, else chunk by chunk."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator

import jax
import numpy as np

from relabel_jax.data.pipeline import ReadInputs, read_chunks
from relabel_jax.errors import InputError
from relabel_jax.progress import Progress
from relabel_jax.runs import processes
from relabel_jax.train.population import Layout

_LOG = logging.getLogger(__name__)
MODES = ("auto", "always", "never")
# So that an index into the elements of a block fits into 32 bits.
_MAX_BLOCK_ELEMENTS = 2**31 - 1
# The share of the free memory that inputs may take. A step needs the rest for activations,
# gradients and other buffers.
_SHARE = 0.75
_CLIPS_A_READ = 512

Blocks = tuple[jax.Array, ...]


def load_resident(
    sources: dict[str, tuple[ReadInputs, int]], mode: str, layout: Layout
) -> dict[str, Blocks]:
    """Puts the inputs of splits on the devices. Each device gets all inputs.

    Each clip is read once. With several processes each one reads a part, and the devices exchange
    the parts.

    Args:
      sources: for each split, a function that reads the inputs [n, ...] of clips int64[n], and the
        number of clips.
      mode: one of `MODES`; `auto` means `always` if the inputs fit and `never` otherwise.
      layout: the layout of members and batches on the devices.

    Returns:
      The blocks [clips, ...] of each split; () if the inputs must be streamed.

    Raises:
      InputError: the mode is `always`, and the inputs do not fit.
    """
    if mode == "never":
        return dict.fromkeys(sources, ())
    likes = [read(np.zeros(1, np.int64)) for read, _ in sources.values()]
    bytes_a_clip = max(like.nbytes for like in likes)
    needed = bytes_a_clip * sum(num_clips for _, num_clips in sources.values())
    if layout.mesh.size > 1 and jax.default_backend() != "cpu":  # for a CPU free_bytes counts this
        # While the parts of a block are exchanged, a device holds its part and the whole block.
        largest = bytes_a_clip * max(num_clips for _, num_clips in sources.values())
        needed += min(largest, likes[0].itemsize * _MAX_BLOCK_ELEMENTS) // layout.mesh.size
    there = int(_SHARE * free_bytes())
    if not processes.all_processes(needed <= there):
        what = (
            f"{sum(num_clips for _, num_clips in sources.values())} clips need {needed / 1e9:.3g} "
            f"GB on each device, and {there / 1e9:.3g} GB are available"
        )
        if mode == "always":
            raise InputError(
                f"config.resident=always: {what}; use config.resident=auto, which streams them"
            )
        _LOG.info("streaming: %s", what)
        return dict.fromkeys(sources, ())
    total = sum(num_clips for _, num_clips in sources.values())
    with Progress("loading", total, "clips") as progress:
        return {
            split: _load(read, num_clips, layout, progress)
            for split, (read, num_clips) in sources.items()
        }


def _load(read: ReadInputs, num_clips: int, layout: Layout, progress: Progress) -> Blocks:
    like = read(np.zeros(1, np.int64))[0]
    num_devices = layout.mesh.size
    clips_a_block = _MAX_BLOCK_ELEMENTS // like.size // num_devices * num_devices
    blocks = []
    for start in range(0, num_clips, clips_a_block):
        clips = np.arange(start, min(start + clips_a_block, num_clips))
        # All devices must get the same number of clips. So the last clip is repeated; no index
        # refers to the copies.
        clips = np.pad(clips, (0, -len(clips) % num_devices), mode="edge")
        clips = clips[layout.part(len(clips), "member", "data")]
        rows = np.empty((len(clips), *like.shape), like.dtype)
        for at in range(0, len(rows), _CLIPS_A_READ):
            piece = clips[at : at + _CLIPS_A_READ]
            rows[at : at + len(piece)] = read(piece)
            progress.update(len(piece))
        divided = layout.put_part(rows, ("member", "data"))
        # On one device the part is the whole block. Donating it avoids a copy.
        whole = jax.jit(
            lambda rows: rows,
            out_shardings=layout.sharding(),
            donate_argnums=() if num_devices > 1 else (0,),
        )
        blocks.append(whole(divided))
    return tuple(blocks)


def input_chunks(
    read_inputs: ReadInputs,
    clips: np.ndarray,
    batch_size: int,
    batches_per_chunk: int,
    layout: Layout,
    resident: Blocks,
) -> Iterator[tuple[jax.Array, int]]:
    """Puts chunks of batches on the devices one by one, and reads ahead on the host.

    Every process reads its own part of each batch.

    Args:
      read_inputs: reads the inputs [n, ...] of clips int64[n].
      clips: int64[n], the numbers of the clips; whole batches.
      batch_size: clips a batch.
      batches_per_chunk: batches a chunk.
      layout: the layout of members and batches on the devices.
      resident: the blocks of inputs on the devices; () if inputs are streamed.

    Yields:
      The inputs [chunk, batch, ...], or the numbers of the clips, int32[chunk, batch], if the
      inputs are resident; and the number of batches that have clips.
    """
    parts = clips.reshape(-1, batch_size)[:, layout.part(batch_size, "data")]
    if resident:
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
