"""Segments with their labels, from AudioSet's segment files (`relabel_jax/labels/segments_csv.py`).

Two million clips have only some 56,000 different sets of labels. Each set is held once, as a row of
a sparse matrix, and each clip holds the number of its set. Results that depend on the labels alone
are computed once for each set.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from relabel_jax.errors import InputError, some
from relabel_jax.labels.ast_json import is_json, read_ast_json
from relabel_jax.labels.label_texts import parse_label_sets
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segment_layout import COLUMNS
from relabel_jax.labels.segments_csv import BLOCK_BYTES, read_columns
from relabel_jax.progress import write_line

_JSON_KEYS = {"clip_id": "name in wav", "positive": "labels"}
_JSON_TIMES_S = ("0", "10")  # the JSON of AST has no times


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
    """Segments whose labels are also held as numbers of distinct label sets.

    Attributes:
      label_sets: bool[sets, classes], sparse; the different sets of original labels.
      set_numbers: int32[clips], the row in `label_sets` of each clip.
      clips_per_file: the number of clips from each file, in the order of the files.
      dropped: by mid, the number of clips that lost this label because the ontology lacks it.
    """

    label_sets: sparse.csr_array
    set_numbers: np.ndarray
    clips_per_file: tuple[int, ...]
    dropped: Mapping[str, int]

    @functools.cached_property
    def clips_per_set(self) -> np.ndarray:
        """int64[sets]: the number of clips with each label set."""
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
    paths: Sequence[str | pathlib.Path],
    ontology: Ontology,
    unknown: str | None = None,
    *,
    class_mids: Sequence[str] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> GroupedSegments:
    """Reads one or more segment files into one table.

    A file has one of the forms that docs/data.md lists. The JSON of AST gives no times: its clips
    have 0 and 10 s. Several segments of one recording get the ids `ID_START`, START in
    milliseconds, and stderr says how many.

    Args:
      paths: the files, in the order of their clips in the result.
      ontology: the ontology with the labels' mids.
      unknown: what to do about mids that are not in the ontology. `drop` drops these labels (a
        clip may have none left) and counts them in `dropped`. `refuse` and None raise; with
        `refuse` the message names --unknown=drop, which the caller's command then must have.
      class_mids: the mids of the class numbers, for labels that are numbers.
      block_bytes: the size of the blocks that are parsed at once.

    Raises:
      InputError: a file cannot be read or is empty; a row has too few fields, a time that is not a
        number, or no label; it ends before it starts; a label is not in the ontology; a row occurs
        twice. The message names the file, the first such rows and their number.
    """
    if unknown not in (None, "refuse", "drop"):
        raise ValueError(f"unknown={unknown!r} is neither 'refuse' nor 'drop'")
    names = ", ".join(map(str, paths))
    with ThreadPoolExecutor(2) as pool:
        files = [_read_file(pathlib.Path(path), pool, block_bytes) for path in paths]
        table = pa.concat_tables(files)
        clip_ids = table["clip_id"].combine_chunks()
        repeated = pool.submit(_repeated, clip_ids)
        table = table.select(COLUMNS[1:]).unify_dictionaries()
        texts = _dictionary(table["mids"])
        label_sets, dropped = parse_label_sets(texts, ontology, names, class_mids)
        set_numbers = _indices(table["mids"])
        if dropped and unknown != "drop":
            how = "drop these labels (--unknown=drop)" if unknown else "remove these labels"
            raise _unknown_labels(paths, files, texts, dropped, how)
        seconds = {
            name: np.asarray(_dictionary(table[name]).cast(pa.float64()))[_indices(table[name])]
            for name in ("start_s", "end_s")
        }
        if len(repeated.result()):
            clip_ids = _named_by_start(
                names, clip_ids, repeated.result(), seconds["start_s"], seconds["end_s"]
            )
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


def _dictionary(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0).dictionary


def _indices(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([np.asarray(chunk.indices) for chunk in column.chunks])


def _read_file(path: pathlib.Path, pool: Executor, block_bytes: int) -> pa.Table:
    """The table of a segment file, as `segments_csv.read_columns` describes it."""
    if not is_json(path):
        return read_columns(path, pool, block_bytes)
    table = read_ast_json(path, "segments")
    if not len(table):
        raise InputError(f"{path}: no segments")
    masked = pc.greater(pc.binary_length(table["masked"]), 0)
    if pc.any(masked).as_py():
        raise InputError(
            f"{path}: {pc.sum(masked).as_py()} clips have masked labels; expected the raters' "
            "labels alone, which are not re-labelled yet"
        )
    for name in ("clip_id", "positive"):
        empty = pc.equal(pc.binary_length(table[name]), 0)
        if pc.any(empty).as_py():
            raise InputError(
                f"{path}: {pc.sum(empty).as_py()} clips have no {_JSON_KEYS[name]}, the first is "
                f"number {pc.index(empty, True).as_py() + 1} of its data"
            )
    times = [pa.array([text] * len(table)).dictionary_encode() for text in _JSON_TIMES_S]
    mids = table["positive"].combine_chunks().dictionary_encode()
    return pa.table([table["clip_id"], *times, mids], names=list(COLUMNS))


def _repeated(clip_ids: pa.Array) -> pa.Array:
    """The clip ids that occur more than once."""
    # With several threads Arrow takes three times as long for this many groups.
    table = pa.table({"clip_id": clip_ids})
    counts = table.group_by("clip_id", use_threads=False).aggregate([([], "count_all")])
    if len(counts) == len(table):
        return clip_ids[:0]
    return counts.filter(pc.greater(counts["count_all"], 1))["clip_id"].combine_chunks()


def _named_by_start(
    paths: str, clip_ids: pa.Array, repeated: pa.Array, start_s: np.ndarray, end_s: np.ndarray
) -> pa.Array:
    """The clip ids with `ID_START` for several segments of one recording, START in milliseconds.

    Where segments of a recording start together, their ids are `ID_START_END`.

    Raises:
      InputError: a row occurs twice, or such an id is already another clip's.
    """
    rows = np.flatnonzero(np.asarray(pc.is_in(clip_ids, value_set=repeated)))
    ids = clip_ids.take(pa.array(rows)).to_pylist()
    starts, ends = ((times[rows] * 1000).round().astype(int).tolist() for times in (start_s, end_s))
    segments = list(zip(ids, starts, ends, strict=True))
    if twice := [each for each, count in collections.Counter(segments).items() if count > 1]:
        names = list(dict.fromkeys(clip_id for clip_id, _, _ in twice))
        raise InputError(
            f"{paths}: {len(names)} clip ids occur more than once ({some(names)}) with the same "
            "times; expected one row a segment; remove the duplicate rows"
        )
    together = collections.Counter((clip_id, start) for clip_id, start, _ in segments)
    new = [
        f"{clip_id}_{start}" if together[clip_id, start] == 1 else f"{clip_id}_{start}_{end}"
        for clip_id, start, end in segments
    ]
    is_renamed = np.zeros(len(clip_ids), bool)
    is_renamed[rows] = True
    result = pc.replace_with_mask(clip_ids, pa.array(is_renamed), pa.array(new, pa.string()))
    if len(both := _repeated(result)):
        raise InputError(
            f"{paths}: {len(both)} clips would have the ids of others ({some(both.to_pylist())}), "
            "because recordings with several segments get the ids ID_START; rename them"
        )
    write_line(
        f"{paths}: {len(rows):,} segments of {len(repeated):,} recordings with several segments "
        f"have the ids ID_START in milliseconds, such as {some(new[:2])}"
    )
    return result


def _unknown_labels(
    paths: Sequence[str | pathlib.Path],
    files: Sequence[pa.Table],
    texts: pa.Array,
    unknown: Mapping[str, np.ndarray],
    how: str,
) -> InputError:
    """The error that names the first file with labels that are not in the ontology.

    Args:
      paths: the files.
      files: their tables.
      texts: string array [sets], the texts of labels in all files.
      unknown: by label, the rows of `texts` with it.
      how: what to do instead of another ontology.
    """
    for path, file in zip(paths, files, strict=True):
        here = pa.concat_arrays([chunk.dictionary for chunk in file["mids"].chunks])
        is_here = np.asarray(pc.is_in(texts, value_set=here))
        if labels := [label for label, rows in unknown.items() if is_here[rows].any()]:
            return InputError(
                f"{path}: {len(labels)} mids are not in the ontology ({some(labels)}); use the "
                f"ontology that the segments were labelled with, or {how}"
            )
    raise AssertionError("the unknown labels come from these files")
