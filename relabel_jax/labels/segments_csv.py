"""The text form of AudioSet's segment files: `YTID, start_seconds, end_seconds, "mid,mid,..."`.

Files in exactly this form are read as columns by pyarrow, never row by row. So are the variants
that differ only in gzip, CRLF, a byte order mark, blanks after commas, commas at the end of a row
and the lines above the rows. `segment_rows` reads every other file row by row, and finds the rows
with faults.
"""

import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from scipy import sparse

from relabel_jax.labels import segment_layout, segment_rows
from relabel_jax.labels.segment_layout import COLUMNS
from relabel_jax.labels.segment_rows import LONG_S, MAX_S
from relabel_jax.labels.text_files import UTF8_MARK, opened
from relabel_jax.progress import Progress

BLOCK_BYTES = 8 << 20

_PIECE_BYTES = 1 << 18
_ROWS_PER_WRITE = 1 << 16
_TRAILING_COMMAS = re.compile(rb",+(?=\r?(?:\n|\Z))")
_MAX_LINE_BYTES = 1 << 16
_MAX_COMMENTS = 100
# The first row of a file in AudioSet's form; later rows are checked as columns.
_PLAIN_ROW = re.compile(
    rb"""[^\s"',;#]+, ?[0-9]+(\.[0-9]*)?, ?[0-9]+(\.[0-9]*)?(, ?("[^"]+"|[^\s"',;]+))+,*\r?\n?"""
)
# The bytes of an id that needs no second look.
_ID_BYTES = (
    rb"!$%&()*+-./0123456789:<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_abcdefghijklmnopqrstuvwxyz{|}~"
)


def read_columns(
    path: pathlib.Path,
    executor: Executor,
    block_bytes: int = BLOCK_BYTES,
    columns: Sequence[str] = COLUMNS,
) -> pa.Table:
    """Reads one segment file, gzipped or not.

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
    with opened(path, "segments") as file:
        blocks = [
            executor.submit(_plain_table, text, columns)
            for text in _plain_blocks(file, block_bytes, columns)
        ]
    tables = [block.result() for block in blocks]
    plain = [table for table in tables if table is not None]
    if plain and len(plain) == len(tables):
        return pa.concat_tables(plain)
    return segment_rows.read_rows(path, columns)


def _plain_blocks(file: BinaryIO, block_bytes: int, columns: Sequence[str]) -> Iterator[bytes]:
    """Yields a file's rows in blocks of whole lines; nothing if its first row has another form."""
    line = file.readline(_MAX_LINE_BYTES).removeprefix(UTF8_MARK)
    for _ in range(_MAX_COMMENTS):
        if not line.startswith((b"# ", b'"# ')):  # a spreadsheet may quote a comment
            break
        line = file.readline(_MAX_LINE_BYTES)
    if _is_plain_header(line, columns):
        line = file.readline(_MAX_LINE_BYTES)
    if not _PLAIN_ROW.fullmatch(line):
        return
    rest = line
    while block := file.read(block_bytes):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest


def _is_plain_header(line: bytes, columns: Sequence[str]) -> bool:
    """Whether a line is a header that names the columns of AudioSet's form in their order."""
    fields = segment_layout.fields_of(line.decode(errors="replace").rstrip(), ",", '"')
    header = segment_layout.header_layout(fields or (), ",", '"')
    return header == segment_layout.without_header(columns)


def _plain_table(text: bytes, columns: Sequence[str]) -> pa.Table | None:
    """The table of a block of rows; None if it needs the reader of rows."""
    dictionary = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(columns, dictionary) | {"clip_id": pa.string()}
    text = _tidied(text)
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(text),
            read_options=pa.csv.ReadOptions(
                column_names=columns, use_threads=False, block_size=len(text) + 1
            ),
            convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except pa.ArrowInvalid:
        return None
    return table if _is_plain(table) else None


def _is_plain(table: pa.Table) -> bool:
    """Whether all values have AudioSet's form and no row can be wrong.

    Values of the dictionaries are checked once, not once a row.
    """
    if not len(table):
        return True
    ids = table["clip_id"].combine_chunks()
    if not (_id_bytes_are_plain(ids) and pc.all(pc.greater(pc.binary_length(ids), 0)).as_py()):
        return False
    encoded = {name: table[name].combine_chunks() for name in table.column_names[1:]}
    for name, column in encoded.items():
        form = r"^[0-9]+(\.[0-9]*)?$"
        if name not in ("start_s", "end_s"):
            form = (
                r"""^[^\x00-\x1f"'][^\x00-\x1f"]*$"""
                if name == "mids"
                else r"""^[^\x00-\x1f"']*$"""
            )
        if not pc.all(pc.match_substring_regex(column.dictionary, form)).as_py():
            return False
    start, end = (
        np.asarray(encoded[name].dictionary.cast(pa.float64()))[np.asarray(encoded[name].indices)]
        for name in ("start_s", "end_s")
    )
    lengths = end - start
    return bool(lengths.min() > 0 and lengths.min() < LONG_S and end.max() <= MAX_S)


def _id_bytes_are_plain(ids: pa.StringArray) -> bool:
    _, offsets, values = ids.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[ids.offset, ids.offset + len(ids)]]
    return not values.slice(first, last - first).to_pybytes().translate(None, _ID_BYTES)


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
            parts = [_id_texts(clip_ids[rows]), ", ", start_texts[rows], ", ", end_texts[rows]]
            for text in texts:
                parts += [', "', text.take(numbers[rows]), '"']
            lines = pc.binary_join_element_wise(*parts, "\n", "")
            all_lines = pa.ListArray.from_arrays([0, len(lines)], lines)
            file.write(pc.binary_join(all_lines, "")[0].as_buffer())
            progress.update(len(lines))


def _id_texts(clip_ids: pa.Array) -> pa.Array:
    """The ids as fields of a row, in quotes where they have other characters than most."""
    if _id_bytes_are_plain(clip_ids):
        return clip_ids
    doubled = pc.replace_substring(clip_ids, '"', '""')
    quoted = pc.binary_join_element_wise('"', doubled, '"', "")
    return pc.if_else(pc.match_substring_regex(clip_ids, r"[^\w./-]"), quoted, clip_ids)


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
