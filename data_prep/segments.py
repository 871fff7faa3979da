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
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import tqdm
from scipy import sparse

from data_prep.parquet import joined_bytes
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

_COLUMNS = ("clip_id", "start_s", "end_s", "mids")
_EXPECTED = 'rows of YTID, start, end, "mid,mid"'
_BLOCK_BYTES = 8 << 20
_PIECE_BYTES = 1 << 18
_ROWS_PER_WRITE = 1 << 16
_TRAILING_COMMAS = re.compile(rb",+(?=\r?(?:\n|\Z))")


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """Labelled segments in the order of their files.

    Attributes:
      clip_ids: string array [clips].
      start_s, end_s: float64[clips], seconds in the original recording.
      labels: list<int16> array [clips]; the class numbers of each clip, ascending.
    """

    clip_ids: pa.Array
    start_s: np.ndarray
    end_s: np.ndarray
    labels: pa.ListArray

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclasses.dataclass(frozen=True, eq=False)
class GroupedSegments(Segments):
    """Segments, and beside the labels of each the different sets of labels that there are.

    Attributes:
      label_sets: bool[sets, classes], sparse; the different sets of original labels.
      set_numbers: int32[clips], the row in `label_sets` of each clip.
      clips_per_file: how many of the clips, in order, come from each file.
      dropped: number of clips by mid, for labels dropped because the ontology has them not.
    """

    label_sets: sparse.csr_array
    set_numbers: np.ndarray
    clips_per_file: tuple[int, ...]
    dropped: Mapping[str, int]

    @functools.cached_property
    def clips_per_set(self) -> np.ndarray:
        """int64[sets]: how many clips have each of the label sets."""
        return np.bincount(self.set_numbers, minlength=self.label_sets.shape[0])

    def take(self, rows: np.ndarray) -> "GroupedSegments":
        """The segments of these rows, as if they came from one file."""
        return GroupedSegments(
            clip_ids=self.clip_ids.take(pa.array(rows)),
            start_s=self.start_s[rows],
            end_s=self.end_s[rows],
            labels=self.labels.take(pa.array(rows)),
            label_sets=self.label_sets,
            set_numbers=self.set_numbers[rows],
            clips_per_file=(len(rows),),
            dropped={},
        )


def multi_hot(labels: pa.ListArray, num_classes: int) -> np.ndarray:
    """bool[rows, num_classes] from an Arrow list array of class numbers."""
    matrix = np.zeros((len(labels), num_classes), bool)
    counts = np.asarray(pc.list_value_length(labels))
    matrix[np.repeat(np.arange(len(labels)), counts), np.asarray(labels.flatten())] = True
    return matrix


def read_segments(
    paths: Sequence[str | pathlib.Path], ontology: Ontology, unknown: str | None = None
) -> GroupedSegments:
    """Reads one or more segment files (`.gz` too) into one table.

    Args:
      paths: the files, in the order that their clips shall have.
      ontology: says which mids there are.
      unknown: what to do about mids that are not in the ontology: `drop` drops these labels (a
        clip may have none left) and counts them in `dropped`; `refuse`, and None, raise, the first
        with a word on --unknown=drop, which the caller's command has.

    Raises:
      InputError: a file cannot be read or is empty; a row has too few fields, a time that is no
        number, or no label; a mid is not in the ontology; a clip id stands twice. The message names
        the file, the first such rows and their number.
    """
    if unknown not in (None, "refuse", "drop"):
        raise ValueError(f"unknown={unknown!r} is neither 'refuse' nor 'drop'")
    with ThreadPoolExecutor(2) as pool:
        files = [_read_file(pathlib.Path(path), pool) for path in paths]
        table = pa.concat_tables(files)
        clip_ids = table["clip_id"].combine_chunks()
        duplicates = pool.submit(_refuse_duplicates, paths, clip_ids)
        table = table.select(_COLUMNS[1:]).unify_dictionaries()
        label_sets, dropped = _label_sets(_dictionary(table["mids"]), ontology)
        set_numbers = _indices(table["mids"])
        if dropped and unknown != "drop":
            how = "drop these labels (--unknown=drop)" if unknown else "remove these labels"
            raise _unknown_mids(paths, files, dropped, how)
        seconds = {
            name: np.asarray(_dictionary(table[name]).cast(pa.float64()))[_indices(table[name])]
            for name in ("start_s", "end_s")
        }
        duplicates.result()
    clips_per_set = np.bincount(set_numbers, minlength=label_sets.shape[0])
    class_numbers = pa.ListArray.from_arrays(
        pa.array(label_sets.indptr, pa.int32()), pa.array(label_sets.indices, pa.int16())
    )
    return GroupedSegments(
        clip_ids=clip_ids,
        start_s=seconds["start_s"],
        end_s=seconds["end_s"],
        labels=class_numbers.take(pa.array(set_numbers)),
        label_sets=label_sets,
        set_numbers=set_numbers,
        clips_per_file=tuple(len(file) for file in files),
        dropped={mid: int(clips_per_set[sets].sum()) for mid, sets in dropped.items()},
    )


def _read_file(path: pathlib.Path, pool: ThreadPoolExecutor) -> pa.Table:
    """One file as a table of clip_id (string), start_s, end_s and mids (dictionary<string>)."""
    try:
        blocks = [pool.submit(_read_block, text) for text in _blocks(path)]
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
    """What is wrong with `count` rows of a block, the first of them row `row`: `text`."""

    what: str
    count: int
    row: int
    text: str


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


