"""A source of recordings: an .npz file with an array of samples for each clip.

`numpy.savez(path, rate_hz=16000, ID=samples, ...)` writes such a file. It has no labels, so that a
build needs `--segments`.
"""

import math
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.sources import Entry, Form, Recording, part_of
from relabel_jax.errors import InputError, Rejected

FORMS = (Form("`*.npz`", "an array of samples for each clip, and `rate_hz`", "`ID`"),)
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

    def read(self, member: str, duration_s: float = math.inf, **how: Any) -> tuple[np.ndarray, int]:
        """The samples of one recording, float32[time], and their rate."""
        try:
            with open(self._path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                samples = file[member]
        except KeyError as error:
            raise Rejected("changed", f"{member} is no longer in the file") from error
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise Rejected("unreadable", str(error)) from error
        part = part_of(len(samples), self._rate_hz, duration_s, **how)
        return samples[part].astype(np.float32), self._rate_hz
