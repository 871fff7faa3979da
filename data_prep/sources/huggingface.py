"""Hugging Face's Parquet files in the form of `agkphysics/AudioSet`.

They have the columns `video_id`, `audio` {bytes, path}, and `labels`, or else `label` or
`human_labels`: lists of mids, names or class numbers. A row group is read as a stream, row by row,
and only as far as needed. `audio.path` is never opened. `audio` may also be the bytes themselves,
{array, sampling_rate}, or an array beside a column `sampling_rate`. See parquet_columns.py.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources import Entry, Form, Recording, part_of
from data_prep.sources.parquet_columns import (
    AudioColumn,
    id_text,
    is_id,
    is_labels,
    labels_of,
)
from relabel_jax.audio.decode import decode
from relabel_jax.audio.mix import check_scale
from relabel_jax.errors import InputError, Rejected

FORMS = (
    Form(
        "*.parquet",
        "Hugging Face's form of AudioSet: `video_id`, `audio` {bytes, path} (or bytes, or "
        "{array, sampling_rate}), `labels` (or `human_labels`)",
        "`video_id`",
    ),
)

_BUFFER_BYTES = 1 << 20
_LABELS = ("labels", "label", "human_labels")
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)  # names may be damaged too


def is_other_table(path: str) -> bool:
    """Whether a Parquet file has neither ids nor recordings, such as one of embeddings or labels.

    A damaged file may have them.
    """
    try:
        names = pq.read_schema(path).names
    except _DAMAGE:
        return False
    return not {"video_id", "audio"} & set(names)


class ParquetSource:
    """A Parquet file; reading the rows of a row group in order is fastest.

    For its methods see `data_prep.sources.Source`.
    """

    def __init__(self, path: str):
        self._path = path
        try:
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            types = {field.name: field.type for field in self._file.schema_arrow}
        except _DAMAGE as error:
            raise Rejected("unreadable", f"{path}: {_line(error)}") from error
        audio = AudioColumn.of(types)
        missing = {"video_id"} - types.keys() | (set() if audio else {"audio.bytes"})
        if missing or audio is None:
            found = f" (audio is {types['audio']})" if "audio" in types else ""
            raise InputError(
                f"{path}: no column {' and '.join(sorted(missing))}{found}; expected video_id, "
                "audio {bytes, path} and labels, as agkphysics/AudioSet has them"
            )
        self._audio = audio
        self._labels = next((name for name in _LABELS if name in types), None)
        self._label_type = None if self._labels is None else types[self._labels]
        if not is_id(types["video_id"]):
            raise InputError(f"{path}: video_id is {types['video_id']}; expected strings")
        self._group = -1
        self._rows: Iterator[pa.RecordBatch] = iter(())
        self._next_row = 0

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        columns = ["video_id"]
        if with_labels and self._labels is not None:
            columns.append(self._labels)
            if not is_labels(self._label_type):
                raise InputError(
                    f"{self._path}: {self._labels} is {self._label_type}; expected lists of mids, "
                    "names or class numbers"
                )
        for group in range(self._file.num_row_groups):
            try:
                table = self._file.read_row_group(group, columns, use_threads=False)
                names = [id_text(each) for each in table["video_id"].to_pylist()]
                labels = table[columns[1]].to_pylist() if len(columns) > 1 else [None] * len(names)
            except _DAMAGE as error:
                raise Rejected(
                    "unreadable", f"{self._path}: row group {group}: {_line(error)}"
                ) from error
            for row, (name, found) in enumerate(zip(names, labels, strict=True)):
                if not name:
                    where = f"{self._path}: row {row} of row group {group}"
                    yield Entry("", "", Rejected("missing", f"{where} has no video_id"))
                    continue
                # A row group can only be read as a whole. Its block is named by its first row, not
                # by the file, so that moved files give the same shards.
                recording = Recording(self._path, f"{group}:{row}:{name}", f"{names[0]}", row)
                yield Entry(name, name, recording, labels_of(found, f"{recording}"))

    def read(self, member: str, duration_s: float = math.inf, **how: Any) -> tuple[np.ndarray, int]:
        group, row, name = member.split(":", 2)
        try:
            found = self._seek(int(group), int(row))
            if id_text(found["video_id"][0].as_py()) != name:
                raise Rejected("changed", "another recording lies there since the plan was made")
            content = self._audio.content(found)
        except _DAMAGE as error:
            self._group = -1
            raise Rejected("unreadable", _line(error)) from error
        if isinstance(content, pa.Buffer):
            return decode(io.BytesIO(content), duration_s, **how)
        samples, rate_hz = content
        samples = samples[part_of(len(samples), rate_hz, duration_s, **how)]
        if samples.dtype == np.int16:
            return samples.astype(np.float32) / np.float32(32768), rate_hz
        samples = samples.astype(np.float32)
        check_scale(samples)
        return samples, rate_hz

    def _seek(self, group: int, row: int) -> pa.RecordBatch:
        """Reads one row."""
        if group != self._group or row < self._next_row:
            if group >= self._file.num_row_groups:
                raise Rejected("changed", "the file has fewer rows since the plan was made")
            self._group, self._next_row = group, 0
            self._rows = self._file.iter_batches(
                1, row_groups=[group], columns=["video_id", *self._audio.paths], use_threads=False
            )
        for batch in self._rows:
            self._next_row += 1
            if self._next_row > row:
                return batch
        raise Rejected("changed", "the file has fewer rows since the plan was made")


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
