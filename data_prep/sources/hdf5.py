"""HDF5 files of recordings in three forms.

PANNs: `audio_name`, `waveform` (int16 or float32) and `target`. If PANNs' packer did not find a
recording, its row has an empty name and is all zero: the clip is missing, not silent.

PaSST and EfficientAT: `audio_name`, `mp3` (bytes) and `target`, whose bits are packed.

CED: a dataset of samples for each recording, named by its file. The labels are in a TSV
(ced_labels.py).

A name is "YID.wav", or "ID.wav" if not all names of the file begin with Y. PaSST's names may have a
folder, "00/YID.mp3", which does not count.

The sample rate is `sample_rate` (or `sampling_rate`, `sr`): an attribute of the file or of
`waveform`, or a dataset with one number. A file without it is read only if its rows have 10 s at a
usual rate, as PANNs packs them (320,000 samples are 32 kHz), or if the user says the rate.

Nothing else outside the file is read: external links, external storage and virtual datasets are
refused.
"""

import contextlib
import io
import math
import os
import posixpath
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.sources import (
    DEFAULT_OPTIONS,
    Entry,
    Form,
    Recording,
    SourceOptions,
    part_of,
)
from data_prep.sources.ced_labels import labels_of_file
from relabel_jax.audio.decode import decode
from relabel_jax.audio.mix import MAX_PEAK, check_scale
from relabel_jax.audio.places import EXTENSIONS
from relabel_jax.errors import InputError, Rejected, install_command
from relabel_jax.progress import write_line

_FILES = "*.h5, *.hdf5, *.hdf"
FORMS = (
    Form(
        _FILES,
        "PANNs' packed waveforms: `audio_name`, `waveform` (int16 or float32), `target`",
        "`YID` of `YID.wav`",
    ),
    Form(
        _FILES,
        "PaSST's and EfficientAT's packed MP3 (`*_mp3.hdf`): `audio_name`, `mp3`, `target`",
        "`YID` of `YID.mp3`",
    ),
    Form(
        _FILES,
        "CED's waveforms: a dataset for each recording; `filename`, `labels` in `labels/*.tsv`",
        "`ID` of `ID.wav`",
    ),
)

_RATES = ("sample_rate", "sampling_rate", "sr")
_ROW_S = 10
_USUAL_RATES_HZ = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_ROWS_PER_READ = 4096
_ROWS_TO_SAMPLE = 15
_AUDIOSET_CLASSES = 527
_DAMAGE = (OSError, KeyError, RuntimeError, ValueError)


