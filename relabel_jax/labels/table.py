"""A label table: the labels of millions of clips in one file that is opened by memory map.

`python -m data_prep.relabel --format=torch` writes the file. Two million clips have only some
56,000 different sets of labels. The file holds each set once, as packed bits, and for each clip the
number of its set. All of AudioSet takes 66 MB, and a process holds only the pages that it reads.

The labels of a labeling are members under the names of `label_columns`. A labeling from a file has
other sets than the rules, so the member `NAME.set_numbers` holds the numbers of its sets.

Lookups need NumPy alone. `relabel_jax.labels.torch` turns what it returns into tensors.
"""

import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels import clip_names
from relabel_jax.labels.class_indices import read_class_indices
from relabel_jax.labels.labelings import label_columns

MISSING = ("refuse", "unknown")

_MEMBERS = {"clip_ids", "start_s", "set_numbers", "buckets", "mids", "display_names"}
_OWN_NUMBERS = ".set_numbers"
_ZIP_HEADER_BYTES = 30
_SETS_PER_STEP = 4096


class LabelTable:
    """Targets and known classes for lists of clip ids.

    An id is looked up as it is. If the table lacks it, it counts as the name of a recording,
    with or without folder and extension: `relabel_jax.labels.clip_names` has the names. The table
    has the start of a clip but not its end, so only the start must be the clip's own.

    A table can be pickled, so that the workers of a data loader open the file themselves.

    Attributes:
      path: the file.
      mids, display_names: the classes, in the order of the columns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        classes: Sequence[str] | str | os.PathLike[str] | None = None,
        *,
        labeling: str = "pe_cml",
        missing: str = "refuse",
    ):
        """Opens a table.

        Args:
          path: the file that `python -m data_prep.relabel --format=torch` wrote.
          classes: the mids in the order of the network's outputs, or the path of AudioSet's
            `class_labels_indices.csv`. None takes all classes of the table in its order, which is
            the ontology's.
          labeling: the name of a labeling in the table. Only those that mask, such as `pe_cml`
            and `entailed`, have unknown classes.
          missing: what to do about a clip that is not in the table. `refuse` raises; `unknown`
            treats all of its classes as unknown, so that it adds nothing to a masked loss.

        Raises:
          InputError: a file cannot be read, is not a label table, or lacks the labeling or one of
            the classes.
          ValueError: an unknown `missing`.
        """
        if missing not in MISSING:
            raise ValueError(f"missing {missing!r} is none of {', '.join(MISSING)}")
        self.path = pathlib.Path(path).resolve()
        self._labeling, self._missing = labeling, missing
        members = _map_members(self.path)
        if labeling not in (held := _labelings(members)):
            raise InputError(
                f"{self.path}: the labeling {labeling!r} is none of {', '.join(held)}, which the "
                f"table has; write a table that has it with --labelings={labeling}"
            )
        self._clip_ids = members["clip_ids"]
        self._start_s = members["start_s"]
        self._buckets = members["buckets"]
        self._shift = 33 - len(self._buckets).bit_length()
        positive_name, masked_name = label_columns(labeling)
        positive, masked = members[positive_name], members.get(masked_name)
        self._set_numbers = members.get(positive_name + _OWN_NUMBERS, members["set_numbers"])
        mids, names = members["mids"].tolist(), members["display_names"].tolist()
        if classes is not None:
            if isinstance(classes, str | os.PathLike):
                classes = read_class_indices(classes)
            columns = _columns(self.path, mids, classes)
            positive = _choose(positive, columns, len(mids))
            masked = None if masked is None else _choose(masked, columns, len(mids))
            mids, names = [mids[i] for i in columns], [names[i] for i in columns]
        self.mids: tuple[str, ...] = tuple(mids)
        self.display_names: tuple[str, ...] = tuple(names)
        self._positive, self._masked = positive, masked

    def __len__(self) -> int:
        """The number of clips."""
        return len(self._clip_ids)

    def __contains__(self, clip_id: str) -> bool:
        """Whether the table has the clip, under any of the names that `lookup` accepts."""
        return bool(self._rows([clip_id])[0] >= 0)

    def __reduce__(self):
        return _open, (self.path, self.mids, self._labeling, self._missing)

    def lookup(self, clip_ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of clips.

        Args:
          clip_ids: the ids, such as the tuple of strings that a data loader makes.

        Returns:
          `(targets, known)`, both bool[clips, classes]. Leave classes that are not known out of the
          loss and the metric.

        Raises:
          InputError: a clip is not in the table, unless it was opened with `missing="unknown"`.
          TypeError: a single string was given.
        """
        if isinstance(clip_ids, str | bytes):
            raise TypeError(f"expected a list of clip ids, got the single id {clip_ids!r}")
        clip_ids = list(clip_ids)
        rows = self._rows(clip_ids)
        absent = rows < 0
        if absent.any() and self._missing == "refuse":
            missing = [clip_ids[i] for i in np.flatnonzero(absent)]
            shown = ", ".join(map(repr, missing[:5])) + (", ..." if len(missing) > 5 else "")
            raise InputError(
                f"{self.path}: {len(missing)} of {len(clip_ids)} clips are not in the table "
                f"({shown}); re-label the segment files that have them, or open the table with "
                "missing='unknown'"
            )
        sets = self._set_numbers[rows]
        targets = self._unpacked(self._positive[sets])
        if self._masked is None:
            known = np.ones_like(targets)
        else:
            known = ~self._unpacked(self._masked[sets])
        targets[absent] = known[absent] = False
        return targets, known

    def _unpacked(self, packed: np.ndarray) -> np.ndarray:
        return np.unpackbits(packed, axis=1, count=len(self.mids)).view(bool)

    def _rows(self, clip_ids: Sequence[str]) -> np.ndarray:
        """int64[clips]: the row of each clip, -1 if the table lacks it."""
        rows = self._exact_rows(clip_ids)
        absent = np.flatnonzero(rows < 0)
        if not len(absent):
            return rows
        stems = {i: clip_names.stem(clip_ids[i]) for i in absent.tolist()}
        without_y = [stem[1:] if stem.startswith("Y") else "" for stem in stems.values()]
        whole, rest = np.split(self._exact_rows([*stems.values(), *without_y]), 2)
        rows[absent] = np.where(whole >= 0, whole, rest)
        if stems := {i: stem for i, stem in stems.items() if rows[i] < 0}:
            names = list(stems.values())
            rows[list(stems)] = clip_names.rows_of_names(names, self._exact_rows, self._times)
        return rows

    def _times(self, row: int) -> clip_names.Times:
        return float(self._start_s[row]), math.nan

    def _exact_rows(self, clip_ids: Sequence[str]) -> np.ndarray:
        """int64[clips]: the row of each clip under its own id, -1 if the table lacks it."""
        width = self._clip_ids.dtype.itemsize
        keys = [clip_id.encode() for clip_id in clip_ids]
        # NumPy would cut longer ids. No clip has an empty id.
        keys = [key if len(key) <= width else b"" for key in keys]
        wanted = np.array(keys, self._clip_ids.dtype)
        bucket = np.fromiter(map(zlib.crc32, keys), np.int64, len(keys)) >> self._shift
        row = self._buckets[bucket].astype(np.int64)
        end = self._buckets[bucket + 1]
        rows = np.full(len(keys), -1)
        pending = np.flatnonzero(row < end)
        while len(pending):
            found = self._clip_ids[row[pending]] == wanted[pending]
            rows[pending[found]] = row[pending[found]]
            row += 1
            pending = pending[~found & (row[pending] < end[pending])]
        return rows


