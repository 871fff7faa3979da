"""PANNs' packed HDF5: `audio_name`, `waveform` (int16 or float32) and `target`.

A name is "YID.wav", or "ID.wav" if not all names of the file begin with Y. If PANNs' packer did not
find a recording, its row has an empty name and is all zero: the clip is missing, not silent. The
sample rate is the attribute `sample_rate`; a file without it has rows of 10 s, as PANNs packs them
(320,000 samples are 32 kHz). Nothing outside the file is read: external links, external storage and
virtual datasets are refused.
"""

import contextlib
import math
from collections.abc import Iterator

import numpy as np

from data_prep.sources import Entry, Recording
from relabel_jax.errors import InputError, Rejected, install_command

_ROW_S = 10
_ROWS_PER_READ = 4096


class HDF5Source:
    """An HDF5 file. For its methods see `data_prep.sources.Source`."""

    def __init__(self, path: str):
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise InputError(f"{path}: needs h5py: {install_command('sources')}") from error
        self._path = path
        try:
            file = h5py.File(path, "r", locking=False)
            datasets = {
                name: file[name]
                for name in ("audio_name", "waveform", "target")
                if isinstance(file.get(name, getlink=True), h5py.HardLink)
                and isinstance(file[name], h5py.Dataset)
                and not file[name].is_virtual
                and not file[name].external
            }
            rate_hz = file.attrs.get("sample_rate")
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise Rejected("unreadable", f"{path}: not an HDF5, or damaged: {error}") from error
        names, waveforms = datasets.get("audio_name"), datasets.get("waveform")
        if (
            names is None
            or waveforms is None
            or names.ndim != 1
            or waveforms.ndim != 2
            or len(names) != len(waveforms)
            or waveforms.dtype not in (np.int16, np.float32)
        ):
            raise InputError(
                f"{path}: expected datasets audio_name[clips] and waveform[clips, time] of int16 "
                "or float32 in the file itself, as PANNs packs them"
            )
        self._names, self._waveforms = names, waveforms
        self._targets = datasets.get("target")
        self._rate_hz = int(waveforms.shape[1] // _ROW_S if rate_hz is None else rate_hz)

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        if (
            with_labels
            and self._targets is not None
            and self._targets.shape[:-1] != self._names.shape
        ):
            raise InputError(
                f"{self._path}: target has the shape {self._targets.shape}; expected [clips, "
                f"classes], a row for each of the {len(self._names)} of audio_name"
            )
        prefix = "Y" if self._all_have_prefix() else ""
        for first in range(0, len(self._names), _ROWS_PER_READ):
            rows = slice(first, first + _ROWS_PER_READ)
            try:
                names = self._names[rows]
                targets = [()] * len(names)
                if with_labels and self._targets is not None:
                    targets = self._targets[rows]
            except (OSError, RuntimeError) as error:
                raise Rejected("unreadable", f"{self._path}: row {first}: {error}") from error
            for row, (name, target) in enumerate(
                zip(map(_text, names), targets, strict=True), first
            ):
                stem = name.removesuffix(".wav")
                if not stem:
                    yield Entry("", "", Rejected("missing", f"{self._path}: row {row} has no name"))
                    continue
                recording = Recording(self._path, f"{row}:{name}")
                labels = np.flatnonzero(target).tolist()
                yield Entry(stem, stem.removeprefix(prefix), recording, labels, len(target))

    def _all_have_prefix(self) -> bool:
        """Whether all names begin with PANNs' "Y". If not, "Y" belongs to the ids."""
        with contextlib.suppress(OSError, RuntimeError):  # `entries` reports the damage
            for first in range(0, len(self._names), _ROWS_PER_READ):
                names = map(_text, self._names[first : first + _ROWS_PER_READ])
                if not all(name.startswith("Y") for name in names if name):
                    return False
        return True

    def read(self, member: str, duration_s: float = math.inf) -> tuple[np.ndarray, int]:
        end = None if duration_s == math.inf else round(duration_s * self._rate_hz)
        row, name = member.split(":", 1)
        try:
            if int(row) >= len(self._names) or _text(self._names[int(row)]) != name:
                raise Rejected("changed", "another recording lies there since the plan was made")
            samples = self._waveforms[int(row), :end]
        except (OSError, RuntimeError) as error:
            raise Rejected("unreadable", str(error)) from error
        if samples.dtype == np.int16:
            samples = samples.astype(np.float32) / np.float32(32768)
        return samples, self._rate_hz


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")