class HDF5Source:
    """An HDF5 file. For its methods see `data_prep.sources.Source`."""

    TAKES_OPTIONS = True

    def __init__(self, path: str, options: SourceOptions = DEFAULT_OPTIONS):
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise InputError(f"{path}: needs h5py: {install_command('sources')}") from error
        self._path, self._options = path, options
        try:
            file = h5py.File(path, "r", locking=False)
            datasets = {
                name: file[name]
                for name in file
                if isinstance(file.get(name, getlink=True), h5py.HardLink)
                and isinstance(file[name], h5py.Dataset)
                and not file[name].is_virtual
                and not file[name].external
            }
            has_others = len(datasets) < len(file)
            attributes = [
                each.attrs for each in (file, datasets.get("waveform")) if each is not None
            ]
            rate_hz = next(
                (place[name] for place in attributes for name in _RATES if name in place), None
            )
            for name in _RATES:
                if name in datasets and datasets[name].ndim == 0:
                    rate_hz = datasets.pop(name)[()]
        except _DAMAGE as error:
            raise Rejected("unreadable", f"{path}: not an HDF5, or damaged: {error}") from error
        self._rate_hz = None if rate_hz is None else self._checked_rate(rate_hz)
        self._targets: Any = datasets.get("target")
        self._is_mp3 = False
        names = datasets.get("audio_name")
        if names is not None and names.ndim == 1 and _is_table(datasets.get("waveform"), names):
            self._names, self._sounds = names, datasets["waveform"]
        elif names is not None and names.ndim == 1 and _is_mp3(datasets.get("mp3"), names):
            self._names, self._sounds = names, datasets["mp3"]
            self._is_mp3 = True
        elif datasets and not has_others and all(map(_is_sound, datasets.values())):
            self._names, self._sounds = np.array(list(datasets), object), list(datasets.values())
        else:
            raise InputError(
                f"{path}: expected datasets audio_name[clips] and waveform[clips, time] of int16 "
                "or float32 in the file itself, as PANNs packs them, or audio_name[clips] and "
                "mp3[clips] of bytes, as PaSST packs them"
            )

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        is_ced = isinstance(self._sounds, list)
        labels_beside = labels_of_file(self._path) if with_labels and is_ced else {}
        with_labels = with_labels and self._targets is not None
        if with_labels:
            self._check_targets()
        num_packed = self._num_packed_classes() if with_labels else None
        rate = self._stated_rate()
        self._check_scale_of_rows()
        prefix = "Y" if self._all_have_prefix() else ""
        for first in range(0, len(self._names), _ROWS_PER_READ):
            rows = slice(first, first + _ROWS_PER_READ)
            try:
                names = self._names[rows]
                targets: Any = [()] * len(names)
                if with_labels:
                    targets = self._targets[rows]
            except _DAMAGE as error:
                raise Rejected("unreadable", f"{self._path}: row {first}: {error}") from error
            if num_packed is not None:
                targets = np.unpackbits(targets, axis=-1, count=num_packed or None)
            for row, (name, target) in enumerate(
                zip(map(_text, names), targets, strict=True), first
            ):
                stem = self._stem(name)
                if not stem:
                    yield Entry("", "", Rejected("missing", f"{self._path}: row {row} has no name"))
                    continue
                recording = Recording(self._path, f"{row}{rate}:{name}")
                labels, num_classes = labels_beside.get(name, target), len(target)
                if num_packed == 0:  # up to seven bits at the end are padding
                    labels, num_classes = np.flatnonzero(target).tolist(), 0
                yield Entry(stem, stem.removeprefix(prefix), recording, labels, num_classes)

    def read(self, member: str, duration_s: float = math.inf, **how: Any) -> tuple[np.ndarray, int]:
        place, name = member.split(":", 1)
        row, _, stated_hz = place.partition("@")
        try:
            if int(row) >= len(self._names) or _text(self._names[int(row)]) != name:
                raise Rejected("changed", "another recording lies there since the plan was made")
            if self._is_mp3:
                return decode(io.BytesIO(self._sounds[int(row)].tobytes()), duration_s, **how)
            rate_hz = int(stated_hz) if stated_hz else self._rate_hz
            if rate_hz is None:
                raise Rejected("changed", "the file has no sample_rate since the plan was made")
            if isinstance(self._sounds, list):
                sound = self._sounds[int(row)]
                samples = sound[part_of(len(sound), rate_hz, duration_s, **how)]
            else:
                part = part_of(self._sounds.shape[1], rate_hz, duration_s, **how)
                samples = self._sounds[int(row), part]
        except _DAMAGE as error:
            raise Rejected("unreadable", str(error)) from error
        if samples.dtype == np.int16:
            return samples.astype(np.float32) / np.float32(32768), rate_hz
        check_scale(samples)
        return samples, rate_hz

    def _checked_rate(self, rate_hz: Any) -> int:
        try:
            number = float(np.asarray(rate_hz).item())
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= 1 and number == int(number)):
            raise InputError(f"{self._path}: sample_rate is {rate_hz!r}; expected a number of Hz")
        return int(number)

    def _stated_rate(self) -> str:
        """Returns the part of `Recording.member` that says the rate; "" if the file says it.

        Raises:
          InputError: the rate is unknown.
        """
        if self._is_mp3 or self._rate_hz is not None or not len(self._names):
            return ""
        if self._options.rate_hz is not None:
            return f"@{self._options.rate_hz}"
        advice = "say it with --source_rate_hz=32000 or another number"
        if isinstance(self._sounds, list):
            raise InputError(f"{self._path}: has no sample_rate; {advice}")
        length = self._sounds.shape[1]
        lengths_s = {_ROW_S, self._options.duration_s}
        fitting = [rate for rate in _USUAL_RATES_HZ for s in lengths_s if rate * s == length]
        if length // _ROW_S not in fitting or len(fitting) != 1:
            raise InputError(
                f"{self._path}: has no sample_rate, and its rows of {length:,} samples are not "
                f"10 s at one usual rate; {advice}"
            )
        write_line(
            f"warning: {self._path}: has no sample_rate; its rows of {length:,} samples are taken "
            f"as {_ROW_S} s at {fitting[0]:,} Hz; if they are not, {advice}"
        )
        return f"@{fitting[0]}"

    def _check_scale_of_rows(self) -> None:
        """Raises InputError if most of some float rows have the scale of int16.

        A quiet row of such a file cannot be told from a loud one of another.
        """
        if self._is_mp3 or not len(self._names):
            return
        too_loud = []
        for row in np.linspace(0, len(self._names) - 1, _ROWS_TO_SAMPLE, dtype=int):
            with contextlib.suppress(*_DAMAGE):  # `read` reports the damage
                samples = self._sounds[row][:]
                if samples.dtype == np.int16:
                    return
                if samples.any():
                    too_loud.append(np.abs(samples).max() > MAX_PEAK)
        if sum(too_loud) * 2 > len(too_loud):
            raise InputError(
                f"{self._path}: its samples are floats of int16's scale; the full scale of floats "
                "is 1: divide them by 32,768"
            )

    def _check_targets(self) -> None:
        shape, kind = self._targets.shape, self._targets.dtype
        if shape[:-1] != np.shape(self._names):
            raise InputError(
                f"{self._path}: target has the shape {shape}; expected [clips, classes], a row for "
                f"each of the {len(self._names)} of audio_name"
            )
        if kind.kind not in "biuf":
            raise InputError(f"{self._path}: target has the type {kind}; expected numbers")

    def _num_packed_classes(self) -> int | None:
        """Returns the number of classes of packed bits; 0 if unknown, None if they are not packed.

        They are packed if they are bytes beside MP3s and one of them is over 1.
        """
        if not self._is_mp3 or self._targets.dtype != np.uint8:
            return None
        with contextlib.suppress(*_DAMAGE):  # `entries` reports the damage
            for first in range(0, len(self._names), _ROWS_PER_READ):
                if (self._targets[first : first + _ROWS_PER_READ] > 1).any():
                    width = self._targets.shape[1]
                    return _AUDIOSET_CLASSES if width == -(-_AUDIOSET_CLASSES // 8) else 0
        return None

    def _all_have_prefix(self) -> bool:
        """Whether all names begin with PANNs' "Y". If not, "Y" belongs to the ids."""
        with contextlib.suppress(*_DAMAGE):  # `entries` reports the damage
            for first in range(0, len(self._names), _ROWS_PER_READ):
                names = map(_text, self._names[first : first + _ROWS_PER_READ])
                if not all(self._stem(name).startswith("Y") for name in names if name):
                    return False
        return True

    def _stem(self, name: str) -> str:
        """Returns a name without its extension, and without the folder of PaSST's names."""
        stem, extension = os.path.splitext(posixpath.basename(name) if self._is_mp3 else name)
        return stem if extension.lower() in EXTENSIONS else stem + extension


def _is_table(waveforms: Any, names: Any) -> bool:
    return (
        waveforms is not None
        and waveforms.ndim == 2
        and len(waveforms) == len(names)
        and waveforms.dtype in (np.int16, np.float32)
    )


def _is_mp3(recordings: Any, names: Any) -> bool:
    return (
        recordings is not None
        and recordings.shape == names.shape
        and recordings.dtype.metadata is not None
        and recordings.dtype.metadata.get("vlen") == np.uint8
    )


def _is_sound(dataset: Any) -> bool:
    return dataset.ndim == 1 and dataset.dtype in (np.int16, np.float32)


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode(errors="backslashreplace")
