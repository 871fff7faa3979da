"""The text form of AudioSet's segment files: `YTID, start_seconds, end_seconds, "mid,mid,..."`.

Files are read as columns by pyarrow, never row by row. The variants that common tools produce are
accepted: gzip, CRLF, a byte order mark, no blank after the comma, commas at the end of a row, no
header lines. Anything that would change a label is refused.
"""

import dataclasses
import gzip
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.progress import Progress

COLUMNS = ("clip_id", "start_s", "end_s", "mids")
BLOCK_BYTES = 8 << 20

_EXPECTED = 'rows of YTID, start, end, "mid,mid"'
_PIECE_BYTES = 1 << 18
_ROWS_PER_WRITE = 1 << 16
_TRAILING_COMMAS = re.compile(rb",+(?=\r?(?:\n|\Z))")


def read_columns(
    path: pathlib.Path,
    executor: Executor,
    block_bytes: int = BLOCK_BYTES,
    columns: Sequence[str] = COLUMNS,
) -> pa.Table:
    """Reads one segment file, gzipped if its name ends in `.gz`.

    Args:
      path: the file.
      executor: parses the blocks of the file.
      block_bytes: the size of a block. The result does not depend on it.
      columns: the names of the fields of a row: `COLUMNS`, maybe with more at the end.

    Returns:
      A table of `columns`: clip_id (string), and the others (dictionary<string>).

    Raises:
      InputError: the file cannot be read or is empty, or a row is wrong.
    """
    try:
        blocks = [
            executor.submit(_read_block, text, columns) for text in _blocks(path, block_bytes)
        ]
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read the segments: {error}") from error
    tables: list[pa.Table] = []
    problems: list[_Problem] = []
    rows_before = 0
    for block in blocks:
        num_rows, result = block.result()
        if isinstance(result, _Problem):
            problems.append(dataclasses.replace(result, row=rows_before + result.row))
        elif result is not None:
            tables.append(result)
        rows_before += num_rows
    if problems:
        first = problems[0]
        count = sum(problem.count for problem in problems if problem.what == first.what)
        raise InputError(
            f"{path}: {count} {first.what}, the first is row {first.row}: {first.text}; "
            f"expected {_EXPECTED}; mend or remove such rows"
        )
    if not tables:
        raise InputError(f"{path}: no segments; expected {_EXPECTED}")
    return pa.concat_tables(tables)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """A problem that `count` rows of a block have.

    Attributes:
      what: the problem, for a message.
      count: the number of rows.
      row: the number of the first such row.
      text: the content of that row.
    """

    what: str
    count: int
    row: int
    text: str


