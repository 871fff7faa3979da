"""Writes the output of an embedded folder: first parts, and at the end one file of all parts.

A part is complete or absent, so a command that is stopped continues after the last part.
"""

import csv
import json
import pathlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from relabel_jax.audio.places import path_text
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file
from relabel_jax.inference.output import NETWORK_KEY, Output, rejects_path
from relabel_jax.inference.pretrained import SoundClass
from relabel_jax.inference.recording_list import Listed

_REJECTS_FIELDS = ("path", "reason", "detail")
_CHANGED = "the file was replaced after it was embedded"


class PartWriter:
    """Collects the rows of recordings and writes them to parts in the order of the recordings."""

    def __init__(
        self,
        parts: pathlib.Path,
        recordings: Iterator[tuple[int, Listed]],
        first: int,
        *,
        part_rows: int,
        embedding_size: int,
        classes: Sequence[SoundClass],
        num_scores: int,
    ):
        """Begins the first part.

        Args:
          parts: the folder of the parts.
          recordings: number of each recording, and the recording, beginning with `first`.
          first: number of the first recording that is not in a part yet.
          part_rows: a part is complete when it has this many rows, or this many recordings.
          embedding_size: number of values of an embedding.
          classes: the classes of the scores; not used if `num_scores` is 0.
          num_scores: the number of classes to write for each row, those with the highest scores.
        """
        self._parts = parts
        self._recordings = recordings
        self._first = first  # first recording of the part
        self._next = first  # first recording that is not yet in the part
        self._part_rows = part_rows
        self._classes = classes
        self._num_scores = num_scores
        self._schema = _schema(embedding_size, num_scores)
        self._rows: dict[int, list[tuple[float, np.ndarray, np.ndarray]]] = {}
        self._ended: dict[int, Rejected | None] = {}
        self._part: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._rejects: list[tuple[str, str, str]] = []

    def add(self, number: int, start_s: float, embedding: np.ndarray, scores: np.ndarray) -> None:
        """Adds the row of a window.

        Args:
          number: number of the recording.
          start_s: start of the window in the recording.
          embedding: float32[embedding_size].
          scores: float32[classes].
        """
        best = np.argsort(-scores, kind="stable")[: self._num_scores]
        row = (start_s, embedding.copy(), np.stack([best, scores[best]]))
        self._rows.setdefault(number, []).append(row)

    def end(self, number: int, outcome: Rejected | None) -> None:
        """Records that all windows of a recording are read, or why the recording is left out."""
        self._ended[number] = outcome

    def write_complete(self, waiting: Sequence[tuple[int, int]]) -> int:
        """Moves the earliest complete recordings into the part and returns their number.

        Args:
          waiting: recording and start of each window that is read but not yet added.
        """
        waiting_numbers = {number for number, _ in waiting}
        before = self._next
        while self._next in self._ended and self._next not in waiting_numbers:
            outcome = self._ended.pop(self._next)
            rows = self._rows.pop(self._next, [])
            _, listed = next(self._recordings)
            name = path_text(listed.path)
            self._next += 1
            if outcome is not None:
                self._rejects.append((name, outcome.reason, outcome.detail))
                rows = []
            for start_s, embedding, best in rows:
                self._part["path"].append(name)
                self._part["start_s"].append(start_s)
                self._part["embedding"].append(embedding)
                if self._num_scores:
                    classes = [self._classes[int(i)] for i in best[0]]
                    self._part["mids"].append([each.mid for each in classes])
                    self._part["display_names"].append([each.display_name for each in classes])
                    self._part["scores"].append(best[1])
            if max(len(self._part["path"]), self._next - self._first) >= self._part_rows:
                self.close()
        return self._next - before

    def close(self) -> None:
        """Writes the part, unless it is empty, and begins the next one."""
        if self._next == self._first:
            return
        about = json.dumps({"end": self._next, "rejects": self._rejects})
        table = pa.Table.from_pydict(self._part, self._schema.with_metadata({"about": about}))
        with complete_file(_part_path(self._parts, self._first)) as temporary:
            pq.write_table(table, temporary)
        self._first = self._next
        self._part = {name: [] for name in self._schema.names}
        self._rejects = []


def first_without_part(parts: pathlib.Path) -> int:
    """Returns the number of the first recording that is not in a part.

    Raises:
      InputError: a part is damaged.
    """
    first = 0
    while (part := _part_path(parts, first)).exists():
        first = _read_about(part)["end"]
    return first


def assemble(
    parts: pathlib.Path,
    output: pathlib.Path,
    num_recordings: int,
    fingerprint: str,
    changed: Collection[str] = (),
    before: Output | None = None,
) -> None:
    """Writes all parts to one file and their rejects to another one.

    The file of the rejects is complete before the output gets its name.

    Args:
      parts: the folder of the parts. Together they must have all recordings.
      output: the Parquet file.
      num_recordings: number of recordings in all parts.
      fingerprint: the fingerprint of the network.
      changed: the texts of paths whose files were replaced. Their rows are left out, and they are
        rejected.
      before: a complete output whose rows come first; its rejects are the recordings of the parts.
    """
    first = 0
    replaced = pa.array(sorted(changed), pa.string())
    schema = pq.read_schema(_part_path(parts, 0)).with_metadata({NETWORK_KEY: fingerprint})
    with (
        complete_file(output) as temporary,
        complete_file(rejects_path(output)) as rejects_temporary,
        open(rejects_temporary, "w", newline="", encoding="utf-8") as rejects_file,
        pq.ParquetWriter(temporary, schema) as writer,
    ):
        rejects = csv.writer(rejects_file)
        rejects.writerow(_REJECTS_FIELDS)
        for table in before.tables() if before else ():
            writer.write_table(table.replace_schema_metadata(None).cast(schema))
        while first < num_recordings:
            part = _part_path(parts, first)
            about = _read_about(part)
            table = pq.read_table(part).replace_schema_metadata(None)
            is_replaced = pc.is_in(table["path"], value_set=replaced)
            writer.write_table(table.filter(pc.invert(is_replaced)).cast(schema))
            rejects.writerows(about["rejects"])
            for path in table["path"].filter(is_replaced).unique().to_pylist():
                rejects.writerow((path, "changed", _CHANGED))
            first = about["end"]


def _schema(embedding_size: int, num_scores: int) -> pa.Schema:
    fields = {
        "path": pa.string(),
        "start_s": pa.float64(),
        "embedding": pa.list_(pa.float32(), embedding_size),
    }
    if num_scores:
        fields |= {
            "mids": pa.list_(pa.string()),
            "display_names": pa.list_(pa.string()),
            "scores": pa.list_(pa.float32()),
        }
    return pa.schema(fields)


def _part_path(parts: pathlib.Path, first: int) -> pathlib.Path:
    return parts / f"{first:09}.parquet"


def _read_about(part: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(pq.read_schema(part).metadata[b"about"])
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{part}: damaged ({error}); delete it and run the same command"
        ) from error
