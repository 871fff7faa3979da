"""References to judge labels by: what a file says about the classes of each clip.

An exhaustive reference names all classes that are true of a clip, so every other class of its
vocabulary is false there. Its vocabulary is the classes that are true of some clip of the file: a
class that never occurs may not have been on offer. Other references decide only the entries that
they name. `read_reference` recognises the file by its content:

- Label files of any form (`relabel_jax/labels/label_files.py`), such as AudioSet's segment files
  and AST's JSON: exhaustive, except for entries that the file itself masks.
- AudioSet-Strong's events (`audioset_eval_strong.tsv`): exhaustive. Its annotators marked every
  sound with the most specific class. So a label makes its entailed ancestors true
  (`Ontology.is_entailed_ancestor`), and its other ancestors are open. They marked music as Music
  alone, so below Music all other classes are open in a clip with music.
- AudioSet-Strong's frames (`audioset_eval_strong_framed_posneg.tsv`): a class is true of a clip if
  any frame has it PRESENT, and false if it has frames and all of them say NOT_PRESENT.
- FSD50K's `eval.csv` (`fname,labels,mids`): exhaustive. Its `dev.csv` has one more column, `split`,
  and incomplete labels, so it names true classes only.
- FSD50K's `pp_pnp_ratings_FSD50K.json`: a class is true of a clip if more raters found it present
  (1 predominant, 0.5 not predominant) than absent (-1), false if fewer did, and open otherwise. An
  unsure rating (0) does not count.
"""

import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.csv
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.label_files import LabelFile, read_label_file, refuse_unknown
from relabel_jax.labels.label_texts import parse_label_sets
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments
from relabel_jax.labels.text_files import read_start, read_text

_MUSIC = "/m/04rlf"
_PRESENT = {"PRESENT": True, "NOT_PRESENT": False}
_VOTES = {1: 1, 0.5: 1, 0: 0, -1: -1}
"""By FSD50K's rating, a vote for the class, against it, or neither."""

_Path = str | pathlib.Path


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """The statements of a file about its clips.

    Attributes:
      labels: the true classes of each clip; an exhaustive reference leaves its masked ones open.
      negative_sets: bool[sets, classes], sparse, the classes that are false; None if the reference
        is exhaustive.
      form: the kind of the file, in words.
      is_timed: whether the clip ids end in `_` and the start of the clip in milliseconds.
    """

    labels: LabelFile
    negative_sets: sparse.csr_array | None
    form: str
    is_timed: bool = False

    @functools.cached_property
    def classes(self) -> np.ndarray:
        """bool[classes]: the classes about which the reference says anything."""
        known = _columns(self.labels.positive_sets)
        return known if self.negative_sets is None else known | _columns(self.negative_sets)

    @property
    def has_negatives(self) -> bool:
        """Whether any class is false in any clip."""
        return self.negative_sets is None or self.negative_sets.nnz > 0

    def rows(self, segments: GroupedSegments) -> np.ndarray:
        """int64[clips]: the row in `labels` of each segment; -1 if the reference lacks it."""
        clip_ids = segments.clip_ids.to_pylist()
        rows = self.labels.rows(clip_ids)
        if self.is_timed:
            absent = np.flatnonzero(rows < 0)
            starts = np.rint(1000 * segments.start_s[absent]).astype(int).tolist()
            names = [f"{clip_ids[i]}_{start}" for i, start in zip(absent, starts, strict=True)]
            rows[absent] = self.labels.rows(names)
        return rows

    def decided(self, entries: sparse.csr_array, sets: np.ndarray) -> sparse.csr_array:
        """The entries that the reference decides.

        Args:
          entries: bool[clips, classes], sparse.
          sets: int[clips], the row in the reference's sets of each clip.
        """
        if self.negative_sets is None:
            kept = sparse.csr_array(entries.multiply(self.classes[None]))
            return kept > self.labels.masked_sets[sets]
        decided = self.labels.positive_sets[sets] + self.negative_sets[sets]
        return sparse.csr_array(entries.multiply(decided))


