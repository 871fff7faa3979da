"""The three forms of the labelings against the definition, word by word, on sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from relabel_jax.labels.labelings import (
    LABELINGS,
    children_masked,
    parent_expanded,
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
    edges = draw(st.sets(st.tuples(*[st.integers(0, num_classes - 1)] * 2), max_size=25))
    children = {i: [order[b] for a, b in sorted(edges) if a < b and order[a] == i] for i in order}
    is_parent = np.zeros((num_classes, num_classes), bool)
    for parent, below in children.items():
        is_parent[parent, below] = True
    return Ontology(
        mids=tuple(f"/m/{i}" for i in range(num_classes)),
        display_names=tuple(f"Class {i}" for i in range(num_classes)),
        is_parent=is_parent,
        is_abstract=np.zeros(num_classes, bool),
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


def by_definition(
    labels: set[int], below: list[set[int]], labeling: str
) -> tuple[set[int], set[int]]:
    """The definition in docs/architecture.md; `below` has the descendants of each class."""
    if labeling == "ol":
        return labels, set()
    expanded = labels | {a for a in range(len(below)) if below[a] & labels}
    if labeling == "pel":
        return expanded, set()
    masked: set[int] = set()
    for p in labels:
        if not below[p] & labels:
            masked |= below[p]
    return expanded, masked


def as_sets(matrix: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in matrix]


@pytest.mark.parametrize("labeling", LABELINGS)
@given(ontologies_and_labels())
def test_all_forms_follow_the_definition(labeling, drawn):
    ontology, labels = drawn
    below = [descendants(ontology.is_parent, i) for i in range(len(ontology))]
    expected = [by_definition(row, below, labeling) for row in as_sets(labels)]

    dense = relabel(labels, ontology.is_ancestor, labeling)
    assert list(zip(*map(as_sets, dense), strict=True)) == expected
    assert all(matrix.dtype == bool and matrix.shape == labels.shape for matrix in dense)

    sparse_form = relabel_sparse(sparse.csr_array(labels), ontology.is_ancestor, labeling)
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
def test_nothing_is_both_positive_and_masked(drawn):
    ontology, labels = drawn
    positive, masked = relabel(labels, ontology.is_ancestor, "pe_cml")
    assert not (positive & masked).any()
    # Expanding twice adds nothing, and all positives have their parents.
    np.testing.assert_array_equal(parent_expanded(positive, ontology.is_ancestor), positive)
    assert not (labels & ~positive).any()


def test_inputs_are_left_alone():
    labels = np.array([[True, False]])
    is_ancestor = np.array([[False, True], [False, False]])
    as_sparse = sparse.csr_array(labels)
    for labeling in LABELINGS:
        relabel(labels, is_ancestor, labeling)
        relabel_sparse(as_sparse, is_ancestor, labeling)
    np.testing.assert_array_equal(labels, [[True, False]])
    np.testing.assert_array_equal(as_sparse.toarray(), [[True, False]])


@pytest.mark.parametrize(
    ("labels", "is_ancestor", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3), bool), "expected bool"),
        (np.zeros(3, bool), np.zeros((3, 3), bool), "expected bool"),
        (np.zeros((2, 3), bool), np.zeros((2, 2), bool), r"expected bool\[3, 3\]"),
        (np.zeros((2, 3), bool), np.zeros((3, 3)), r"expected bool\[3, 3\]"),
    ],
)
def test_wrong_arrays(labels, is_ancestor, message):
    for labeling in LABELINGS:
        with pytest.raises(ValueError, match=message):
            relabel(labels, is_ancestor, labeling)
    with pytest.raises(ValueError, match=message):
        children_masked(labels, is_ancestor)


def test_wrong_labeling():
    labels, is_ancestor = np.zeros((1, 2), bool), np.zeros((2, 2), bool)
    ontology = Ontology.from_text('[{"id": "/m/a", "name": "A", "child_ids": []}]')
    for form, arguments in (
        (relabel, (labels, is_ancestor)),
        (relabel_sparse, (sparse.csr_array(labels), is_ancestor)),
        (relabel_set, (set(), ontology)),
    ):
        with pytest.raises(ValueError, match="is none of ol, pel, pe_cml"):
            form(*arguments, "PEL")


@pytest.mark.parametrize("labeling", LABELINGS)
def test_real_segments(real_segments, labeling):
    """Every clip of the real sets, all three forms against the definition."""
    ontology = Ontology.audioset()
    segments = read_segments(real_segments, ontology)
    labels = multi_hot(segments.labels, len(ontology))
    assert labels.shape == (42_531 if len(real_segments) == 2 else 300, 632)
    below = [descendants(ontology.is_parent, i) for i in range(len(ontology))]
    cache = {
        row: by_definition(set(row), below, labeling)
        for row in {tuple(row) for row in segments.labels.to_pylist()}
    }
    expected = [np.zeros(labels.shape, bool) for _ in range(2)]
    for clip, row in enumerate(segments.labels.to_pylist()):
        for matrix, classes in zip(expected, cache[tuple(row)], strict=True):
            matrix[clip, list(classes)] = True
    sparse_form = relabel_sparse(sparse.csr_array(labels), ontology.is_ancestor, labeling)
    for dense, from_sparse, right in zip(
        relabel(labels, ontology.is_ancestor, labeling), sparse_form, expected, strict=True
    ):
        np.testing.assert_array_equal(dense, right)
        np.testing.assert_array_equal(from_sparse.toarray(), right)
    for row, classes in cache.items():
        forms = relabel_set([ontology.mids[i] for i in row], ontology, labeling)
        assert forms == tuple({ontology.mids[i] for i in part} for part in classes)
