"""Reads segment files row by row: the forms that spreadsheets, editors and scripts leave.

docs/data.md lists the forms. A row with two possible meanings is refused. `segments_csv` reads
AudioSet's own form faster.
"""

import dataclasses
import io
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from relabel_jax.errors import InputError
from relabel_jax.labels.segment_layout import (
    COLUMNS,
    Layout,
    fields_of,
    find_layout,
    header_layout,
    is_comment,
)
from relabel_jax.labels.segment_times import TWO_MEANINGS, seconds
from relabel_jax.labels.text_files import read_text
from relabel_jax.progress import write_line

LONG_S = 1000.0
MAX_S = 1e7

_EXPECTED = 'rows of YTID, start, end, "mid,mid"'
_MALFORMED = "malformed rows"

_ROWS_PER_TABLE = 1 << 16
_STRONG_ID = re.compile(r"(.+)_([0-9]+)")
_STRONG_S = 10.0


@dataclasses.dataclass
class _Problem:
    """A problem of `count` rows; `row` is the line number of the first, and `text` its content."""

    count: int
    row: int
    text: str


def read_rows(path: pathlib.Path, columns: Sequence[str] = COLUMNS) -> pa.Table:
    """Reads a segment file of any accepted form.

    Args:
      path: the file.
      columns: the names of the fields of a row: `COLUMNS`, maybe with `masked` at the end.

    Returns:
      A table of `columns`: clip_id (string), and the others (dictionary<string>). Times are texts
      of seconds.

    Raises:
      InputError: the file cannot be read or is empty, or a row is wrong.
    """
    text = read_text(path, "segments")
    reader = _Reader(path, columns, find_layout(_lines(text), columns))
    rows = reader.rows(_lines(text))
    if reader.layout.is_events:
        rows = iter(_clips_of_events(rows))
    tables = list(_tables(rows, columns))  # reads all rows
    reader.raise_problems()
    if not tables:
        raise InputError(f"{path}: no segments; expected {_EXPECTED}")
    return pa.concat_tables(tables)


def _lines(text: str) -> Iterator[str]:
    """The lines of a text with any line ends, without blanks and the marks of joined files.

    Tabs stay, because the first or last field of a row may be empty.
    """
    for line in io.StringIO(text, newline=None):
        yield line.strip("\ufeff \n")


class _Fault(Exception):
    """A fault of a row, as the words of a message that counts such rows."""


