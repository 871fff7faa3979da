"""The counts of an audit: the raters' labels, and the labels that follow from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments


def audit(segments: GroupedSegments, ontology: Ontology, files: Sequence[str]) -> dict[str, Any]:
    """Counts the original labels and the labels that follow from them.

    Args:
      segments: the segments.
      ontology: the ontology of their labels.
      files: a name for each of the segments' files.

    Returns:
      A value for JSON:

      - `files`: for each file, and for all files together if there are several: the number of
        `clips`, and the mean number of labels per clip under `ol`, `pel` and `masked`. The last two
        are counted over the whole ontology and over the used classes alone.
      - `roots`: for each root, the number of `used_labels` below it, and of `clips` with one.
      - `parent_chosen_too`: the number of labels with a parent on offer (used by the raters,
        neither abstract nor blacklisted), how many of them occur beside such a parent, and their
        share, which is the paper's 52%.
      - `general`: the clips with at least one general label, the clips with general labels only,
        and their shares of all clips. A label is general if it has descendants, but none of them
        was chosen.
      - `imbalance`: for each labeling, the largest number of clips of a used class, the smallest
        one above 0, their ratio, and the Gini coefficient.
      - `classes`: for each class the number of clips under `ol`, `pel` and `masked`; among those
        under `ol` the clips `with_child` (a child was chosen too) and those where the class is
        `general`; and `parent_chosen_too`, the share beside a parent on offer, or null.
      - `edges`: for each parent and child with clips: `child_clips`, `both_clips`,
        `parent_given_child` = P(parent chosen | child chosen), and whether the parent is
        `on_offer`; among the child's clips those with another child of the parent,
        `sibling_clips`, and among these the ones with the parent, `both_sibling_clips`.

    Raises:
      InputError: no clip has a label.
    """
    counts = _Counts(segments, ontology)
    if not counts.used.any():
        raise InputError("none of the clips has a label; give the ontology of these segments")
    return {
        "files": _files(counts, files),
        "roots": _roots(counts),
        "parent_chosen_too": _parent_chosen_too(counts),
        "general": _general(counts),
        "imbalance": {
            name: _imbalance(clips[counts.used])
            for name, clips in (("ol", counts.ol_clips), ("pel", counts.pel_clips))
        },
        "classes": _classes(counts),
        "edges": _edges(counts),
    }


class _Counts:
    """Counts that several parts of the audit use.

    Attributes:
      ol, pel, masked: bool[sets, classes], sparse.
      ol_clips, pel_clips, masked_clips: int64[classes], clips with each class.
      used: bool[classes], the classes that are original labels of some clip.
      on_offer: bool[classes], the used classes that are neither abstract nor blacklisted.
      offered_parent: bool[classes, classes], the parent relation from parents on offer.
      beside_parent_clips: int64[classes], clips with the class and a parent of it on offer.
      general: bool[sets, classes], sparse: labels that have descendants, but no chosen one.
    """

    def __init__(self, segments: GroupedSegments, ontology: Ontology):
        self.segments = segments
        self.ontology = ontology
        self.ol = segments.label_sets
        self.pel, self.masked = relabel_sparse(self.ol, ontology, "pe_cml")
        self.ol_clips = self.clips(self.ol)
        self.pel_clips = self.clips(self.pel)
        self.masked_clips = self.clips(self.masked)
        self.used = self.ol_clips > 0
        self.on_offer = self.used & ~ontology.is_abstract & ~ontology.is_blacklisted
        self.offered_parent = ontology.is_parent & self.on_offer[:, None]
        self.beside_parent_clips = self.clips(self.beside(self.offered_parent))
        above = self.ol @ sparse.csr_array(ontology.is_ancestor.T)
        has_descendants = np.asarray(ontology.is_ancestor.any(axis=1))
        self.general = sparse.csr_array((self.ol > above).multiply(has_descendants[None]))
        self.general.eliminate_zeros()

    def clips(self, sets: sparse.csr_array) -> np.ndarray:
        """int64[classes]: clips with each class, from bool[sets, classes]."""
        return self.segments.clips_per_set @ sets.astype(np.int64)

    def beside(self, relation: np.ndarray) -> sparse.csr_array:
        """bool[sets, classes]: the labels c with a label r in the same set and `relation[r, c]`."""
        return self.ol.multiply(self.ol @ sparse.csr_array(relation)).tocsr()


def _files(counts: _Counts, names: Sequence[str]) -> list[dict[str, Any]]:
    segments = counts.segments
    ends = np.cumsum(segments.clips_per_file)
    rows = [
        (name, segments.set_numbers[end - count : end])
        for name, end, count in zip(names, ends, segments.clips_per_file, strict=True)
    ]
    if len(rows) > 1:
        rows.append(("all", segments.set_numbers))
    used = counts.used.astype(np.int64)
    return [
        {
            "file": name,
            "clips": len(numbers),
            "ol": float(np.diff(counts.ol.indptr)[numbers].mean()),
            "pel": float(np.diff(counts.pel.indptr)[numbers].mean()),
            "pel_used": float((counts.pel @ used)[numbers].mean()),
            "masked": float(np.diff(counts.masked.indptr)[numbers].mean()),
            "masked_used": float((counts.masked @ used)[numbers].mean()),
        }
        for name, numbers in rows
    ]


def _roots(counts: _Counts) -> list[dict[str, Any]]:
    ontology = counts.ontology
    return [
        {
            "mid": ontology.mids[root],
            "name": ontology.display_names[root],
            "used_labels": int(counts.used[ontology.is_ancestor[root]].sum() + counts.used[root]),
            "clips": int(counts.pel_clips[root]),
        }
        for root in ontology.roots
    ]


def _parent_chosen_too(counts: _Counts) -> dict[str, Any]:
    asked = int(counts.ol_clips[counts.offered_parent.any(axis=0)].sum())
    answered = int(counts.beside_parent_clips.sum())
    return {
        "labels_with_a_parent_on_offer": asked,
        "beside_such_a_parent": answered,
        "share": answered / asked if asked else None,
    }


def _general(counts: _Counts) -> dict[str, Any]:
    clips_per_set, num_clips = counts.segments.clips_per_set, len(counts.segments)
    num_labels, num_general = np.diff(counts.ol.indptr), np.diff(counts.general.indptr)
    some = int(clips_per_set[num_general > 0].sum())
    only = int(clips_per_set[(num_general == num_labels) & (num_labels > 0)].sum())
    return {
        "clips_with_a_general_label": some,
        "share_with_a_general_label": some / num_clips,
        "clips_with_only_general_labels": only,
        "share_with_only_general_labels": only / num_clips,
    }


def _imbalance(clips: np.ndarray) -> dict[str, float]:
    """Statistics of the clips per class, which are all above zero."""
    ranked = np.sort(clips)
    position = np.arange(1, len(ranked) + 1)
    gini = (2 * position - len(ranked) - 1) @ ranked / (len(ranked) * ranked.sum())
    most, fewest = int(ranked[-1]), int(ranked[0])
    return {"most": most, "fewest": fewest, "ratio": most / fewest, "gini": float(gini)}


def _classes(counts: _Counts) -> list[dict[str, Any]]:
    ontology = counts.ontology
    general_clips = counts.clips(counts.general)
    with_child_clips = counts.clips(counts.beside(ontology.is_parent.T))
    has_offered_parent = counts.offered_parent.any(axis=0)
    return [
        {
            "mid": mid,
            "name": ontology.display_names[i],
            "ol": int(counts.ol_clips[i]),
            "pel": int(counts.pel_clips[i]),
            "masked": int(counts.masked_clips[i]),
            "with_child": int(with_child_clips[i]),
            "general": int(general_clips[i]),
            "parent_chosen_too": float(counts.beside_parent_clips[i] / counts.ol_clips[i])
            if counts.used[i] and has_offered_parent[i]
            else None,
            "is_abstract": bool(ontology.is_abstract[i]),
            "is_blacklisted": bool(ontology.is_blacklisted[i]),
        }
        for i, mid in enumerate(ontology.mids)
    ]


def _edges(counts: _Counts) -> list[dict[str, Any]]:
    ontology = counts.ontology
    labels = counts.ol.astype(np.int64)
    weighted = labels.multiply(counts.segments.clips_per_set[:, None]).tocsr()
    together = (labels.T @ weighted).toarray()
    edges = []
    for parent in np.flatnonzero(ontology.is_parent.any(axis=1)):
        children = np.flatnonzero(ontology.is_parent[parent] & counts.used)
        # The label sets with several of the parent's children.
        several = labels[:, children].sum(axis=1) > 1
        beside = sparse.csr_array(labels[several][:, children].T @ weighted[several]).toarray()
        for row, child in enumerate(children):
            edges.append(
                {
                    "parent": ontology.mids[parent],
                    "parent_name": ontology.display_names[parent],
                    "child": ontology.mids[child],
                    "child_name": ontology.display_names[child],
                    "child_clips": int(counts.ol_clips[child]),
                    "both_clips": int(together[parent, child]),
                    "parent_given_child": float(together[parent, child] / counts.ol_clips[child]),
                    "sibling_clips": int(beside[row, child]),
                    "both_sibling_clips": int(beside[row, parent]),
                    "on_offer": bool(counts.on_offer[parent]),
                }
            )
    return edges
