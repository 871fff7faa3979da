"""From rows of the data set to chunks of batches, read ahead of the device.

The order of an epoch follows from (seed, epoch) alone and a place in it from the step alone, so a
checkpoint needs no state of the input and a resumed run sees the same batches, whatever the
number of reader threads was.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import grain
import numpy as np

ReadInputs = Callable[[np.ndarray], np.ndarray]


class Chunk(NamedTuple):
    """`chunk` batches, the unit that goes to the device.

    Attributes:
      inputs: [chunk, batch, ...]; the places after the last clip are 0.
      clips: int64[n], the clips that are here, in order; n is at most chunk x batch.
      num_batches: int, how many batches hold a clip.
    """

    inputs: np.ndarray
    clips: np.ndarray
    num_batches: int


def epoch_order(seed: int, epoch: int, num_clips: int) -> np.ndarray:
    """int64[num_clips]: the shuffled order of the training clips of one epoch."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_clips)


def read_chunks(
    read_inputs: ReadInputs, clips: np.ndarray, batch_size: int, batches_per_chunk: int
) -> Iterator[Chunk]:
    """Reads clips in the given order; the next two chunks are read while one is computed.

    Args:
      read_inputs: int64[n] -> [n, ...], random access to what the network takes.
      clips: int64[clips], what to ask `read_inputs` for.
      batch_size, batches_per_chunk: shape of a chunk.
    """
    chunks = grain.MapDataset.source(_Chunks(read_inputs, clips, batch_size, batches_per_chunk))
    # One thread: a chunk is hundreds of records, and array_record reads these in parallel itself.
    return iter(chunks.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


class _Chunks:
    """Random access to the chunks, as Grain's source."""

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
    """[n, ...] -> [num_batches, batch_size, ...], filled up with zeros."""
    missing = batch_size * num_batches - len(rows)
    if missing:
        rows = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
    return rows.reshape(num_batches, batch_size, *rows.shape[1:])
