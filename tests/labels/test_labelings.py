"""The three forms of the labelings against the definition, word by word, on sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from relabel_jax.labels.labelings import (
    LABELINGS,
    relabel,
    relabel_set,
    relabel_sparse,
)
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot, read_segments


@st.composite
def ontologies(draw) -> Ontology:
    """A random DAG: edges go from a class to later ones, in a shuffled order of the classes."""
    num_classes = draw(st.integers(1, 9))
    order = draw(st.permutations(range(num_classes)))
    is_abstract = draw(st.lists(st.booleans(), min_size=num_classes, max_size=num_classes))
    edges = draw(st.sets(st.tuples(*[st.integers(0, num_classes - 1)] * 2), max_size=25))
    children = {i: [order[b] for a, b in sorted(edges) if a < b and order[a] == i] for i in order}
    is_parent = np.zeros((num_classes, num_classes), bool)
    for parent, below in children.items():
        is_parent[parent, below] = True
    return Ontology(
        mids=tuple(f"/m/{i}" for i in range(num_classes)),
        display_names=tuple(f"Class {i}" for i in range(num_classes)),
        is_parent=is_parent,
        is_abstract=np.array(is_abstract),
        is_blacklisted=np.zeros(num_classes, bool),
        text="",
    )


@st.composite
def ontologies_and_labels(draw) -> tuple[Ontology, np.ndarray]:
    ontology = draw(ontologies())
    num_clips = draw(st.integers(0, 12))
    bits = draw(
        st.lists(
            st.booleans(), min_size=num_clips * len(ontology), max_size=num_clips * len(ontology)
        )
    )
    return ontology, np.array(bits, bool).reshape(num_clips, len(ontology))


def descendants(is_parent: np.ndarray, of: int) -> set[int]:
    """By walking down the graph; shares nothing with the code under test."""
    found: set[int] = set()
    waiting = [of]
    while waiting:
        for child in range(len(is_parent)):
            if is_parent[waiting[0], child] and child not in found:
                found.add(child)
                waiting.append(child)
        waiting.pop(0)
    return found


def on_every_path(ontology: Ontology, child: int) -> set[int]:
    """The strict ancestors that all paths from `child` up to a root share."""
    paths = [set(path) for path in ontology.paths(child)]
    return set.intersection(*paths) - {child}


def nearest_used(ontology: Ontology, child: int) -> set[int]:
    found = set()
    for parent in np.flatnonzero(ontology.is_parent[:, child]).tolist():
        found |= {parent} if ontology.is_used[parent] else nearest_used(ontology, parent)
    return found


def propagated(ontology: Ontology, child: int) -> set[int]:
    added = set()
    while len(above := nearest_used(ontology, child)) == 1:
        (child,) = above
        added.add(child)
    return added


ADDED = {"hlp": propagated, "entailed": on_every_path}


class Definition:
    """The definitions in the docstring of the module, on sets and paths."""

    def __init__(self, ontology: Ontology):
        classes = range(len(ontology))
        self.below = [descendants(ontology.is_parent, i) for i in classes]
        self.added = {name: [above(ontology, i) for i in classes] for name, above in ADDED.items()}

    def __call__(self, labels: set[int], labeling: str) -> tuple[set[int], set[int]]:
        if labeling == "ol":
            return labels, set()
        expanded = labels | {a for a, below in enumerate(self.below) if below & labels}
        if labeling == "pel":
            return expanded, set()
        if labeling == "hlp":
            return labels.union(*(self.added["hlp"][label] for label in labels)), set()
        masked: set[int] = set()
        for p in labels:
            if not self.below[p] & labels:
                masked |= self.below[p]
        if labeling == "pe_cml":
            return expanded, masked
        entailed = labels.union(*(self.added["entailed"][label] for label in labels))
        return entailed, masked | (expanded - entailed)


def as_sets(matrix: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in matrix]


@pytest.mark.parametrize("labeling", LABELINGS)
@given(ontologies_and_labels())
def test_all_forms_follow_the_definition(labeling, drawn):
    ontology, labels = drawn
    definition = Definition(ontology)
    expected = [definition(row, labeling) for row in as_sets(labels)]

    dense = relabel(labels, ontology, labeling)
    assert list(zip(*map(as_sets, dense), strict=True)) == expected
    assert all(matrix.dtype == bool and matrix.shape == labels.shape for matrix in dense)

    sparse_form = relabel_sparse(sparse.csr_array(labels), ontology, labeling)
    for matrix, same in zip(sparse_form, dense, strict=True):
        assert matrix.dtype == bool
        assert matrix.has_canonical_format
        assert matrix.data.all()  # no False is stored: lists are made of the indices
        np.testing.assert_array_equal(matrix.toarray(), same)

    for row, (positive, masked) in zip(as_sets(labels), expected, strict=True):
        mids = {ontology.mids[i] for i in row}
        assert relabel_set(mids, ontology, labeling) == (
            {ontology.mids[i] for i in positive},
            {ontology.mids[i] for i in masked},
        )


@given(ontologies_and_labels())
def test_the_labelings_are_nested(drawn):
    ontology, labels = drawn
    both = {labeling: relabel(labels, ontology, labeling) for labeling in LABELINGS}
    positive = {labeling: matrices[0] for labeling, matrices in both.items()}
    masked = {labeling: matrices[1] for labeling, matrices in both.items()}
    for labeling in LABELINGS:
        assert not (positive[labeling] & masked[labeling]).any()
        assert (positive["ol"] <= positive[labeling]).all()
        assert (positive[labeling] <= positive["pel"]).all()
        # Expanding twice adds nothing.
        again, _ = relabel(positive[labeling], ontology, labeling)
        np.testing.assert_array_equal(again, positive[labeling])
    np.testing.assert_array_equal(positive["pe_cml"], positive["pel"])
    assert (masked["pe_cml"] <= masked["entailed"]).all()
    added = positive["entailed"] | masked["entailed"]
    assert (positive["pel"] <= added).all()


@given(ontologies_and_labels(), st.data())
def test_columns_choose_from_the_relations_of_the_whole_ontology(drawn, data):
    """A class between two others may be left out; the outer ones keep their relation."""
    ontology, labels = drawn
    chosen = data.draw(st.sets(st.integers(0, len(ontology) - 1), min_size=1))
    columns = np.array(sorted(chosen))
    kept = np.zeros_like(labels)
    kept[:, columns] = labels[:, columns]
    for labeling in LABELINGS:
        whole = relabel(kept, ontology, labeling)
        of_columns = relabel(labels[:, columns], ontology, labeling, columns)
        for matrix, expected in zip(of_columns, whole, strict=True):
            np.testing.assert_array_equal(matrix, expected[:, columns])


def test_inputs_are_left_alone():
    ontology = Ontology.from_text(
        '[{"id": "/m/a", "name": "A", "child_ids": ["/m/b"]},'
        ' {"id": "/m/b", "name": "B", "child_ids": []}]'
    )
    labels = np.array([[True, False]])
    as_sparse = sparse.csr_array(labels)
    for labeling in LABELINGS:
        relabel(labels, ontology, labeling)
        relabel_sparse(as_sparse, ontology, labeling)
    np.testing.assert_array_equal(labels, [[True, False]])
    np.testing.assert_array_equal(as_sparse.toarray(), [[True, False]])


ALONE = Ontology.from_text('[{"id": "/m/a", "name": "A", "child_ids": []}]')


@pytest.mark.parametrize("labels", [np.zeros((2, 1)), np.zeros(1, bool), np.zeros((2, 3), bool)])
def test_wrong_arrays(labels):
    for labeling in LABELINGS:
        with pytest.raises(ValueError, match=r"labels: expected bool\[clips, 1\]"):
            relabel(labels, ALONE, labeling)


def test_wrong_labeling():
    labels = np.zeros((1, 1), bool)
    for form, of_clips in (
        (relabel, labels),
        (relabel_sparse, sparse.csr_array(labels)),
        (relabel_set, set()),
    ):
        with pytest.raises(ValueError, match="is none of ol, pel, pe_cml, hlp, entailed"):
            form(of_clips, ALONE, "PEL")
    with pytest.raises(TypeError, match="expected an Ontology"):
        relabel(labels, np.zeros((1, 1), bool), "ol")


@pytest.mark.parametrize("labeling", LABELINGS)
def test_real_segments(real_segments, labeling):
    """Every clip of the real sets, all three forms against the definition."""
    ontology = Ontology.audioset()
    segments = read_segments(real_segments, ontology)
    labels = multi_hot(segments.labels, len(ontology))
    assert labels.shape == (42_531 if len(real_segments) == 2 else 300, 632)
    definition = Definition(ontology)
    cache = {
        row: definition(set(row), labeling)
        for row in {tuple(row) for row in segments.labels.to_pylist()}
    }
    expected = [np.zeros(labels.shape, bool) for _ in range(2)]
    for clip, row in enumerate(segments.labels.to_pylist()):
        for matrix, classes in zip(expected, cache[tuple(row)], strict=True):
            matrix[clip, list(classes)] = True
    sparse_form = relabel_sparse(sparse.csr_array(labels), ontology, labeling)
    for dense, from_sparse, right in zip(
        relabel(labels, ontology, labeling), sparse_form, expected, strict=True
    ):
        np.testing.assert_array_equal(dense, right)
        np.testing.assert_array_equal(from_sparse.toarray(), right)
    for row, classes in cache.items():
        forms = relabel_set([ontology.mids[i] for i in row], ontology, labeling)
        assert forms == tuple({ontology.mids[i] for i in part} for part in classes)


def test_relations_of_audioset():
    ontology = Ontology.audioset()
    used = ontology.is_used
    assert used.sum() == 527
    # The table of the package hierarchical-label-propagation 0.1.0 has 731 pairs.
    assert ontology.is_hlp_ancestor[:, used].sum() == 731
    assert not ontology.is_hlp_ancestor[~used].any()
    assert not (ontology.is_hlp_ancestor & ~ontology.is_ancestor).any()
    assert not (ontology.is_entailed_ancestor & ~ontology.is_ancestor).any()

    def related(relation, above, below):
        return bool(relation[ontology.find(above), ontology.find(below)])

    for above, below, is_hlp, is_entailed in (
        ("Snake", "Rattle", True, False),
        ("Music", "Bell", True, False),
        ("Animal", "Howl", False, True),
        ("Steam", "Hiss", False, False),
    ):
        assert related(ontology.is_ancestor, above, below)
        assert related(ontology.is_hlp_ancestor, above, below) == is_hlp
        assert related(ontology.is_entailed_ancestor, above, below) == is_entailed
