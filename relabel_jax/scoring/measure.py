"""Measures scores under labelings: which clips and classes count, and all metrics over them."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import LabelFile, read_label_file
from relabel_jax.labels.labelings import LABELINGS, relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments
from relabel_jax.metrics import Evaluation, evaluate, in_unit_interval
from relabel_jax.scoring.hierarchical import HierarchicalF1, hierarchical_f1
from relabel_jax.scoring.score_files import ScoreFile


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """The scores of the clips that have a segment.

    Attributes:
      file: the file, with the scores of all its clips.
      clip_ids: the ids of the matched clips, as the segments have them, in the file's order.
      rows: int64[clips], their rows in the file.
      ontology: the ontology of the classes.
      without_segment: the clips of the file without a segment, as the file names them.
      without_scores: the ids of the segments that the file has no scores for.
    """

    file: ScoreFile
    clip_ids: Sequence[str]
    rows: np.ndarray
    ontology: Ontology
    without_segment: Sequence[str]
    without_scores: Sequence[str]

    @property
    def scores(self) -> np.ndarray:
        """float[clips, classes]: the scores of the matched clips."""
        return self.file.scores[self.rows]

    @property
    def mids(self) -> list[str]:
        """The classes that have scores."""
        return [self.ontology.mids[i] for i in self.file.columns]

    @property
    def classes_without_scores(self) -> list[int]:
        """The class numbers of the used classes that the file has no scores for."""
        return sorted(set(np.flatnonzero(self.ontology.is_used).tolist()) - {*self.file.columns})

    def restricted_to(self, clip_ids: Sequence[str], columns: np.ndarray) -> "Matched":
        """The scores of some of the clips and classes, in this order."""
        row_of = dict(zip(self.clip_ids, self.rows.tolist(), strict=True))
        rows = [row_of[clip_id] for clip_id in clip_ids]
        column_of = {number: i for i, number in enumerate(self.file.columns.tolist())}
        chosen = [column_of[number] for number in columns.tolist()]
        scores = self.file.scores[np.ix_(rows, chosen)]
        names = [self.file.names[row] for row in rows]
        file = dataclasses.replace(self.file, names=names, columns=columns, scores=scores)
        return dataclasses.replace(self, file=file, clip_ids=clip_ids, rows=np.arange(len(rows)))


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """The metrics of scores under one labeling.

    Attributes:
      evaluation: mAP, mean AUC and d-prime, and the metrics of each class.
      hierarchical: the hierarchical F1.
      positives: int64[classes], the clips in which a class is positive.
      known: int64[classes], the clips in which a class is not masked.
      clip_ids: the clips that the labeling has labels for.
      without_labels: the scored clips that it has none for; all of their classes are masked.
      labels_fingerprint: of the labels of these clips and classes.
    """

    evaluation: Evaluation
    hierarchical: HierarchicalF1
    positives: np.ndarray
    known: np.ndarray
    clip_ids: Sequence[str]
    without_labels: Sequence[str]
    labels_fingerprint: str


def labels_by_name(
    segments: GroupedSegments,
    names: Sequence[str],
    files: Mapping[str, pathlib.Path],
    ontology: Ontology,
    unknown: str = "refuse",
) -> dict[str, LabelFile]:
    """Returns the labels of the clips by labeling.

    The rules of the labelings are applied over all classes of the ontology.

    Args:
      segments: the clips with their original labels.
      names: labelings, of `LABELINGS` or of `files`.
      files: the files of further labelings by name (`label_files.labeling_files`).
      ontology: the ontology.
      unknown: `refuse` or `drop` labels of the files that are not in the ontology.

    Raises:
      InputError: a name is not that of a labeling, or occurs twice; a file is wrong.
    """
    labels = {}
    for name in names:
        if name in labels:
            raise InputError(f"labelings: {name!r} occurs twice; expected each labeling once")
        if name in LABELINGS:
            positive, masked = relabel_sparse(segments.label_sets, ontology, name)
            labels[name] = _with_labels(segments, positive, masked)
        elif name in files:
            labels[name] = read_label_file(files[name], ontology, name, unknown)
        else:
            raise InputError(
                f"labelings: {name!r} is none of {', '.join((*LABELINGS, *files))}; a labeling "
                "from a file needs --labeling_files=NAME=FILE"
            )
    return labels


def match(file: ScoreFile, segments: GroupedSegments, ontology: Ontology) -> Matched:
    """Finds the segments of the clips of a file, under all names that recordings usually have.

    Raises:
      InputError: no clip has a segment, or two names mean the same segment.
    """
    sets = segments.label_sets
    rows = _with_labels(segments, sets, sets).rows(file.names)
    found = np.flatnonzero(rows >= 0)
    if not len(found):
        raise InputError(
            f"{file.path}: no common clips: the {len(rows)} clips, such as "
            f"{next(iter(file.names), '')!r}, are not among the {len(segments)} segments, such as "
            f"{segments.clip_ids[0].as_py()!r}; give the segment file that has them"
        )
    numbers, counts = np.unique(rows[found], return_counts=True)
    if (counts > 1).any():
        twice = numbers[counts > 1]
        names = [file.names[i] for i in np.flatnonzero(rows == twice[0]).tolist()]
        raise InputError(
            f"{file.path}: {len(twice)} clips occur more than once, such as {names[0]!r} and "
            f"{names[1]!r}; expected one row a clip"
        )
    clip_ids = np.array(segments.clip_ids.to_pylist(), object)
    return Matched(
        file=file,
        clip_ids=clip_ids[rows[found]].tolist(),
        rows=found,
        ontology=ontology,
        without_segment=[file.names[i] for i in np.flatnonzero(rows < 0).tolist()],
        without_scores=np.delete(clip_ids, numbers).tolist(),
    )


def labels_of(
    clip_ids: Sequence[str], labels: LabelFile
) -> tuple[sparse.csr_array, sparse.csr_array, np.ndarray]:
    """Returns the labels of clips, with all classes masked where the labeling has no labels.

    Returns:
      `(positive, masked, has_labels)`: bool[clips, classes] twice, over all classes of the
      ontology, and bool[clips].
    """
    rows = labels.rows(clip_ids)
    has_labels = rows >= 0
    num_sets, num_classes = labels.positive_sets.shape
    # One more set, for the clips without labels.
    nothing = sparse.csr_array((1, num_classes), dtype=bool)
    everything = sparse.csr_array(np.ones((1, num_classes), bool))
    sets = np.where(has_labels, labels.set_numbers[rows], num_sets)
    positive = sparse.vstack([labels.positive_sets, nothing], format="csr")[sets]
    masked = sparse.vstack([labels.masked_sets, everything], format="csr")[sets]
    return positive, masked, has_labels


def measure(matched: Matched, labels: LabelFile) -> Measured:
    """Computes all metrics under one labeling. Masked entries are left out of everything."""
    positive, masked, has_labels = labels_of(matched.clip_ids, labels)
    columns, scores = matched.file.columns, matched.scores
    is_positive, is_masked = positive[:, columns].toarray(), masked[:, columns].toarray()
    clip_ids = np.array(matched.clip_ids, object)
    return Measured(
        evaluation=evaluate(in_unit_interval(scores), is_positive, is_masked),
        hierarchical=hierarchical_f1(scores, positive, masked, matched.ontology, columns),
        positives=is_positive.sum(axis=0),
        known=(~is_masked).sum(axis=0),
        clip_ids=clip_ids[has_labels].tolist(),
        without_labels=clip_ids[~has_labels].tolist(),
        labels_fingerprint=_labels_fingerprint(matched, is_positive, is_masked, has_labels),
    )


def fingerprint(names: Sequence[str]) -> str:
    """The SHA-256 of names in the order of their bytes, each with a newline after it.

    It equals `LC_ALL=C sort NAMES | sha256sum` for a file with a name a line.
    """
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()


def _labels_fingerprint(
    matched: Matched, positive: np.ndarray, masked: np.ndarray, has_labels: np.ndarray
) -> str:
    """The SHA-256 of the labels, with clips and classes in the order of their names."""
    clip_ids, mids = np.array(matched.clip_ids), np.array(matched.mids)
    clips = np.flatnonzero(has_labels)
    entries = np.ix_(clips[np.argsort(clip_ids[clips])], np.argsort(mids))
    digest = hashlib.sha256(np.packbits(positive[entries]).tobytes())
    digest.update(np.packbits(masked[entries]).tobytes())
    return digest.hexdigest()


def _with_labels(
    segments: GroupedSegments, positive_sets: sparse.csr_array, masked_sets: sparse.csr_array
) -> LabelFile:
    """The segments with other labels, as if these came from a file."""
    return LabelFile(
        path=pathlib.Path(),
        clip_ids=segments.clip_ids,
        positive_sets=positive_sets,
        masked_sets=masked_sets,
        set_numbers=segments.set_numbers,
        dropped={},
        times_s=np.stack([segments.start_s, segments.end_s]),
    )
