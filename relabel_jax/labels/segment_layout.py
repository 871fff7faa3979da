"""Finds out how the rows of a segment file are written: its delimiter, quotes and columns."""

import csv
import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence

from relabel_jax.labels.segment_times import TIME

COLUMNS = ("clip_id", "start_s", "end_s", "mids")
# By column, the names that a header may give it, the preferred first. Only letters and digits
# count, in any case: `ytid` is `YTID` and `YT ID`, `starts` is `start_s`.
HEADER_NAMES = {
    "clip_id": ("ytid", "clipid", "videoid", "youtubeid", "segmentid", "filename", "fname", "id"),
    "start_s": ("startseconds", "starttimeseconds", "starttime", "starts", "start", "startms"),
    "end_s": ("endseconds", "endtimeseconds", "endtime", "ends", "end", "endms"),
    "mids": ("positivelabels", "mids", "labels", "mid", "label", "classes", "displaynames"),
    "masked": ("maskedlabels", "masked"),
}

_INDEX_NAMES = ("", "unnamed0", "index")  # the column that pandas adds
_DELIMITERS = ",;\t|"
_QUOTES = "\"'"
_BLANKS_AFTER_QUOTE = re.compile(r"""(?<=["']) +(?=[,;|]|$)""")
_LINES_FOR_LAYOUT = 100


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the rows of a file are written.

    Attributes:
      delimiter, quote: the characters between and around the fields.
      places: by column, the number of its field.
      num_fields: the largest number of fields of a row.
      units_per_s: 1,000 if times are milliseconds, else 1.
      is_events: a row is one sound event of a clip, as in AudioSet-Strong's TSVs.
      present: the number of the field that says whether an event is `PRESENT`, if there is one.
      ignored: the fields of the header that have no meaning here.
    """

    delimiter: str
    quote: str
    places: dict[str, int]
    num_fields: int
    units_per_s: int = 1
    is_events: bool = False
    present: int | None = None
    ignored: tuple[str, ...] = ()

    @functools.cached_property
    def min_fields(self) -> int:
        """The smallest number of fields of a row."""
        return 1 + max(self.places[name] for name in COLUMNS)


def fields_of(line: str, delimiter: str, quote: str) -> list[str] | None:
    """The stripped fields of a line, without empty ones at its end; None if a quote is not closed.

    An empty field in quotes stays.
    """
    line = line.rstrip(f"{delimiter} ")
    for attempt in range(2):
        if attempt:
            line = _BLANKS_AFTER_QUOTE.sub("", line)
        try:
            (fields,) = csv.reader(
                (line,), delimiter=delimiter, quotechar=quote, skipinitialspace=True, strict=True
            )
            return [field.strip() for field in fields]
        except (csv.Error, ValueError):  # ValueError for an empty line
            continue
    return None


def find_layout(lines: Iterable[str], columns: Sequence[str]) -> Layout:
    """The layout by the first line that is a header or a row in some layout."""
    lines = (line for line in lines if line.strip() and not is_comment(line))
    for line in itertools.islice(lines, _LINES_FOR_LAYOUT):
        for delimiter, quote in itertools.product(_DELIMITERS, _QUOTES):
            fields = fields_of(line, delimiter, quote)
            if fields is None or any(field.startswith(tuple(_QUOTES)) for field in fields):
                continue
            if header := header_layout(fields, delimiter, quote):
                return header
            if _is_row(fields) and not any(fields[len(columns) :]):
                return without_header(columns, delimiter, quote)
    return without_header(columns)


def without_header(columns: Sequence[str], delimiter: str = ",", quote: str = '"') -> Layout:
    """The layout of rows of these columns, which have no header."""
    places = {name: place for place, name in enumerate(columns)}
    return Layout(delimiter, quote, places, len(columns))


def _is_row(fields: Sequence[str]) -> bool:
    return len(fields) >= 3 and all(TIME.fullmatch(field) for field in fields[1:3])


def is_comment(line: str) -> bool:
    """Whether a line is a comment. An id may begin with `#` too, but no blank follows then."""
    if not line.startswith(("#", '"#')):
        return False
    if line.lstrip('"#')[:1] in ("", " ", "\t"):
        return True
    return not any(_is_row(fields_of(line, delimiter, '"') or ()) for delimiter in _DELIMITERS)


def header_layout(fields: Sequence[str], delimiter: str, quote: str) -> Layout | None:
    """The layout that a header line gives; None if the line is not a header."""
    names = [re.sub(r"[^a-z0-9]", "", field.lower()) for field in fields]
    places = {
        column: names.index(min(found, key=known.index))
        for column, known in HEADER_NAMES.items()
        if (found := [name for name in names if name in known])
    }
    if not places.keys() >= set(COLUMNS):
        return None
    in_ms = {names[places[column]].endswith("ms") for column in ("start_s", "end_s")}
    if len(in_ms) > 1:
        return None
    is_events = names[places["clip_id"]] == "segmentid" and names[places["mids"]] == "label"
    known_names = {*itertools.chain(*HEADER_NAMES.values()), *_INDEX_NAMES, "present"}
    return Layout(
        delimiter,
        quote,
        places,
        len(fields),
        units_per_s=1000 if in_ms == {True} else 1,
        is_events=is_events,
        present=names.index("present") if is_events and "present" in names else None,
        ignored=tuple(
            field for field, name in zip(fields, names, strict=True) if name not in known_names
        ),
    )
