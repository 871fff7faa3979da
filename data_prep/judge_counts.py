"""Counts how often the labels of clips are true, by a reference (`data_prep/judge_references.py`).

The rule of all counts: an entry is a class of a clip. It counts if the reference decides it, and it
is true if the reference has it as positive. The reference's labels are taken as they are: it need
not contain the ancestors of its labels, and an ancestor that it never names is not judged.

All results follow from a few counts for each clip and class, which are held as sparse matrices. If
there are more clips than `MAX_BAGS`, the clips are put into that many random bags of equal size.
The bootstrap draws bags, so the memory and time it takes are bounded.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import sparse

from data_prep.judge_references import Reference
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.labelings import relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments

MAX_BAGS = 20_000
KINDS = ("positive", "entailed", "not_entailed", "elsewhere", "masked")
"""The kinds of entries of a labeling: its labels, and its masked entries. The labels that it adds
to the raters' are ancestors that the raters' labels entail, other ancestors, or neither."""

_CLIPS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Labeling:
    """The labels under judgement; clips with the same labels share a row of the sets.

    Attributes:
      name: its name.
      positive_sets, masked_sets: bool[sets, classes], sparse.
      set_numbers: int[clips], the row in the sets of each judged clip.
    """

    name: str
    positive_sets: sparse.csr_array
    masked_sets: sparse.csr_array
    set_numbers: np.ndarray

    @classmethod
    def by_rule(
        cls, name: str, segments: GroupedSegments, rows: np.ndarray, ontology: Ontology
    ) -> "Labeling":
        """The labels that a rule of `LABELINGS` gives the segments in `rows`."""
        positive, masked = relabel_sparse(segments.label_sets, ontology, name)
        return cls(name, positive, masked, segments.set_numbers[rows])

    @classmethod
    def from_file(cls, name: str, file: LabelFile, rows: np.ndarray) -> "Labeling":
        """The labels of a file; `rows` are those of the judged clips in it."""
        return cls(name, file.positive_sets, file.masked_sets, file.set_numbers[rows])


@dataclasses.dataclass(frozen=True)
class Entries:
    """The entries of one kind that the reference decides, float32[bags, classes], sparse.

    Attributes:
      decided: their number.
      true: the number of those that are true.
    """

    decided: sparse.csr_array
    true: sparse.csr_array

    def of_classes(self) -> tuple[np.ndarray, np.ndarray]:
        """`(decided, true)`, both int64[classes], over all bags."""
        return _of_classes(self.decided), _of_classes(self.true)


@dataclasses.dataclass(frozen=True)
class Clips:
    """The clips under judgement.

    Attributes:
      ontology: the ontology of all labels.
      reference: says what is true.
      original: the raters' labels.
      reference_sets: int[clips], the row in the reference's sets of each clip.
      bags: int[clips], the bag of each clip.
    """

    ontology: Ontology
    reference: Reference
    original: Labeling
    reference_sets: np.ndarray
    bags: np.ndarray

    def __len__(self) -> int:
        return len(self.bags)

    @property
    def num_bags(self) -> int:
        return int(self.bags.max()) + 1

    def blocks(self) -> list[slice]:
        """Blocks of clips, so that the entries of few clips are in memory at once."""
        return [slice(i, i + _CLIPS_AT_ONCE) for i in range(0, len(self), _CLIPS_AT_ONCE)]

    def true(self, block: slice) -> sparse.csr_array:
        """bool[clips, classes]: what is true of the clips of a block."""
        return self.reference.labels.positive_sets[self.reference_sets[block]]

    def decided(self, entries: sparse.csr_array, block: slice) -> sparse.csr_array:
        """The entries bool[clips, classes] of a block that the reference decides."""
        return self.reference.decided(entries, self.reference_sets[block])

    def in_bags(self, entries: sparse.csr_array, block: slice) -> sparse.csr_array:
        """float32[bags, classes]: the number of entries in each bag, from bool[clips, classes]."""
        bags = self.bags[block]
        ones = np.ones(len(bags), np.float32)
        shape = (self.num_bags, len(bags))
        members = sparse.csr_array((ones, (bags, np.arange(len(bags)))), shape)
        return members @ entries.astype(np.float32)


def random_bags(num_clips: int, seed: int, max_bags: int) -> np.ndarray:
    """int64[clips]: a bag for each clip; its own bag if there are at most `max_bags` clips."""
    if num_clips <= max_bags:
        return np.arange(num_clips)
    return np.random.default_rng(seed).permutation(num_clips) % max_bags


def count_entries(clips: Clips, labeling: Labeling) -> dict[str, Entries]:
    """Counts the entries of a labeling by their kind, which are `KINDS`."""
    original, ontology = clips.original, clips.ontology
    above_sets = original.positive_sets @ sparse.csr_array(ontology.is_ancestor.T)
    entailed_sets = original.positive_sets @ sparse.csr_array(ontology.is_entailed_ancestor.T)
    totals = {name: _empty(clips) for name in KINDS}
    for block in clips.blocks():
        numbers = original.set_numbers[block]
        positive = labeling.positive_sets[labeling.set_numbers[block]]
        added = positive > original.positive_sets[numbers]
        above, entailed = above_sets[numbers], entailed_sets[numbers]
        kinds = {
            "positive": positive,
            "entailed": added.multiply(entailed),
            "not_entailed": added.multiply(above > entailed),
            "elsewhere": added > above,
            "masked": labeling.masked_sets[labeling.set_numbers[block]],
        }
        for name, entries in kinds.items():
            decided = clips.decided(sparse.csr_array(entries), block)
            true = decided.multiply(clips.true(block))
            before = totals[name]
            totals[name] = Entries(
                before.decided + clips.in_bags(decided, block),
                before.true + clips.in_bags(sparse.csr_array(true), block),
            )
    return totals


def count_reference(clips: Clips) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Counts what the reference says about the clips.

    Returns:
      `(true, other)`, both float32[bags, classes], sparse. `true` is the number of true entries.
      `other` is the number of open entries of an exhaustive reference, else of decided entries.
    """
    reference = clips.reference
    true = other = _empty(clips).true
    for block in clips.blocks():
        is_true, sets = clips.true(block), clips.reference_sets[block]
        true = true + clips.in_bags(is_true, block)
        if reference.negative_sets is None:
            others = reference.labels.masked_sets[sets].multiply(reference.classes[None])
            others = sparse.csr_array(others)
        else:
            others = is_true + reference.negative_sets[sets]
        other = other + clips.in_bags(others, block)
    return true, other


