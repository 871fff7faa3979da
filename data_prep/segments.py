"""AudioSet's segment files: `YTID, start_seconds, end_seconds, "mid,mid,..."`.

Read as columns by pyarrow, never row by row, so that two million rows take a few seconds. What
people's tools make of these files is accepted: gzip, CRLF, a byte order mark, no blank after the
comma, commas at the end of a row, no header lines. What would change a label is refused.
"""

import dataclasses
import gzip
import io
import pathlib
import re
import zlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from relabel_jax.errors import InputError
from relabel_jax.ontology import Ontology

_COLUMNS = ("clip_id", "start_s", "end_s", "mids")


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Labelled segments in the order of their files.

    Attributes:
      clip_ids: string array [clips].
      start_s, end_s: float64[clips], seconds in the original recording.
      labels: list<int16> array [clips]; the class numbers of each clip in the ontology.
    """

    clip_ids: pa.Array
    start_s: np.ndarray
    end_s: np.ndarray
    labels: pa.ListArray

    def __len__(self) -> int:
        return len(self.clip_ids)

    def multi_hot(self, num_classes: int) -> np.ndarray:
        """The original labels as bool[clips, num_classes]."""
        return multi_hot(self.labels, num_classes)


def multi_hot(labels: pa.ListArray, num_classes: int) -> np.ndarray:
    """bool[rows, num_classes] from an Arrow list array of class numbers."""
    matrix = np.zeros((len(labels), num_classes), bool)
    counts = np.asarray(pc.list_value_length(labels))
    matrix[np.repeat(np.arange(len(labels)), counts), np.asarray(labels.flatten())] = True
    return matrix


def read_segments(paths: Sequence[str | pathlib.Path], ontology: Ontology) -> Segments:
    """Reads one or more segment files (`.gz` too) into one table.

    Raises:
      InputError: a file cannot be read or is empty; a row has too few fields, a time that is no
        number, or no label; a mid is not in the ontology; a clip id stands twice. The message names
        the file, the first such rows and their number.
    """
    tables = [_read_one(pathlib.Path(path)) for path in paths]
    labels = [
        _class_numbers(path, table, ontology) for path, table in zip(paths, tables, strict=True)
    ]
    table = pa.concat_tables(tables).combine_chunks()
    clip_ids = table["clip_id"].combine_chunks()
    if pc.count_distinct(clip_ids).as_py() != len(clip_ids):
        counts = pc.value_counts(clip_ids)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise InputError(
            f"{', '.join(map(str, paths))}: {len(twice)} clip ids stand more than once "
            f"({_some(twice)}); expected one row a clip; remove the duplicate rows"
        )
    return Segments(
        clip_ids=clip_ids,
        start_s=np.asarray(table["start_s"]),
        end_s=np.asarray(table["end_s"]),
        labels=pa.concat_arrays(labels),
    )


def _read_one(path: pathlib.Path) -> pa.Table:
    """A table of clip_id, start_s, end_s and mids (list<string>) of one file."""
    try:
        text = path.read_bytes()
        if path.suffix == ".gz":
            text = gzip.decompress(text)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read the segments: {error}") from error
    text = text.removeprefix(b"\xef\xbb\xbf")
    header_rows = 0
    while text.startswith(b"# "):
        text = text.partition(b"\n")[2]
        header_rows += 1
    if not text.strip():
        raise InputError(f'{path}: no segments; expected rows of YTID, start, end, "mid,mid"')
    text = text.replace(b", ", b",")  # Arrow takes a quote only at the very start of a field
    if b",\n" in text or b",\r" in text:  # spreadsheets fill up to the widest row
        text = re.sub(rb",+(?=\r?\n)", b"", text)

    bad_rows: list[str] = []

    def on_bad_row(row):
        bad_rows.append(f"row {row.number + header_rows}: {row.text!r}")
        return "skip"

    try:
        table = pa.csv.read_csv(
            io.BytesIO(text),
            # One thread: Arrow numbers the bad rows only then.
            read_options=pa.csv.ReadOptions(column_names=_COLUMNS, use_threads=False),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=on_bad_row),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(_COLUMNS, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a segments CSV: {error}") from error
    if bad_rows:
        raise InputError(
            f"{path}: {len(bad_rows)} malformed rows, the first {bad_rows[0]}; "
            'expected four fields: YTID, start, end, "mid,mid"'
        )

    def refuse(is_bad: pa.ChunkedArray, problem: str) -> None:
        rows = np.flatnonzero(np.asarray(is_bad))
        if len(rows):
            fields = ", ".join(str(table[name][rows[0].item()].as_py()) for name in _COLUMNS)
            raise InputError(
                f"{path}: {len(rows)} rows {problem}, the first is row "
                f"{rows[0] + header_rows + 1}: {fields}"
            )

    refuse(pc.equal(table["clip_id"], ""), "have no clip id")
    refuse(pc.equal(table["mids"], ""), "have no label")
    for name in ("start_s", "end_s"):
        is_number = pc.match_substring_regex(table[name], r"^\d+(\.\d*)?$")
        refuse(pc.invert(is_number), f"have a {name} that is not a number of seconds")
    return pa.table(
        {
            "clip_id": table["clip_id"],
            "start_s": table["start_s"].cast(pa.float64()),
            "end_s": table["end_s"].cast(pa.float64()),
            "mids": pc.split_pattern(table["mids"], ","),
        }
    ).combine_chunks()


def _class_numbers(path: str | pathlib.Path, table: pa.Table, ontology: Ontology) -> pa.ListArray:
    """The mids of each row as class numbers, list<int16>."""
    mids = table["mids"].combine_chunks()
    used = mids.flatten().dictionary_encode()
    unknown = [mid for mid in used.dictionary.to_pylist() if mid not in ontology.index]
    if unknown:
        raise InputError(
            f"{path}: {len(unknown)} mids are not in the ontology ({_some(unknown)}); use the "
            "ontology that the segments were labelled with, or remove these labels"
        )
    numbers = np.array([ontology.index[mid] for mid in used.dictionary.to_pylist()], np.int16)
    return pa.ListArray.from_arrays(mids.offsets, pa.array(numbers[np.asarray(used.indices)]))


def _some(values: Sequence) -> str:
    """The first few of many values, for a message of one line."""
    shown = ", ".join(str(value) for value in values[:3])
    return shown if len(values) <= 3 else f"{shown}, ..."
