"""Reads rows of the data set as chunks of batches, ahead of the device.

The seed and the epoch determine the order of the clips, and the step determines the position in it.
So a checkpoint needs no state of the input, and a resumed run sees the same batches for any number
of reader threads.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import grain
import numpy as np

ReadInputs = Callable[[np.ndarray], np.ndarray]


class Chunk(NamedTuple):
    """Some batches that are copied to the device together.

    Attributes:
      inputs: [chunk, batch, ...], zero after the last clip.
      clips: int64[n], the numbers of the clips, in order; n is at most chunk x batch.
      num_batches: number of batches that hold a clip.
    """

    inputs: np.ndarray
    clips: np.ndarray
    num_batches: int


def epoch_order(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    """Returns int64[num_clips]: the shuffled order of the training clips in one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_clips)


def read_chunks(
    read_inputs: ReadInputs, clips: np.ndarray, batch_size: int, batches_per_chunk: int
) -> Iterator[Chunk]:
    """Reads clips in the given order. While one chunk is computed, the next two are read.

    Args:
      read_inputs: returns the network's inputs [n, ...] for clip numbers int64[n].
      clips: int64[clips], the clip numbers to read.
      batch_size: clips in a batch.
      batches_per_chunk: batches in a chunk.

    Yields:
      The chunks in order; the last one may hold fewer clips.
    """
    chunks = grain.MapDataset.source(_Chunks(read_inputs, clips, batch_size, batches_per_chunk))
    # One thread is enough: array_record reads the hundreds of records of a chunk in parallel.
    return iter(chunks.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


class _Chunks:
    """Gives Grain random access to the chunks."""

    def __init__(self, read_inputs, clips, batch_size, batches_per_chunk):
        self._read_inputs = read_inputs
        self._clips = clips
        self._batch_size = batch_size
        self._chunk_size = batch_size * batches_per_chunk

    def __len__(self) -> int:
        return -(-len(self._clips) // self._chunk_size)

    def __getitem__(self, number: int) -> Chunk:
        clips = self._clips[number * self._chunk_size :][: self._chunk_size]
        inputs = self._read_inputs(clips)
        return Chunk(
            inputs=to_batches(inputs, self._batch_size, self._chunk_size // self._batch_size),
            clips=clips,
            num_batches=-(-len(clips) // self._batch_size),
        )


def to_batches(rows: np.ndarray, batch_size: int, num_batches: int) -> np.ndarray:
    """Reshapes [n, ...] to [num_batches, batch_size, ...], zero-padded at the end."""
    missing = batch_size * num_batches - len(rows)
    if missing:
        rows = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    return rows.reshape(num_batches, batch_size, *rows.shape[1:])
