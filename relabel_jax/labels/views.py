"""Views: each experiment takes some rows and columns of a single data set on disk.

A root R of the ontology divides the classes into two sides: `target` is R and its descendants, and
`base` is all other classes. A clip with an original label on the target side is a target clip, and
its base labels are dropped; all other clips are base clips. Labels are dropped before the rest is
re-labelled inside the side's classes, because a dropped `Music` must not mask a kept `Choir`.

All labelings of a root and side have the same columns. A class outside the labeling's label set is
masked for every clip, so that no other code depends on the labeling.

A custom labeling is a function, or a file. It changes the labels of the clips, but not the clips
of a side: these follow from the raters' labels, so that all labelings share them.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology

SIDES = ("base", "target")
SPLITS = ("train", "validation", "test")

Labeling = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A custom labeling.

It takes int64[clips], rows of the data set, and int64[classes], class numbers, and returns the
`(positive, masked)` of these clips and classes, both bool[clips, classes]."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """The rows, columns and labels of one experiment.

    Attributes:
      rows: int64[split clips] by split: row numbers in the data set, ascending.
      columns: int64[side classes], class numbers in the ontology, ascending.
      labels: bool[split clips, side classes] by split.
      masked: bool[split clips, side classes] by split; True for labels outside loss and metric.
      label_set: bool[side classes], the classes with a positive in the training clips.
    """

    rows: dict[str, np.ndarray]
    columns: np.ndarray
    labels: dict[str, np.ndarray]
    masked: dict[str, np.ndarray]
    label_set: np.ndarray


def side_columns(ontology: Ontology, root: int, side: str) -> np.ndarray:
    """int64[side classes]: the class numbers of one side of `root`, ascending."""
    is_target = ontology.descendants(root).copy()
    is_target[root] = True
    if side not in SIDES:
        raise InputError(f"side {side!r} is none of {', '.join(SIDES)}")
    return np.flatnonzero(is_target if side == "target" else ~is_target)


def make_view(
    ontology: Ontology,
    original_labels: np.ndarray,
    clip_splits: np.ndarray,
    *,
    root: int,
    side: str,
    labeling: str | Labeling,
) -> View:
    """Makes the view of one root, side and labeling.

    Args:
      ontology: the ontology of the data set.
      original_labels: bool[clips, classes], the raters' labels over the whole ontology.
      clip_splits: int8[clips], the index into `SPLITS` of each clip.
      root: class number of the target root.
      side: `base` or `target`.
      labeling: a name in `LABELINGS`, or a function; see `from_file` for labels from a file.

    Raises:
      InputError: a split has no clip on that side.
      ValueError: the function returns another shape or dtype, or a label is positive and masked.
    """
    if isinstance(labeling, str):
        labeling = _by_name(labeling, original_labels, ontology)
    target_columns = side_columns(ontology, root, "target")
    columns = side_columns(ontology, root, side)
    is_target_clip = original_labels[:, target_columns].any(axis=1)
    in_side = is_target_clip if side == "target" else ~is_target_clip

    rows, labels, masked = {}, {}, {}
    for number, split in enumerate(SPLITS):
        rows[split] = np.flatnonzero(in_side & (clip_splits == number))
        if not len(rows[split]):
            raise InputError(
                f"root {ontology.display_names[root]!r}: the data set has no {split} clip on the "
                f"{side} side ({int(in_side.sum())} clips in all splits); build a larger data set, "
                "give other --splits, or choose another config.root"
            )
        labels[split], masked[split] = labeling(rows[split], columns)
        _check_labels(labels[split], masked[split], (len(rows[split]), len(columns)))
    label_set = np.asarray(labels["train"].any(axis=0))
    for split in SPLITS:
        labels[split] = labels[split] & label_set
        masked[split] = masked[split] | ~label_set
    return View(rows=rows, columns=columns, labels=labels, masked=masked, label_set=label_set)


def from_file(file: LabelFile, clip_ids: Sequence[str]) -> Labeling:
    """Returns the labeling that takes the labels of a file.

    Args:
      file: the labels, over the ontology of the data set.
      clip_ids: the ids of all clips of the data set, in the order of its rows.

    Raises:
      InputError: the file lacks a clip.
    """
    positive, masked = file.labels(clip_ids)
    return lambda rows, columns: (
        positive[rows][:, columns].toarray(),
        masked[rows][:, columns].toarray(),
    )


def _by_name(labeling: str, original_labels: np.ndarray, ontology: Ontology) -> Labeling:
    return lambda rows, columns: relabel(
        original_labels[np.ix_(rows, columns)], ontology, labeling, columns
    )


def _check_labels(positive: np.ndarray, masked: np.ndarray, shape: tuple[int, int]) -> None:
    for name, array in (("positive", positive), ("masked", masked)):
        if array.shape != shape or array.dtype != bool:
            raise ValueError(
                f"labeling: expected {name} as bool{list(shape)}, got {array.dtype}"
                f"{list(array.shape)}"
            )
    if (positive & masked).any():
        raise ValueError("labeling: a label is both positive and masked; expected one of the two")


def classes_digest(ontology: Ontology, columns: np.ndarray) -> str:
    """A digest of the classes that a network's outputs are for, in their order.

    Args:
      ontology: the ontology of the data set.
      columns: int64[side classes], of `side_columns`.
    """
    return hashlib.sha256("\n".join(ontology.mids[i] for i in columns).encode()).hexdigest()


def hashed_splits(clip_ids: Sequence[str], seed: int = 0) -> np.ndarray:
    """Splits clips 80/10/10 by a hash of the seed and the clip id alone.

    So a clip keeps its split when the data set grows, shrinks or is reordered.

    Returns:
      int8[clips], the index into `SPLITS` of each clip.
    """
    salt = f"{seed}:".encode()
    splits = np.empty(len(clip_ids), np.int8)
    for row, clip_id in enumerate(clip_ids):
        digest = hashlib.blake2b(salt + clip_id.encode(), digest_size=8).digest()
        tenth = int.from_bytes(digest, "big") % 10
        splits[row] = 0 if tenth < 8 else tenth - 7
    return splits
