"""AudioSet's segment files: `YTID, start_seconds, end_seconds, "mid,mid,..."`.

Read as columns by pyarrow, never row by row. What people's tools make of these files is accepted:
gzip, CRLF, a byte order mark, no blank after the comma, commas at the end of a row, no header
lines. What would change a label is refused.

Two million clips carry only some 56,000 different sets of labels. Each set is held once, as a row
of a sparse matrix, and each clip holds its number: whatever depends on the labels alone is computed
on the sets.
"""

import dataclasses
import functools
import gzip
import itertools
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.ontology import Ontology

_COLUMNS = ("clip_id", "start_s", "end_s", "mids")
_EXPECTED = 'rows of YTID, start, end, "mid,mid"'
_BLOCK_BYTES = 8 << 20
_TRAILING_COMMAS = re.compile(rb",+(?=\r?(?:\n|\Z))")


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Labelled segments in the order of their files.

    Attributes:
      clip_ids: string array [clips].
      start_s, end_s: float64[clips], seconds in the original recording.
      label_sets: bool[sets, classes], sparse; the different sets of original labels, each once.
      set_numbers: int32[clips], the row in `label_sets` of each clip.
      clips_per_file: how many of the clips, in order, come from each file.
      dropped: number of clips by mid, for labels dropped because the ontology has them not.
    """

    clip_ids: pa.Array
    start_s: np.ndarray
    end_s: np.ndarray
    label_sets: sparse.csr_array
    set_numbers: np.ndarray
    clips_per_file: tuple[int, ...]
    dropped: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @functools.cached_property
    def labels(self) -> pa.ListArray:
        """list<int16> array [clips]: the class numbers of each clip, ascending."""
        sets = pa.ListArray.from_arrays(
            pa.array(self.label_sets.indptr, pa.int32()),
            pa.array(self.label_sets.indices, pa.int16()),
        )
        return sets.take(pa.array(self.set_numbers))

    @functools.cached_property
    def clips_per_set(self) -> np.ndarray:
        """int64[sets]: how many clips have each of the label sets."""
        return np.bincount(self.set_numbers, minlength=self.label_sets.shape[0])

    def multi_hot(self, num_classes: int) -> np.ndarray:
        """The original labels as bool[clips, num_classes]."""
        return multi_hot(self.labels, num_classes)


def multi_hot(labels: pa.ListArray, num_classes: int) -> np.ndarray:
    """bool[rows, num_classes] from an Arrow list array of class numbers."""
    matrix = np.zeros((len(labels), num_classes), bool)
    counts = np.asarray(pc.list_value_length(labels))
    matrix[np.repeat(np.arange(len(labels)), counts), np.asarray(labels.flatten())] = True
    return matrix


def read_segments(
    paths: Sequence[str | pathlib.Path], ontology: Ontology, unknown: str = "refuse"
) -> Segments:
    """Reads one or more segment files (`.gz` too) into one table.

    Args:
      paths: the files, in the order that their clips shall have.
      ontology: says which mids there are.
      unknown: what to do about mids that are not in the ontology: `refuse` raises, `drop` drops
        these labels (a clip may have none left) and counts them in `Segments.dropped`.

    Raises:
      InputError: a file cannot be read or is empty; a row has too few fields, a time that is no
        number, or no label; a mid is not in the ontology; a clip id stands twice. The message names
        the file, the first such rows and their number.
    """
    if unknown not in ("refuse", "drop"):
        raise ValueError(f"unknown={unknown!r} is neither 'refuse' nor 'drop'")
    with ThreadPoolExecutor(2) as pool:
        files = [_read_file(pathlib.Path(path), pool) for path in paths]
        table = pa.concat_tables(files).unify_dictionaries()
        clip_ids = table["clip_id"].combine_chunks()
        duplicates = pool.submit(_refuse_duplicates, paths, clip_ids)
        label_sets, dropped = _label_sets(_dictionary(table["mids"]), ontology)
        set_numbers = _indices(table["mids"])
        if dropped and unknown == "refuse":
            raise _unknown_mids(paths, files, dropped)
        seconds = {
            name: np.asarray(_dictionary(table[name]).cast(pa.float64()))[_indices(table[name])]
            for name in ("start_s", "end_s")
        }
        duplicates.result()
    clips_per_set = np.bincount(set_numbers, minlength=label_sets.shape[0])
    return Segments(
        clip_ids=clip_ids,
        start_s=seconds["start_s"],
        end_s=seconds["end_s"],
        label_sets=label_sets,
        set_numbers=set_numbers,
        clips_per_file=tuple(len(file) for file in files),
        dropped={mid: int(clips_per_set[sets].sum()) for mid, sets in dropped.items()},
    )


def _read_file(path: pathlib.Path, pool: ThreadPoolExecutor) -> pa.Table:
    """One file as a table of clip_id (string), start_s, end_s and mids (dictionary<string>)."""
    blocks = []
    try:
        for block in _blocks(path):
            blocks.append(pool.submit(_read_block, path, block))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read the segments: {error}") from error
    tables, rows_before = [], 0
    for block in blocks:
        table, num_lines, problem = block.result()
        if problem is not None:
            row, text = problem
            raise InputError(f"{path}: row {rows_before + row}: {text}")
        tables.append(table)
        rows_before += num_lines
    table = pa.concat_tables(tables) if tables else None
    if not table:
        raise InputError(f"{path}: no segments; expected {_EXPECTED}")
    return table


def _blocks(path: pathlib.Path) -> Iterator[bytes]:
    """The file's text in blocks of whole lines."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        rest = file.read(3).removeprefix(b"\xef\xbb\xbf")
        while block := file.read(_BLOCK_BYTES):
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
        if rest:
            yield rest