def _read_block(text: bytes) -> tuple[int, pa.Table | _Problem | None]:
    """The number of rows of the block, and its table, unless a row is bad or there is none."""
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
    types = dict.fromkeys(_COLUMNS, dictionary) | {"clip_id": pa.string()}
    try:
        table = pa.csv.read_csv(
            pa.py_buffer(text),
            # One thread and one block: Arrow numbers the bad rows only then.
            read_options=pa.csv.ReadOptions(
                column_names=_COLUMNS, use_threads=False, block_size=len(text) + 1
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
            content = ", ".join(table[name][row].as_py() for name in _COLUMNS)
            count = pc.sum(pc.invert(good)).as_py()
            return num_rows, _Problem(what, count, header_rows + row + 1, content)
    return num_rows, table


def _tidied(text: bytes) -> bytes:
    """The same without the blank after a comma, and without commas at the end of a row."""
    # NumPy, because it lets other threads run and takes a third of the time of bytes.replace; by
    # pieces that stay in the cache, because fresh memory costs more than the work.
    byte = np.frombuffer(text, np.uint8)
    pieces: list[bytes | np.ndarray] = [text[:1]]
    for start in range(1, len(byte), _PIECE_BYTES):
        piece = byte[start : start + _PIECE_BYTES]
        is_after_comma = byte[start - 1 : start - 1 + len(piece)] == ord(",")
        if (is_after_comma & ((piece == ord("\n")) | (piece == ord("\r")))).any():
            break  # a spreadsheet filled up to its widest row
        # Arrow takes a quote only at the very start of a field.
        pieces.append(piece[~(is_after_comma & (piece == ord(" ")))])
    else:
        if not text.endswith(b","):
            return b"".join(pieces)
    return _TRAILING_COMMAS.sub(b"", text).replace(b", ", b",")


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
    if _surely_different(clip_ids):
        return
    # One thread: for this many groups Arrow's grouping by several takes three times as long.
    table = pa.table({"clip_id": clip_ids})
    counts = table.group_by("clip_id", use_threads=False).aggregate([([], "count_all")])
    if len(counts) == len(table):
        return
    twice = counts.filter(pc.greater(counts["count_all"], 1))["clip_id"]
    raise InputError(
        f"{', '.join(map(str, paths))}: {len(twice)} clip ids stand more than once "
        f"({_some(twice.to_pylist())}); expected one row a clip; remove the duplicate rows"
    )


def _surely_different(clip_ids: pa.Array) -> bool:
    """True only if no id stands twice; False says nothing. Half the time of counting them.

    Equal ids have equal sums below. YouTube's ids have one length and 11 bytes, of which the sum
    takes the first and the last eight.
    """
    lengths = pc.min_max(pc.binary_length(clip_ids))
    length = lengths["min"].as_py()
    if length != lengths["max"].as_py() or length < 8:
        return False
    _, _, text = clip_ids.buffers()
    start = np.frombuffer(clip_ids.buffers()[1], np.int32)[clip_ids.offset]
    characters = np.frombuffer(text, np.uint8)[start : start + length * len(clip_ids)]
    characters = characters.reshape(len(clip_ids), length)
    sums = characters[:, :8].copy().view(np.uint64)[:, 0]
    sums *= np.uint64(0x9E3779B97F4A7C15)
    sums += np.ascontiguousarray(characters[:, -8:]).view(np.uint64)[:, 0]
    sums.sort()
    return bool((sums[1:] != sums[:-1]).all())


def _unknown_mids(
    paths: Sequence[str | pathlib.Path],
    files: Sequence[pa.Table],
    unknown: Mapping[str, object],
    how: str,
) -> InputError:
    for path, file in zip(paths, files, strict=True):
        texts = [text for chunk in file["mids"].chunks for text in chunk.dictionary.to_pylist()]
        here = {mid for text in texts for mid in text.split(",")}
        if mids := [mid for mid in unknown if mid in here]:
            return InputError(
                f"{path}: {len(mids)} mids are not in the ontology ({_some(mids)}); use the "
                f"ontology that the segments were labelled with, or {how}"
            )
    raise AssertionError("the unknown mids come from these files")


def _some(values: Sequence[str]) -> str:
    """The first few of many values, for a message of one line."""
    shown = ", ".join(values[:3])
    return shown if len(values) <= 3 else f"{shown}, ..."


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
      mids: of the classes.
      title: what the first line says.
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
    texts = [pc.binary_join(lists_of(sets, mids), ",") for sets in label_columns.values()]
    start_texts, end_texts = _seconds_texts(start_s), _seconds_texts(end_s)
    numbers = pa.array(set_numbers)
    with tqdm.tqdm(total=len(clip_ids), unit="clip", unit_scale=True) as bar:
        for first in range(0, len(clip_ids), _ROWS_PER_WRITE):
            rows = slice(first, first + _ROWS_PER_WRITE)
            parts = [clip_ids[rows], ", ", start_texts[rows], ", ", end_texts[rows]]
            for text in texts:
                parts += [', "', text.take(numbers[rows]), '"']
            lines = pc.binary_join_element_wise(*parts, "\n", "")
            file.write(joined_bytes(lines))
            bar.update(len(lines))


def lists_of(sets: sparse.csr_array, mids: Sequence[str]) -> pa.ListArray:
    """list<string> [sets]: the mids of each row of bool[sets, classes] with sorted indices."""
    return pa.ListArray.from_arrays(
        pa.array(sets.indptr, pa.int32()), pa.array(mids, pa.string()).take(pa.array(sets.indices))
    )


def _seconds_texts(seconds: np.ndarray) -> pa.Array:
    """As AudioSet writes them, `30.000`; more digits only where there are more."""
    different, number = np.unique(seconds, return_inverse=True)
    texts = [
        f"{value:.3f}" if round(value, 3) == value else repr(value) for value in different.tolist()
    ]
    return pa.array(texts, pa.string()).take(pa.array(number))