class _Reader:
    """Reads the rows of one file, and collects their problems by what they are."""

    def __init__(self, path: pathlib.Path, columns: Sequence[str], layout: Layout):
        self.layout = layout
        self._path = path
        self._columns = columns
        self._problems: dict[str, _Problem] = {}
        self._seems_in_ms: bool | None = None  # None before the first row

    def rows(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Yields the values of the columns for each good row.

        Raises:
          InputError: a header names masked labels that the caller does not read, or rows of
            another kind than the first.
        """
        for number, line in enumerate(lines, 1):
            if not line.strip() or is_comment(line):
                continue
            layout = self.layout
            fields = fields_of(line, layout.delimiter, layout.quote)
            try:
                values = self._values(fields)
            except _Fault as fault:
                if fields and (header := header_layout(fields, layout.delimiter, layout.quote)):
                    self._take_header(header)
                    continue
                text = layout.delimiter.join(fields or [line])[:200]
                what = str(fault)
                text = repr(text) if what == _MALFORMED else text
                self._problems.setdefault(what, _Problem(0, number, text)).count += 1
            else:
                if layout.present is None or values.pop() == "PRESENT":
                    yield values

    def _take_header(self, header: Layout) -> None:
        if "masked" in header.places and "masked" not in self._columns:
            raise InputError(
                f"{self._path}: a header names masked labels; expected the raters' labels alone, "
                "which are not re-labelled yet"
            )
        if header.is_events != self.layout.is_events:
            raise InputError(
                f"{self._path}: has headers of segments and of events (AudioSet-Strong); expected "
                "one kind in a file"
            )
        if header.ignored:
            write_line(f"{self._path}: ignores the columns {', '.join(header.ignored)}")
        self.layout = header

    def _values(self, fields: list[str] | None) -> list[str]:
        """The values of the columns of a row. Raises _Fault."""
        layout = self.layout
        if fields is None:
            raise _Fault(_MALFORMED)
        if not layout.min_fields <= len(fields) <= layout.num_fields:
            raise _Fault(_MALFORMED)
        fields = fields + [""] * (layout.num_fields - len(fields))
        places = layout.places
        clip_id, start, end, mids = [fields[places[name]] for name in COLUMNS]
        others = [fields[places[name]] if name in places else "" for name in self._columns[4:]]
        if not clip_id:
            raise _Fault("rows have no clip id")
        if not mids:
            raise _Fault("rows have no label")
        start_s, end_s = self._times(start, end)
        if layout.is_events and not _STRONG_ID.fullmatch(clip_id):
            raise _Fault("rows have a segment_id without _MILLISECONDS at its end")
        if layout.present is not None:
            others.append(fields[layout.present].upper())
        return [clip_id, repr(start_s), repr(end_s), mids, *others]

    def _times(self, start: str, end: str) -> tuple[float, float]:
        """The times of a row in seconds. Raises _Fault."""
        times = []
        for name, text in (("start_s", start), ("end_s", end)):
            if (time := seconds(text)) is None:
                raise _Fault(f"rows have a {name} that is not a number of seconds")
            times.append(time if ":" in text else time / self.layout.units_per_s)
        length_s = times[1] - times[0]
        if times[1] > MAX_S:
            raise _Fault(f"rows have an end_s above {MAX_S:,.0f} s")
        if self.layout.is_events:
            return times[0], times[1]
        if not length_s > 0:
            raise _Fault("rows end before they start")
        if (
            length_s < 1
            and self.layout.delimiter == ","
            and (TWO_MEANINGS.fullmatch(start) or TWO_MEANINGS.fullmatch(end))
        ):
            raise _Fault("rows have a comma in a time that may be decimal or of thousands")
        if self._seems_in_ms is not False:
            is_whole = start.isdigit() and end.isdigit() and self.layout.units_per_s == 1
            self._seems_in_ms = is_whole and length_s >= LONG_S
        return times[0], times[1]

    def raise_problems(self) -> None:
        """Raises InputError if a row was wrong, or if the times seem to be milliseconds."""
        for what, problem in self._problems.items():
            raise InputError(
                f"{self._path}: {problem.count} {what}, the first is row {problem.row}: "
                f"{problem.text}; expected {_EXPECTED}; mend or remove such rows"
            )
        if self._seems_in_ms:
            raise InputError(
                f"{self._path}: all segments are {LONG_S:,.0f} s or longer; if their times are "
                "milliseconds, name the columns start_ms and end_ms in a header; if not, write "
                "them as 1200.0"
            )


def _clips_of_events(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """A row for each clip of AudioSet-Strong, with the labels of its events.

    The id of a clip ends in the milliseconds at which it starts. Each clip has 10 s.
    """
    labels: dict[str, dict[str, None]] = {}
    for clip_id, _, _, label, *_ in rows:
        labels.setdefault(clip_id, {})[label] = None
    clips = []
    for clip_id, of_clip in labels.items():
        start_s = int(clip_id.rpartition("_")[2]) / 1000
        clips.append([clip_id, repr(start_s), repr(start_s + _STRONG_S), ",".join(of_clip)])
    return clips


def _tables(rows: Iterator[Sequence[str]], columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows as tables of `columns`, with dictionaries for all but the ids."""
    while some := list(itertools.islice(rows, _ROWS_PER_TABLE)):
        arrays = [pa.array(values, pa.string()) for values in zip(*some, strict=True)]
        yield pa.table(
            [arrays[0], *(array.dictionary_encode() for array in arrays[1:])], names=list(columns)
        )
