"""A source of recordings: an .npz file with an array of samples for each clip.

`numpy.savez(path, rate_hz=16000, ID=samples, ...)` writes such a file. It has no labels, so that a
build needs `--segments`.
"""

import math
import zipfile
from collections.abc import Iterator

import numpy as np

from data_prep.sources import Entry, Recording
from relabel_jax.errors import InputError, Rejected

_RATE = "rate_hz"


class NpzSource:
    """An .npz file. `data_prep.sources.Source` says what the methods do."""

    def __init__(self, path: str):
        self._path = path
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                self._names = [name for name in file.files if name != _RATE]
                rate = file.get(_RATE)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Rejected("unreadable", f"{path}: not an .npz file, or damaged") from error
        if rate is None:
            raise InputError(f"{path}: has no array {_RATE!r}; expected the sample rate in Hz")
        self._rate_hz = int(rate)

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        """All recordings in the order of the file."""
        for name in self._names:
            yield Entry(name, name, Recording(self._path, name))

    def read(self, member: str, duration_s: float = math.inf) -> tuple[np.ndarray, int]:
        """The samples of one recording, float32[time], and their rate."""
        try:
            with open(self._path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                samples = file[member]
        except KeyError as error:
            raise Rejected("changed", f"{member} is no longer in the file") from error
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Rejected("unreadable", str(error)) from error
        end = None if duration_s == math.inf else round(duration_s * self._rate_hz)
        return samples[:end].astype(np.float32), self._rate_hz
