"""Segments with their labels, from AudioSet's segment files (`relabel_jax/labels/segments_csv.py`).

Two million clips have only some 56,000 different sets of labels. Each set is held once, as a row of
a sparse matrix, and each clip holds the number of its set. Results that depend on the labels alone
are computed once for each set.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments_csv import BLOCK_BYTES, COLUMNS, read_columns


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
    block_bytes: int = BLOCK_BYTES,
) -> GroupedSegments:
    """Reads one or more segment files (`.gz` too) into one table.

    Args:
      paths: the files, in the order of their clips in the result.
      ontology: the ontology with the labels' mids.
      unknown: what to do about mids that are not in the ontology. `drop` drops these labels (a
        clip may have none left) and counts them in `dropped`. `refuse` and None raise; with
        `refuse` the message names --unknown=drop, which the caller's command then must have.
      block_bytes: the size of the blocks that are parsed at once.

    Raises:
      InputError: a file cannot be read or is empty; a row has too few fields, a time that is not a
        number, or no label; a mid is not in the ontology; a clip id occurs twice. The message names
        the file, the first such rows and their number.
    """
    if unknown not in (None, "refuse", "drop"):
        raise ValueError(f"unknown={unknown!r} is neither 'refuse' nor 'drop'")
    with ThreadPoolExecutor(2) as pool:
        files = [read_columns(pathlib.Path(path), pool, block_bytes) for path in paths]
        table = pa.concat_tables(files)
        clip_ids = table["clip_id"].combine_chunks()
        duplicates = pool.submit(_refuse_duplicates, paths, clip_ids)
        table = table.select(COLUMNS[1:]).unify_dictionaries()
        label_sets, dropped = parse_label_sets(_dictionary(table["mids"]), ontology)
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


def _dictionary(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0).dictionary


def _indices(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([np.asarray(chunk.indices) for chunk in column.chunks])


def parse_label_sets(
    texts: pa.Array, ontology: Ontology
) -> tuple[sparse.csr_array, dict[str, np.ndarray]]:
    """Parses texts of mids.

    Args:
      texts: string array [sets], each `mid,mid,...`; an empty text has no labels.
      ontology: the ontology with the mids.

    Returns:
      bool[sets, classes] with sorted indices, and by unknown mid the rows of the sets that have it.
    """
    mids = pc.split_pattern(texts, ",")
    used = mids.flatten().dictionary_encode()
    classes = [ontology.index.get(mid, -1) for mid in used.dictionary.to_pylist()]
    columns = np.array(classes, np.int32)[np.asarray(used.indices)]
    rows = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(np.asarray(mids.offsets)))
    known = columns >= 0
    sets = sparse.csr_array(
        (np.ones(known.sum(), bool), (rows[known], columns[known])), (len(texts), len(ontology))
    )
    sets.sum_duplicates()  # the same label twice in a row is one label
    dropped = {
        mid: np.unique(rows[np.asarray(used.indices) == number])
        for number, mid in enumerate(used.dictionary.to_pylist())
        if classes[number] < 0 and mid
    }
    return sets, dropped


def _refuse_duplicates(paths: Sequence[str | pathlib.Path], clip_ids: pa.Array) -> None:
    """Raises InputError if a clip id occurs twice."""
    # With several threads Arrow takes three times as long for this many groups.
    table = pa.table({"clip_id": clip_ids})
    counts = table.group_by("clip_id", use_threads=False).aggregate([([], "count_all")])
    if len(counts) == len(table):
        return
    twice = counts.filter(pc.greater(counts["count_all"], 1))["clip_id"].to_pylist()
    raise InputError(
        f"{', '.join(map(str, paths))}: {len(twice)} clip ids occur more than once "
        f"({_some(twice)}); expected one row a clip; remove the duplicate rows"
    )


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