def _open(path: pathlib.Path, mids: Sequence[str], labeling: str, missing: str) -> LabelTable:
    return LabelTable(path, mids, labeling=labeling, missing=missing)


def write_label_table(
    file: BinaryIO,
    *,
    clip_ids: np.ndarray,
    start_s: np.ndarray,
    set_numbers: np.ndarray,
    mids: Sequence[str],
    display_names: Sequence[str],
    columns: Mapping[str, np.ndarray],
    own_set_numbers: Mapping[str, np.ndarray],
) -> None:
    """Writes the file that `LabelTable` opens: an npz whose members are not compressed.

    The clips are sorted by the CRC-32 of their ids. Clips whose CRCs begin with the same bits are a
    bucket, and `buckets` has the first row of each. So a lookup reads a few places of the file.

    Args:
      file: opened for writing bytes.
      clip_ids: bytes[clips], the ids in UTF-8, each once.
      start_s: float64[clips], seconds.
      set_numbers: int32[clips], the row in the columns of each clip.
      mids, display_names: the classes.
      columns: by the names of `label_columns`, uint8[sets, bytes]: the labels as
        `numpy.packbits(..., axis=1)` packs them.
      own_set_numbers: by labeling, int32[clips]: the rows where they are not `set_numbers`.
    """
    hashes = np.fromiter(map(zlib.crc32, clip_ids.tolist()), np.int64, len(clip_ids))
    order = np.argsort(hashes, kind="stable")
    num_bits = max(len(clip_ids).bit_length() - 1, 1)  # one or two clips in a bucket
    buckets = np.searchsorted(hashes[order] >> (32 - num_bits), np.arange(2**num_bits + 1))
    members: dict[str, Any] = {
        "clip_ids": clip_ids[order],
        "start_s": start_s[order],
        "set_numbers": set_numbers[order],
        "buckets": buckets.astype(np.uint32),
        "mids": np.array(mids),
        "display_names": np.array(display_names),
        **columns,
        **{f"{name}{_OWN_NUMBERS}": each[order] for name, each in own_set_numbers.items()},
    }
    np.savez(file, **members)


