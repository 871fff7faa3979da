"""Reads recordings directly from files that hold many of them, without unpacking to disk.

To support another kind of file, write a module with one class that has the methods of `Source`, and
add a line to `_KINDS`. Names inside these files are looked up and shown, but never used as paths.
"""

import dataclasses
import functools
import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from relabel_jax.audio.decode import decode
from relabel_jax.audio.facts import Facts
from relabel_jax.audio.resample import to_waveform
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import Rejected

_KINDS = {
    ".parquet": ("data_prep.sources.huggingface", "ParquetSource"),
    ".tar": ("data_prep.sources.webdataset", "TarSource"),
    ".zip": ("data_prep.sources.zipped", "ZipSource"),
    ".h5": ("data_prep.sources.hdf5", "HDF5Source"),
    ".hdf5": ("data_prep.sources.hdf5", "HDF5Source"),
    ".hdf": ("data_prep.sources.hdf5", "HDF5Source"),
}
EXTENSIONS = tuple(_KINDS)

_MAX_OPEN_FILES = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Recording:
    """The location of a recording.

    Attributes:
      path: the file.
      member: identifies the recording in a file that holds many; "" if the file is the recording.
      block: a name shared by recordings that can only be read together, or "". They go to the same
        shard and are read in the order of `row`.
      row: position in the block.
    """

    path: str
    member: str = ""
    block: str = ""
    row: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else self.path


Labels = Sequence[str | int | float] | Mapping[str, float] | np.ndarray
"""The labels of a recording as its file has them, see `sources.label_values.positive_labels`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One of the recordings that a file holds.

    Attributes:
      name: the name that a file of this recording would have, without extension; "" if it has none.
      clip_id: the id of its clip.
      recording: its location, or the reason why it cannot be used.
      labels: the labels, or the reason why they cannot be used; empty unless they were requested.
      num_classes: number of classes that the class numbers refer to; 0 if the source does not say.
      key: the full name in the file if `clip_id` is only a part of it that other recordings may
        have too (`0001` of `d0/0001`); "" if `clip_id` identifies the clip.
    """

    name: str
    clip_id: str
    recording: Recording | Rejected
    labels: Labels | Rejected = ()
    num_classes: int = 0
    key: str = ""


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Facts about the files that the user states.

    Attributes:
      rate_hz: sample rate of files that do not say it; None if the user does not say it either.
      duration_s: the length of the clips of the data set in seconds.
    """

    rate_hz: int | None = None
    duration_s: float = 10.0


DEFAULT_OPTIONS = SourceOptions()


class Source(Protocol):
    """A file that holds many recordings.

    `__init__` and `entries` raise `Rejected` if the file is damaged, and `InputError` if it has
    another form or its library is not installed.

    A class with `TAKES_OPTIONS = True` gets the `SourceOptions` as a second argument.
    """

    def __init__(self, path: str): ...

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        """Yields all recordings in the order of the file.

        Raises:
          Rejected: the rest of the file cannot be read.
        """

    def read(self, member: str, duration_s: float = math.inf, **how: Any) -> tuple[np.ndarray, int]:
        """Decodes a recording as `audio.decode.decode` does.

        Args:
          member: the `member` of its `Recording`.
          duration_s: decode this many seconds at most.
          **how: the other arguments of `audio.decode.decode`. Stored samples have one channel and
            need no decoder, so that `part_of` takes all that matters.

        Returns:
          `(mono, rate_hz)`: float32[time], and the sample rate.

        Raises:
          Rejected: see `audio.decode.decode`; or `changed` if another recording is there now.
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """A form of files, a row of the table in the documentation. Each module has its `FORMS`.

    Attributes:
      files: the extensions, as wildcards.
      holds: the content of such a file.
      name: the part of it that counts as the name of a recording.
    """

    files: str
    holds: str
    name: str


def forms() -> list[Form]:
    """Returns all forms of files that hold many recordings."""
    modules = dict.fromkeys(module for module, _ in _KINDS.values())
    return [form for module in modules for form in importlib.import_module(module).FORMS]


def open_source(path: str, options: SourceOptions | None = None) -> Source:
    """Opens a file that has one of `EXTENSIONS`.

    Args:
      path: the file.
      options: facts about the file that the user states. They are needed to list the recordings
        only: `Recording.member` has all that is needed to read one.
    """
    module, name = _KINDS[os.path.splitext(path)[1].lower()]
    kind = getattr(importlib.import_module(module), name)
    if options is not None and getattr(kind, "TAKES_OPTIONS", False):
        return kind(path, options)
    return kind(path)


def part_of(
    num_samples: int,
    rate_hz: int,
    duration_s: float = math.inf,
    *,
    start_s: float = 0.0,
    facts: Facts | None = None,
    **_: Any,
) -> slice:
    """Returns the samples of a stored recording that `audio.decode.decode` would return.

    Args:
      num_samples: the samples of the whole recording.
      rate_hz: its sample rate.
      duration_s, start_s: see `decode`.
      facts: the length is filled in.
    """
    if facts is not None:
        facts.length_s, facts.has_exact_length = num_samples / rate_hz, True
    begin = round(start_s * rate_hz)
    return slice(begin, None if duration_s == math.inf else begin + round(duration_s * rate_hz))


def read_recording(
    path: str,
    member: str,
    waveform_format: WaveformFormat,
    *,
    duration_s: float = math.inf,
    **how: Any,
) -> tuple[np.ndarray, float]:
    """Makes a waveform of a recording, which may be in a file with many.

    Args:
      path, member: see `Recording`.
      waveform_format: sample rate and length of the waveform.
      duration_s: use at most this many seconds of the recording.
      **how: the other arguments of `audio.decode.decode`.

    Returns:
      `(waveform, duration_s)`, see `audio.resample.to_waveform`.

    Raises:
      Rejected: see `audio.decode.decode`, `Source.read` and `to_waveform`.
    """
    mono, rate_hz = decode_recording(path, member, min(duration_s, waveform_format.read_s), **how)
    return to_waveform(mono, rate_hz, waveform_format)


def decode_recording(
    path: str, member: str, duration_s: float = math.inf, **how: Any
) -> tuple[np.ndarray, int]:
    """Decodes a recording, which may be in a file with many, as `audio.decode.decode` does."""
    if not member:
        return decode(path, duration_s, **how)
    return _open_once(path).read(member, duration_s, **how)


_open_once = functools.lru_cache(_MAX_OPEN_FILES)(open_source)