def _read_block(
    path: pathlib.Path, text: bytes
) -> tuple[pa.Table | None, int, tuple[int, str] | None]:
    """A table of the block's rows, its number of lines, and the first problem as (row, text)."""
    num_lines = text.count(b"\n")
    header_rows = 0
    while text.startswith((b"#", b'"#')):
        text = text.partition(b"\n")[2]
        header_rows += 1
    if not text.strip():
        return None, num_lines, None
    text = _tidied(text)

    bad_rows = []

    def on_bad_row(row):
        bad_rows.append(row)
        return "skip"

    string = pa.string()
    dictionary = pa.dictionary(pa.int32(), string)
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(text),
            # One thread a block: Arrow numbers the bad rows only then.
            read_options=pa.csv.ReadOptions(
                column_names=_COLUMNS, use_threads=False, block_size=len(text) + 1
            ),
            parse_options=pa.csv.ParseOptions(invalid_row_handler=on_bad_row),
            convert_options=pa.csv.ConvertOptions(
                column_types={
                    "clip_id": string,
                    "start_s": dictionary,
                    "end_s": dictionary,
                    "mids": dictionary,
                },
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        return None, num_lines, (header_rows + 1, f"not a segments CSV from here on: {error}")
    if bad_rows:
        first = bad_rows[0]
        return (
            None,
            num_lines,
            (
                header_rows + first.number,
                f"{first.actual_columns} fields in {first.text[:200]!r} ({len(bad_rows)} such rows "
                'hereabouts); expected four: YTID, start, end, "mid,mid"; mend or remove the row',
            ),
        )
    for column, is_good, expected in (
        ("clip_id", _is_filled, "a clip id"),
        ("start_s", _is_number, "a number of seconds"),
        ("end_s", _is_number, "a number of seconds"),
        ("mids", _is_filled, "at least one label"),
    ):
        values = table[column].combine_chunks()
        if column == "clip_id":
            good = is_good(values)
        else:
            good = is_good(values.dictionary)
            if not pc.all(good).as_py():
                good = good.take(values.indices)
        if not pc.all(good).as_py():
            row = pc.index(good, False).as_py()
            return (
                None,
                num_lines,
                (
                    header_rows + row + 1,
                    f"{column} is {values[row].as_py()!r}; expected {expected}; "
                    "mend or remove the row",
                ),
            )
    return table, num_lines, None


def _tidied(text: bytes) -> bytes:
    """The same without the blank after a comma, and without commas at the end of a row."""
    # NumPy, because it lets other threads run and takes a third of the time of bytes.replace.
    byte = np.frombuffer(text, np.uint8)
    is_comma, follows = byte[:-1] == ord(","), byte[1:]
    ends_row = (follows == ord("\n")) | (follows == ord("\r"))
    if (is_comma & ends_row).any() or text.endswith(b","):
        # Spreadsheets fill up to the widest row.
        return _TRAILING_COMMAS.sub(b"", text).replace(b", ", b",")
    # Arrow takes a quote only at the very start of a field.
    is_kept = np.append(True, ~(is_comma & (follows == ord(" "))))
    return byte[is_kept].tobytes()


def _is_filled(texts: pa.Array) -> pa.Array:
    return pc.greater(pc.binary_length(texts), 0)


def _is_number(texts: pa.Array) -> pa.Array:
    return pc.match_substring_regex(texts, r"^\d+(\.\d*)?$")


def _dictionary(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0).dictionary


def _indices(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([np.asarray(chunk.indices) for chunk in column.chunks])


def _label_sets(
    texts: pa.Array, ontology: Ontology
) -> tuple[sparse.csr_array, dict[str, np.ndarray]]:
    """bool[sets, classes] of the texts `mid,mid,...`, and for unknown mids the sets they are in."""
    mids = pc.split_pattern(texts, ",")
    used = mids.flatten().dictionary_encode()
    classes = [ontology.index.get(mid, -1) for mid in used.dictionary.to_pylist()]
    columns = np.array(classes, np.int32)[np.asarray(used.indices)]
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(np.asarray(mids.offsets)))
    known = columns >= 0
    sets = sparse.csr_array(
        (np.ones(known.sum(), bool), (rows[known], columns[known])), (len(texts), len(ontology))
    )
    sets.sum_duplicates()  # for booleans: the same label twice in a row is one label
    dropped = {
        mid: np.unique(rows[np.asarray(used.indices) == number])
        for number, mid in enumerate(used.dictionary.to_pylist())
        if classes[number] < 0
    }
    return sets, dropped


def _refuse_duplicates(paths: Sequence[str | pathlib.Path], clip_ids: pa.Array) -> None:
    table = pa.table({"clip_id": clip_ids})
    # One thread: for this many groups Arrow's grouping by several takes three times as long.
    if len(table.group_by("clip_id", use_threads=False).aggregate([])) == len(table):
        return
    counts = table.group_by("clip_id").aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1))["clip_id"]
    raise InputError(
        f"{', '.join(map(str, paths))}: {len(twice)} clip ids stand more than once "
        f"({_some(twice.to_pylist())}); expected one row a clip; remove the duplicate rows"
    )


def _unknown_mids(
    paths: Sequence[str | pathlib.Path], files: Sequence[pa.Table], unknown: Mapping[str, object]
) -> InputError:
    for path, file in zip(paths, files, strict=True):
        texts = itertools.chain.from_iterable(
            chunk.dictionary.to_pylist() for chunk in file["mids"].chunks
        )
        here = {mid for text in texts for mid in text.split(",")}
        if mids := [mid for mid in unknown if mid in here]:
            break
    return InputError(
        f"{path}: {len(mids)} mids are not in the ontology ({_some(mids)}); use the ontology that "
        "the segments were labelled with, or drop these labels (--unknown=drop)"
    )


def _some(values: Sequence[str]) -> str:
    """The first few of many values, for a message of one line."""
    shown = ", ".join(values[:3])
    return shown if len(values) <= 3 else f"{shown}, ..."