def _labelings(members: Collection[str]) -> list[str]:
    """The labelings that a table with these members has."""
    names = [name for name in members if name not in _MEMBERS and _OWN_NUMBERS not in name]
    labelings = [name for name in names if name != "masked" and not name.endswith("_masked")]
    return [*labelings, "pe_cml"] if {"pel", "masked"} <= set(names) else labelings


def _map_members(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a label table, read-only, as views of the file."""
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if not members.keys() > _MEMBERS or any(i.compress_type for i in members.values()):
                raise ValueError("other members")
            for name, info in members.items():
                # The local header has its own lengths of the name and the extra field.
                file.seek(info.header_offset)
                header = file.read(_ZIP_HEADER_BYTES)
                file.seek(sum(struct.unpack("<HH", header[-4:])), os.SEEK_CUR)
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("another version of NumPy's format")
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                mapped = np.memmap(path, dtype, "r", file.tell(), shape)
                arrays[name] = mapped.view(np.ndarray)  # indexing a memmap is slower
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, struct.error) as error:
        raise InputError(
            f"{path}: not a label table; write one with: python -m data_prep.relabel --format=torch"
        ) from error
    return arrays


def _columns(path: pathlib.Path, mids: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The columns of the table that hold `classes`."""
    index = {mid: number for number, mid in enumerate(mids)}
    if absent := [mid for mid in classes if mid not in index]:
        raise InputError(
            f"{path}: lacks {len(absent)} of the {len(classes)} classes, the first is "
            f"{absent[0]!r}; expected mids of the table, such as {mids[0]!r}"
        )
    if len(set(classes)) < len(classes):
        raise InputError(f"{path}: the classes name a mid twice; expected each once")
    return [index[mid] for mid in classes]


def _choose(packed: np.ndarray, columns: Sequence[int], num_classes: int) -> np.ndarray:
    """uint8[sets, bytes] over these columns from uint8[sets, bytes] over all classes."""
    steps = range(0, len(packed), _SETS_PER_STEP)
    return np.concatenate(
        [
            np.packbits(
                np.unpackbits(packed[i : i + _SETS_PER_STEP], axis=1, count=num_classes)[
                    :, columns
                ],
                axis=1,
            )
            for i in steps
        ]
    )
