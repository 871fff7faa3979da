"""Hugging Face's Parquet files in the form of `agkphysics/AudioSet`.

They have the columns `video_id` (string), `audio` {bytes, path}, and `labels` (list of mids). A row
group is read as a stream, row by row, and only as far as needed. `audio.path` is never opened.
"""

import io
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources import Entry, Recording
from relabel_jax.audio.decode import decode
from relabel_jax.errors import InputError, Rejected

_BUFFER_BYTES = 1 << 20
_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)  # names may be damaged too


class ParquetSource:
    """A Parquet file; reading the rows of a row group in order is fastest.

    For its methods see `data_prep.sources.Source`.
    """

    def __init__(self, path: str):
        self._path = path
        try:
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            columns = {self._file.schema.column(i).path for i in range(len(self._file.schema))}
            types = {field.name: field.type for field in self._file.schema_arrow}
        except _DAMAGE as error:
            raise Rejected("unreadable", f"{path}: {_line(error)}") from error
        if missing := {"video_id", "audio.bytes"} - columns:
            raise InputError(
                f"{path}: no column {' and '.join(sorted(missing))}; expected video_id, audio "
                "{bytes, path} and labels, as agkphysics/AudioSet has them"
            )
        self._label_type = types.get("labels")
        if not _is_text(types["video_id"]):
            raise InputError(f"{path}: video_id is {types['video_id']}; expected strings")
        self._group = -1
        self._rows: Iterator[pa.RecordBatch] = iter(())
        self._next_row = 0

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        columns = ["video_id"]
        if with_labels and self._label_type is not None:
            columns.append("labels")
            if not _is_list(self._label_type):
                raise InputError(
                    f"{self._path}: labels is {self._label_type}; expected lists of mids, names or "
                    "class numbers"
                )
        for group in range(self._file.num_row_groups):
            try:
                table = self._file.read_row_group(group, columns, use_threads=False)
                names = table["video_id"].to_pylist()
                labels = table["labels"].to_pylist() if len(columns) > 1 else [None] * len(names)
            except _DAMAGE as error:
                raise Rejected(
                    "unreadable", f"{self._path}: row group {group}: {_line(error)}"
                ) from error
            for row, (name, mids) in enumerate(zip(names, labels, strict=True)):
                if not name:
                    where = f"{self._path}: row {row} of row group {group}"
                    yield Entry("", "", Rejected("missing", f"{where} has no video_id"))
                    continue
                # A row group can only be read as a whole. Its block is named by its first row, not
                # by the file, so that moved files give the same shards.
                recording = Recording(self._path, f"{group}:{row}:{name}", f"{names[0]}", row)
                of_clip = (
                    Rejected("bad_labels", f"{recording}: a label is null")
                    if mids and None in mids
                    else tuple(mids or ())
                )
                yield Entry(name, name, recording, of_clip)

    def read(self, member: str, duration_s: float = math.inf) -> tuple[np.ndarray, int]:
        group, row, name = member.split(":", 2)
        try:
            found = self._seek(int(group), int(row))
            found_name = found["video_id"][0].as_py()
        except _DAMAGE as error:
            self._group = -1
            raise Rejected("unreadable", _line(error)) from error
        if found_name != name:
            raise Rejected("changed", "another recording lies there since the plan was made")
        content = found["audio"][0]["bytes"].as_buffer()
        if content is None:
            raise Rejected("empty", "no bytes, only a path")
        return decode(io.BytesIO(content), duration_s)

    def _seek(self, group: int, row: int) -> pa.RecordBatch:
        """Reads one row."""
        if group != self._group or row < self._next_row:
            if group >= self._file.num_row_groups:
                raise Rejected("changed", "the file has fewer rows since the plan was made")
            self._group, self._next_row = group, 0
            self._rows = self._file.iter_batches(
                1, row_groups=[group], columns=["video_id", "audio.bytes"], use_threads=False
            )
        for batch in self._rows:
            self._next_row += 1
            if self._next_row > row:
                return batch
        raise Rejected("changed", "the file has fewer rows since the plan was made")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    """Whether the type is a list of strings or whole numbers, or of empty lists only."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return False
    item = kind.value_type
    return _is_text(item) or pa.types.is_integer(item) or pa.types.is_null(item)


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
