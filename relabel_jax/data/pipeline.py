"""Reads rows of the data set as chunks of batches, ahead of the device.

The seed and the epoch determine the order of the clips, and the step determines the position in it.
So a checkpoint needs no state of the input, and a resumed run sees the same batches for any number
of reader threads.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import grain
import numpy as np

_CLIPS_A_PART = 4096

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


def balanced_weights(labels: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Returns the weights with which balanced sampling draws clips.

    It is the formula of PSLA and AST (Gong et al., 2021; `gen_weight_file.py` of
    https://github.com/YuanGongND/ast): the weight of a clip is the sum over its labels of
    1000 / (clips with this label + 0.01). A masked label does not count.

    Args:
      labels, masked: bool[clips, classes].

    Returns:
      float64[clips]; 0 for a clip without a label.
    """
    parts = range(0, len(labels), _CLIPS_A_PART)  # of all of AudioSet, whole arrays would be large
    known = [labels[i : i + _CLIPS_A_PART] & ~masked[i : i + _CLIPS_A_PART] for i in parts]
    counts = np.sum([part.sum(axis=0) for part in known], axis=0)
    of_class = 1000 / (counts + 0.01)
    return np.concatenate([(part * of_class).sum(axis=1) for part in known])


def balanced_order(seed: int, epoch: int, weights: np.ndarray, num_draws: int) -> np.ndarray:
    """Returns int64[num_draws]: clips drawn with these weights, with replacement, for one epoch.

    Args:
      weights: float64[clips], see `balanced_weights`; their sum is above 0.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.choice(len(weights), num_draws, p=weights / weights.sum())


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
