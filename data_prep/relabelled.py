"""Segments with their labels under several labelings, over all or some of the classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.labelings import PAPER_LABELINGS, RULES, label_columns, relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments


class Column(NamedTuple):
    """The positive or the masked labels of a labeling. Clips with the same labels share a set.

    Attributes:
      sets: bool[sets, classes], sparse, with sorted indices.
      set_numbers: int32[clips], the row in `sets` of each clip.
    """

    sets: sparse.csr_array
    set_numbers: np.ndarray

    @property
    def labels_per_clip(self) -> np.ndarray:
        """int32[clips]: the number of labels of each clip."""
        return np.diff(self.sets.indptr)[self.set_numbers]


@dataclasses.dataclass(frozen=True, eq=False)
class Relabelled:
    """Segments and their labels.

    Attributes:
      segments: the segments.
      mids, display_names: the classes, in the ontology's order.
      columns: the labels by the names of `label_columns`. A labeling that masks nothing has no
        column of masked labels.
    """

    segments: GroupedSegments
    mids: Sequence[str]
    display_names: Sequence[str]
    columns: Mapping[str, Column]

    def mean_per_clip(self, column: str) -> float:
        """Returns the mean number of labels of a clip in a column."""
        return float(self.columns[column].labels_per_clip.mean())


def relabel_segments(
    segments: GroupedSegments,
    ontology: Ontology,
    classes: str = "all",
    labelings: Sequence[str] = PAPER_LABELINGS,
    files: Mapping[str, LabelFile] | None = None,
) -> Relabelled:
    """Applies labelings to segments.

    A rule is applied once to each distinct set of original labels.

    Args:
      segments: the segments with their original labels.
      ontology: the ontology of the labels.
      classes: `all` classes of the ontology, or only those `used` as original labels in the
        segments. Rules are applied to all classes in either case.
      labelings: names of rules (`LABELINGS`) and of `files`, in the order of the columns.
      files: labels from files, by the name of the labeling.

    Raises:
      InputError: a file lacks some of the clips.
    """
    if classes == "used":
        chosen = np.unique(segments.label_sets.indices)
    else:
        chosen = np.arange(len(ontology))
    columns: dict[str, Column] = {}

    def add(name: str, sets: sparse.csr_array, numbers: np.ndarray) -> None:
        if name not in columns:
            sets = sets[:, chosen]
            sets.sort_indices()
            columns[name] = Column(sets, numbers)

    for labeling in labelings:
        if files and labeling in files:
            file = files[labeling]
            positive, masked = file.positive_sets, file.masked_sets
            numbers = file.clip_sets(segments.clip_ids.to_pylist())
            masks = masked.nnz > 0
        else:
            positive, masked = relabel_sparse(segments.label_sets, ontology, labeling)
            numbers = segments.set_numbers
            masks = RULES[labeling].masks
        positive_name, masked_name = label_columns(labeling)
        add(positive_name, positive, numbers)
        if masks:
            add(masked_name, masked, numbers)
    return Relabelled(
        segments,
        [ontology.mids[number] for number in chosen],
        [ontology.display_names[number] for number in chosen],
        columns,
    )