def read_reference(path: _Path, ontology: Ontology, unknown: str = "refuse") -> Reference:
    """Reads a reference of any form that the module's text lists.

    Args:
      path: the file.
      ontology: the ontology with the mids.
      unknown: `refuse` or `drop` mids that are not in the ontology.

    Raises:
      InputError: the file cannot be read or has another form, or a mid is not in the ontology.
    """
    path = pathlib.Path(path)
    start = read_start(path, "reference")
    first_line = start.partition("\n")[0].strip()
    if first_line.startswith("segment_id\t"):
        return _read_strong(path, ontology, unknown)
    if first_line.startswith("fname,"):
        return _read_fsd50k(path, ontology, unknown, is_exhaustive="split" not in first_line)
    if re.match(r'\s*\{(?!\s*"data")', start):
        document = _read_json(path)
        if isinstance(document, dict) and "data" not in document:
            return _read_ratings(path, document, ontology, unknown)
    if path.suffix == ".tsv":
        raise InputError(
            f"{path}: line 1 is {first_line[:60]!r}; expected the tab-separated header of "
            "AudioSet-Strong: segment_id, start_time_seconds, end_time_seconds, label"
        )
    labels = read_label_file(path, ontology, unknown=unknown)
    return Reference(labels, None, "labels, which are complete")


def _read_strong(path: pathlib.Path, ontology: Ontology, unknown: str) -> Reference:
    columns = ["segment_id", "label"]
    try:
        # The parser's message names the line, if it parses in one thread.
        table = pa.csv.read_csv(
            path,
            read_options=pa.csv.ReadOptions(use_threads=False),
            parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys([*columns, "present"], pa.string()),
                strings_can_be_null=False,
            ),
        )
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot read it as tab-separated columns: {reason}") from error
    if not len(table) or "label" not in table.column_names:
        raise InputError(
            f"{path}: {len(table)} rows of {', '.join(table.column_names)}; expected rows of "
            "segment_id, start_time_seconds, end_time_seconds, label, and in a file of frames "
            "present"
        )
    clips, mids = (table[name].combine_chunks().dictionary_encode() for name in columns)
    numbers = np.array([ontology.index.get(mid, -1) for mid in mids.dictionary.to_pylist()])
    rows, classes = np.asarray(clips.indices), numbers[np.asarray(mids.indices)]
    dropped = {
        mid: len(np.unique(rows[np.asarray(mids.indices) == i]))
        for i, mid in enumerate(mids.dictionary.to_pylist())
        if numbers[i] < 0
    }
    refuse_unknown(path, dropped, unknown)
    shape = (len(clips.dictionary), len(ontology))

    def sets(chosen: np.ndarray) -> sparse.csr_array:
        chosen = chosen & (classes >= 0)
        return _bool_sets(rows[chosen], classes[chosen], shape)

    if "present" in table.column_names:
        is_present = _parse_present(path, table["present"])
        positive = sets(is_present)
        negative = sets(~is_present) > positive
        labels = _label_file(path, clips.dictionary, positive, None, dropped)
        return Reference(labels, negative, "AudioSet-Strong's frames", is_timed=True)
    positive, unsaid = _implied(sets(np.ones(len(rows), bool)), ontology)
    labels = _label_file(path, clips.dictionary, positive, unsaid, dropped)
    return Reference(labels, None, "AudioSet-Strong's events, which are complete", is_timed=True)


def _parse_present(path: pathlib.Path, column: pa.ChunkedArray) -> np.ndarray:
    """bool[rows] from AudioSet-Strong's PRESENT and NOT_PRESENT."""
    encoded = column.combine_chunks().dictionary_encode()
    for number, value in enumerate(encoded.dictionary.to_pylist()):
        if value not in _PRESENT:
            line = int(np.flatnonzero(np.asarray(encoded.indices) == number)[0]) + 2
            raise InputError(
                f"{path}: line {line}: present is {value!r}; expected {' or '.join(_PRESENT)}"
            )
    values = np.array([_PRESENT[value] for value in encoded.dictionary.to_pylist()])
    return values[np.asarray(encoded.indices)]