def count_edges(clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """Counts the parents that follow from a label and that the raters left out.

    Returns:
      `(decided, true)`, both int64[classes, classes]. `decided[p, c]` is the number of clips
      with the raters' label c and without its parent p where the reference decides p. `true[p, c]`
      is the number of those where p is true.
    """
    original = clips.original
    parent_sets = original.positive_sets @ sparse.csr_array(clips.ontology.is_parent.T)
    left_out_sets = parent_sets > original.positive_sets
    size = len(clips.ontology)
    decided, true = (np.zeros((size, size), np.int64) for _ in range(2))
    for block in clips.blocks():
        numbers = original.set_numbers[block]
        labels = original.positive_sets[numbers].astype(np.int32)
        left_out = clips.decided(left_out_sets[numbers], block).astype(np.int32)
        confirmed = sparse.csr_array(left_out.multiply(clips.true(block)))
        decided += (left_out.T @ labels).toarray()
        true += (confirmed.T @ labels).toarray()
    is_parent = clips.ontology.is_parent
    return decided * is_parent, true * is_parent


def edge_rows(clips: Clips) -> list[dict[str, str | int | float | bool]]:
    """A row for every parent and child with a count of `count_edges` above 0."""
    ontology = clips.ontology
    decided, true = count_edges(clips)
    return [
        {
            "parent": ontology.mids[parent],
            "parent_name": ontology.display_names[parent],
            "child": ontology.mids[child],
            "child_name": ontology.display_names[child],
            "entailed": bool(ontology.is_entailed_ancestor[parent, child]),
            "parent_left_out": int(decided[parent, child]),
            "confirmed": int(true[parent, child]),
            "share": int(true[parent, child]) / int(decided[parent, child]),
        }
        for parent, child in np.argwhere(decided)
    ]


def class_rows(
    clips: Clips,
    counts: Mapping[str, Mapping[str, Entries]],
    of_reference: tuple[sparse.csr_array, sparse.csr_array],
) -> list[dict[str, str | int | float | None]]:
    """A row for every labeling and every class of the reference's vocabulary.

    Args:
      clips: the clips.
      counts: by labeling, the result of `count_entries`.
      of_reference: the result of `count_reference`.
    """
    ontology = clips.ontology
    true, other = map(_of_classes, of_reference)
    all_decided = len(clips) - other if clips.reference.negative_sets is None else other
    rows: list[dict[str, str | int | float | None]] = []
    for name, kinds in counts.items():
        decided, confirmed = zip(*(kinds[kind].of_classes() for kind in KINDS), strict=True)
        of = dict(zip(KINDS, decided, strict=True))
        is_true = dict(zip(KINDS, confirmed, strict=True))
        for i in np.flatnonzero(clips.reference.classes).tolist():
            negatives = int(all_decided[i] - of["positive"][i] - of["masked"][i])
            missed = int(true[i] - is_true["positive"][i] - is_true["masked"][i])
            row: dict[str, str | int | float | None] = {
                "labeling": name,
                "mid": ontology.mids[i],
                "name": ontology.display_names[i],
                "true": int(true[i]),
                "labels": int(of["positive"][i]),
                "true_labels": int(is_true["positive"][i]),
                "recall": _share(is_true["positive"][i], true[i]),
                "precision": _share(is_true["positive"][i], of["positive"][i]),
            }
            for kind in KINDS[1:]:
                row |= {kind: int(of[kind][i]), f"true_{kind}": int(is_true[kind][i])}
            rows.append(row | {"unmasked_negatives": negatives, "true_unmasked_negatives": missed})
    return rows


def labels_per_clip(labeling: Labeling) -> float:
    """The mean number of labels of a clip, over all classes of the ontology."""
    return float(np.diff(labeling.positive_sets.indptr)[labeling.set_numbers].mean())


def _empty(clips: Clips) -> Entries:
    zeros = sparse.csr_array((clips.num_bags, len(clips.ontology)), dtype=np.float32)
    return Entries(zeros, zeros)


def _of_classes(matrix: sparse.csr_array) -> np.ndarray:
    """int64[classes]: the sum over the bags."""
    return matrix.sum(axis=0, dtype=np.float64).astype(np.int64)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
