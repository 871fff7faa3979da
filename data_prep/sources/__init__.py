"""Files that hold many recordings, read where they lie: nothing is unpacked on disk.

A further kind of file is a module with one class of the form of `Source`, and a line in `_KINDS`.
Names inside these files are looked up and shown, and never become paths.
"""

import dataclasses
import functools
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from relabel_jax.audio.decode import read_waveform, to_waveform
from relabel_jax.errors import Rejected

_KINDS = {
    ".parquet": ("data_prep.sources.huggingface", "ParquetSource"),
    ".tar": ("data_prep.sources.webdataset", "TarSource"),
    ".h5": ("data_prep.sources.panns", "HDF5Source"),
    ".hdf5": ("data_prep.sources.panns", "HDF5Source"),
}
EXTENSIONS = tuple(_KINDS)

_MAX_OPEN_FILES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """Where a recording lies.

    Attributes:
      path: the file.
      member: what finds it in a file that holds many; "" if the file is the recording.
      block: where reading a clip costs reading its neighbours too, a name that these share: they go
        to the same shard and are read in the order of `row`.
      row: place in the block.
    """

    path: str
    member: str = ""
    block: str = ""
    row: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One of the recordings that a file holds.

    Attributes:
      name: what a file of this recording would be called, without extension; "" if it has no name.
      clip_id: its clip, where the source itself names the clips.
      recording: where it lies, or why it cannot be used.
      labels: mids, display names or class numbers; empty where none were asked for.
      num_classes: of how many classes the labels are numbers, where the source says so; else 0.
    """

    name: str
    clip_id: str
    recording: Recording | Rejected
    labels: Sequence[str | int] | Rejected = ()
    num_classes: int = 0


class Source(Protocol):
    """A file that holds many recordings.

    `__init__` and `entries` raise `Rejected` where the file is damaged and `InputError` where it is
    of another form, or its library is not installed.
    """

    def __init__(self, path: str): ...

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        """All recordings, in the file's order. Raises `Rejected` where the rest cannot be read."""

    def read(self, member: str) -> tuple[np.ndarray, int]:
        """The recording of `Recording.member` as `audio.decode` has it: float32[time], rate in Hz.

        Raises `Rejected`: as `audio.decode` does, or `changed` if another one lies there now.
        """


def open_source(path: str) -> Source:
    """Opens a file with one of `EXTENSIONS`."""
    module, name = _KINDS[os.path.splitext(path)[1].lower()]
    return getattr(importlib.import_module(module), name)(path)


def read_recording(path: str, member: str) -> tuple[np.ndarray, float]:
    """`audio.read_waveform` of a recording that may lie in a file with many."""
    if not member:
        return read_waveform(path)
    return to_waveform(*_open_once(path).read(member))


_open_once = functools.lru_cache(_MAX_OPEN_FILES)(open_source)