def _implied(
    labels: sparse.csr_array, ontology: Ontology
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """The classes that AudioSet-Strong's labels make true, and those that they leave open."""
    positive = labels + labels @ sparse.csr_array(ontology.is_entailed_ancestor.T)
    unsaid = (labels @ sparse.csr_array(ontology.is_ancestor.T)) > positive
    if (music := ontology.index.get(_MUSIC)) is not None:
        below = sparse.csr_array(ontology.is_ancestor[[music]])
        unsaid = unsaid + ((positive[:, [music]] @ below) > positive)
    return positive, unsaid


def _read_fsd50k(
    path: pathlib.Path, ontology: Ontology, unknown: str, is_exhaustive: bool
) -> Reference:
    mids = read_columns(path, "mids", "fname")
    if not mids:
        raise InputError(f"{path}: no rows; expected rows of fname,labels,mids")
    positive, rows_by_mid = parse_label_sets(pa.array(mids.values(), pa.string()), ontology, path)
    dropped = {mid: len(rows) for mid, rows in rows_by_mid.items()}
    refuse_unknown(path, dropped, unknown)
    labels = _label_file(path, pa.array(mids, pa.string()), positive, None, dropped)
    if is_exhaustive:
        return Reference(labels, None, "FSD50K's evaluation labels, which are complete")
    none = sparse.csr_array(positive.shape, dtype=bool)
    return Reference(labels, none, "FSD50K's development labels, which name true classes only")


def _read_json(path: pathlib.Path) -> object:
    text = read_text(path, "reference")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON: {error}") from error


def _read_ratings(
    path: pathlib.Path, ratings: Mapping[str, object], ontology: Ontology, unknown: str
) -> Reference:
    rows: tuple[list[int], list[int]] = [], []  # of the false, of the true
    classes: tuple[list[int], list[int]] = [], []
    dropped: dict[str, int] = {}
    for row, (clip, of_clip) in enumerate(ratings.items()):
        if not isinstance(of_clip, dict):
            raise _bad_ratings(path, f"the value of {clip!r} is {json.dumps(of_clip)[:40]}")
        for mid, values in of_clip.items():
            if not isinstance(values, list) or any(
                not isinstance(value, int | float) or value not in _VOTES for value in values
            ):
                said = f"the ratings of {mid} in {clip!r} are {json.dumps(values)[:40]}"
                raise _bad_ratings(path, said)
            number = ontology.index.get(mid, -1)
            votes = sum(_VOTES[value] for value in values)
            if number < 0:
                dropped[mid] = dropped.get(mid, 0) + 1
            elif votes:
                rows[votes > 0].append(row)
                classes[votes > 0].append(number)
    if not ratings:
        raise _bad_ratings(path, "it has no clips")
    refuse_unknown(path, dropped, unknown)
    shape = (len(ratings), len(ontology))
    negative, positive = (_bool_sets(rows[i], classes[i], shape) for i in (False, True))
    labels = _label_file(path, pa.array(ratings, pa.string()), positive, None, dropped)
    return Reference(labels, negative, "FSD50K's ratings")


def _bad_ratings(path: pathlib.Path, what: str) -> InputError:
    return InputError(
        f"{path}: {what}; expected FSD50K's ratings, {{CLIP: {{MID: [1, 0.5, 0 or -1, ...]}}}}, or "
        'the labels of AST or PSLA, {"data": [{"wav": PATH, "labels": "mid,mid"}]}'
    )


def _label_file(
    path: pathlib.Path,
    clip_ids: pa.Array,
    positive: sparse.csr_array,
    masked: sparse.csr_array | None,
    dropped: Mapping[str, int],
) -> LabelFile:
    """A `LabelFile` with a set for every clip."""
    if masked is None:
        masked = sparse.csr_array(positive.shape, dtype=bool)
    numbers = np.arange(len(clip_ids), dtype=np.int32)
    return LabelFile(path, clip_ids, positive, masked, numbers, dropped)


def _bool_sets(rows, classes, shape: tuple[int, int]) -> sparse.csr_array:
    sets = sparse.csr_array((np.ones(len(rows), bool), (rows, classes)), shape, dtype=bool)
    sets.sum_duplicates()
    return sets


def _columns(sets: sparse.csr_array) -> np.ndarray:
    """bool[classes]: the columns with an entry."""
    found = np.zeros(sets.shape[1], bool)
    found[sets.indices] = True
    return found