def _blocks(path: pathlib.Path, block_bytes: int) -> Iterator[bytes]:
    """The file's text in blocks of whole lines, without a byte order mark."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        rest = file.read(3).removeprefix(b"\xef\xbb\xbf")
        while block := file.read(block_bytes):
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
        if rest:
            yield rest


def _read_block(text: bytes, columns: Sequence[str]) -> tuple[int, pa.Table | _Problem | None]:
    """Returns the number of rows of a block, and its table, first problem, or None if empty."""
    num_rows = text.count(b"\n")
    header_rows = 0
    while text.startswith((b"#", b'"#')):  # a spreadsheet may quote a line of the header
        text = text.partition(b"\n")[2]
        header_rows += 1
    if not text.strip():
        return num_rows, None
    text = _tidied(text)
    bad_rows: list[tuple[int, str]] = []

    def on_bad_row(row):
        bad_rows.append((row.number, row.text))
        return "skip"

    dictionary = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(columns, dictionary) | {"clip_id": pa.string()}
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(text),
            # Arrow numbers the bad rows only if it reads with one thread and in one block.
            read_options=pa.csv.ReadOptions(
                column_names=columns, use_threads=False, block_size=len(text) + 1
            ),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=on_bad_row),
            convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        what = "block of rows that is not a segments CSV"
        return num_rows, _Problem(what, 1, header_rows + 1, str(error))
    if bad_rows:
        row, content = bad_rows[0]
        what = "malformed rows"
        return num_rows, _Problem(what, len(bad_rows), header_rows + row, repr(content[:200]))
    return num_rows, _bad_values(table, header_rows) or table


def _bad_values(table: pa.Table, header_rows: int) -> _Problem | None:
    """The first column with empty or unreadable values, or None."""
    for column, is_good, what in (
        ("clip_id", _is_filled, "rows have no clip id"),
        ("mids", _is_filled, "rows have no label"),
        ("start_s", _is_number, "rows have a start_s that is not a number of seconds"),
        ("end_s", _is_number, "rows have a end_s that is not a number of seconds"),
    ):
        values = table[column].combine_chunks()
        if isinstance(values, pa.DictionaryArray):
            good = is_good(values.dictionary)
            if not pc.all(good).as_py():
                good = good.take(values.indices)
        else:
            good = is_good(values)
        if not pc.all(good).as_py():
            row = pc.index(good, False).as_py()
            content = ", ".join(table[name][row].as_py() for name in COLUMNS)
            count = pc.sum(pc.invert(good)).as_py()
            return _Problem(what, count, header_rows + row + 1, content)
    return None


def _tidied(text: bytes) -> bytes:
    """The text without the blank after a comma, and without commas at the end of a row."""
    # NumPy lets other threads run and takes a third of the time of bytes.replace. It works on
    # pieces that stay in the cache, because fresh memory costs more than the work.
    byte = np.frombuffer(text, np.uint8)
    pieces: list[bytes | np.ndarray] = [text[:1]]
    for start in range(1, len(byte), _PIECE_BYTES):
        piece = byte[start : start + _PIECE_BYTES]
        is_after_comma = byte[start - 1 : start - 1 + len(piece)] == ord(",")
        if (is_after_comma & ((piece == ord("\n")) | (piece == ord("\r")))).any():
            break  # a spreadsheet padded the rows to its widest one
        # Arrow recognises a quote only at the very start of a field.
        pieces.append(piece[~(is_after_comma & (piece == ord(" ")))])
    else:
        if not text.endswith(b","):
            return b"".join(pieces)
    return _TRAILING_COMMAS.sub(b"", text).replace(b", ", b",")


def _is_filled(texts: pa.Array) -> pa.Array:
    return pc.greater(pc.binary_length(texts), 0)


def _is_number(texts: pa.Array) -> pa.Array:
    return pc.match_substring_regex(texts, r"^\d+(\.\d*)?$")


def write_segments(
    file: BinaryIO,
    *,
    clip_ids: pa.Array,
    start_s: np.ndarray,
    end_s: np.ndarray,
    label_columns: Mapping[str, sparse.csr_array],
    set_numbers: np.ndarray,
    mids: Sequence[str],
    title: str,
) -> None:
    """Writes AudioSet's own form: three header lines, then a row for each clip.

    Args:
      file: opened for writing bytes.
      clip_ids: string array [clips].
      start_s, end_s: float64[clips].
      label_columns: the quoted columns of mids by their names in the header, positives first:
        bool[sets, classes], sparse, with sorted indices.
      set_numbers: int32[clips], the row in `label_columns` of each clip.
      mids: the mids of the classes.
      title: the content of the first line.
    """
    positives = next(iter(label_columns.values()))
    clips_per_set = np.bincount(set_numbers, minlength=positives.shape[0])
    num_positives = int(np.diff(positives.indptr) @ clips_per_set)
    num_unique = len(np.unique(positives[clips_per_set > 0].indices))
    file.write(
        f"# {title}\n# num_ytids={len(clip_ids)}, num_segs={len(clip_ids)}, "
        f"num_unique_labels={num_unique}, num_positive_labels={num_positives}\n"
        f"# YTID, start_seconds, end_seconds, {', '.join(label_columns)}\n".encode()
    )
    texts = [_joined_mids(sets, mids) for sets in label_columns.values()]
    start_texts, end_texts = _seconds_texts(start_s), _seconds_texts(end_s)
    numbers = pa.array(set_numbers)
    with Progress("writing", len(clip_ids), "clips") as progress:
        for first in range(0, len(clip_ids), _ROWS_PER_WRITE):
            rows = slice(first, first + _ROWS_PER_WRITE)
            parts = [clip_ids[rows], ", ", start_texts[rows], ", ", end_texts[rows]]
            for text in texts:
                parts += [', "', text.take(numbers[rows]), '"']
            lines = pc.binary_join_element_wise(*parts, "\n", "")
            all_lines = pa.ListArray.from_arrays([0, len(lines)], lines)
            file.write(pc.binary_join(all_lines, "")[0].as_buffer())
            progress.update(len(lines))


def _joined_mids(sets: sparse.csr_array, mids: Sequence[str]) -> pa.Array:
    """string array [sets]: `mid,mid,...` for each row of bool[sets, classes]."""
    lists = pa.ListArray.from_arrays(
        pa.array(sets.indptr, pa.int32()), pa.array(mids, pa.string()).take(pa.array(sets.indices))
    )
    return pc.binary_join(lists, ",")


def _seconds_texts(seconds: np.ndarray) -> pa.Array:
    """Seconds as AudioSet writes them, `30.000`; more digits only where there are more."""
    different, number = np.unique(seconds, return_inverse=True)
    texts = [
        f"{value:.3f}" if round(value, 3) == value else repr(value) for value in different.tolist()
    ]
    return pa.array(texts, pa.string()).take(pa.array(number))
