"""Labelings: rules that re-label clips by the ontology, in three forms that agree.

For one clip with the raters' labels L:

- `ol` (original labels): L; nothing is masked.
- `pel` (parent-expanded labels; paper, section III.A): L and every ancestor of a label in L;
  nothing is masked.
- `pe_cml` (parent-expanded, children-masked labels; section III.B): the labels of `pel`; and for
  every *original* label p in L that has no descendant in L, all descendants of p are masked.
- `hlp` (Hierarchical Label Propagation, arXiv 2503.21826): L and, from each label upwards, the
  nearest used ancestor as long as there is exactly one (`Ontology.is_hlp_ancestor`); nothing is
  masked.
- `entailed`: L and the ancestors that the ontology entails, which are those on every path from the
  label up to a root (`Ontology.is_entailed_ancestor`). Masked are the descendants as in `pe_cml`,
  and the ancestors that `pel` would add without their being entailed: a Hiss is a sound of Steam,
  a Snake or a Cat, and nobody said which.

`masked` is True where the truth is unknown. Such labels are left out of loss, gradient and metric.

No label is both positive and masked. Proof: let d be masked as a descendant of p. Then p is in L,
and no descendant of p is in L. If d were positive, d or a descendant of d would be in L. That would
be a descendant of p in L: a contradiction. Masked ancestors are not positive by their definition.

`relabel` takes boolean matrices, `relabel_sparse` SciPy's sparse matrices, and `relabel_set` the
mids of one clip.

A clip has two or three labels of hundreds of classes, so the work is done on sparse matrices. With
A for `Ontology.is_ancestor`, `L @ A.T` holds the ancestors of the labels. A label that is not among
them has no descendant in L: it is general. `general @ A` is masked.

>>> import numpy as np
>>> ontology = Ontology.from_text('''[
...     {"id": "/m/04rlf", "name": "Music", "child_ids": ["/m/0342h"]},
...     {"id": "/m/0342h", "name": "Guitar", "child_ids": ["/m/07s0s5r"]},
...     {"id": "/m/07s0s5r", "name": "Strum", "child_ids": []}]''')
>>> labels, masked = relabel(np.array([[False, True, False]]), ontology, "pe_cml")
>>> labels
array([[ True,  True, False]])
>>> masked
array([[False, False,  True]])
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable

import numpy as np
from scipy import sparse

from relabel_jax.labels.ontology import Ontology


@dataclasses.dataclass(frozen=True)
class Rule:
    """A labeling as a rule: the ancestors that it adds, and the classes that it masks.

    Attributes:
      adds: gives the relation bool[classes, classes] whose element [a, c] is True if the label c
        adds its ancestor a; None adds nothing.
      masks_descendants: whether the descendants of general labels are masked.
      masks_ancestors: whether the ancestors of labels are masked that the rule does not add.
    """

    adds: Callable[[Ontology], np.ndarray] | None
    masks_descendants: bool = False
    masks_ancestors: bool = False

    @property
    def masks(self) -> bool:
        """Whether the labeling masks anything."""
        return self.masks_descendants or self.masks_ancestors


RULES = {
    "ol": Rule(None),
    "pel": Rule(lambda ontology: ontology.is_ancestor),
    "pe_cml": Rule(lambda ontology: ontology.is_ancestor, masks_descendants=True),
    "hlp": Rule(lambda ontology: ontology.is_hlp_ancestor),
    "entailed": Rule(
        lambda ontology: ontology.is_entailed_ancestor,
        masks_descendants=True,
        masks_ancestors=True,
    ),
}
"""The rules by the names of their labelings."""

LABELINGS = tuple(RULES)
PAPER_LABELINGS = ("ol", "pel", "pe_cml")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns labelings in the order in which tables show them, each one once.

    The rules come first, in the order of `LABELINGS`. All other names, which are labelings from
    files, follow in alphabetical order.

    >>> in_order(["teacher", "pe_cml", "ast", "ol"])
    ('ol', 'pe_cml', 'ast', 'teacher')
    """
    given = set(names)
    return (*(name for name in LABELINGS if name in given), *sorted(given - set(LABELINGS)))


def title(name: str) -> str:
    """Returns a labeling's name for readers: "PE-CML" for `pe_cml`. Other names stay as they are.

    >>> title("pe_cml"), title("teacher")
    ('PE-CML', 'teacher')
    """
    return {"ol": "OL", "pel": "PEL", "pe_cml": "PE-CML", "hlp": "HLP"}.get(name, name)


def label_columns(labeling: str) -> tuple[str, str]:
    """Returns the names of a labeling's positive and masked labels in files.

    They are `NAME` and `NAME_masked`. The only exception is `pe_cml`: its positive labels are those
    of `pel`, so a file holds them once, as `pel`, and its masked labels as `masked`.
    """
    return ("pel", "masked") if labeling == "pe_cml" else (labeling, f"{labeling}_masked")


def relabel(
    labels: np.ndarray, ontology: Ontology, labeling: str, columns: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Applies one of `LABELINGS` to a boolean matrix.

    Args:
      labels: bool[clips, classes], the original labels.
      ontology: the ontology of the classes.
      labeling: a name in `LABELINGS`.
      columns: int[classes], the class number of each column, ascending. By default there is a
        column for every class of the ontology. Classes without a column are neither added nor
        masked.

    Returns:
      `(labels, masked)`, both bool[clips, classes].

    Raises:
      ValueError: an unknown labeling, or a shape or dtype that does not fit.
    """
    _check(labels, ontology, labeling, columns)
    positive, masked = relabel_sparse(sparse.csr_array(labels), ontology, labeling, columns)
    return positive.toarray(), masked.toarray()


def relabel_sparse(
    labels: sparse.csr_array,
    ontology: Ontology,
    labeling: str,
    columns: np.ndarray | None = None,
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Applies one of `LABELINGS` to a sparse matrix.

    >>> ontology = Ontology.from_text('''[
    ...     {"id": "/m/0838f", "name": "Water", "child_ids": ["/m/06mb1"]},
    ...     {"id": "/m/06mb1", "name": "Rain", "child_ids": []}]''')
    >>> labels, masked = relabel_sparse(
    ...     sparse.csr_array([[True, False], [False, True]]), ontology, "pe_cml"
    ... )
    >>> labels.toarray()
    array([[ True, False],
           [ True,  True]])
    >>> masked.toarray()
    array([[False,  True],
           [False, False]])

    Args:
      labels: bool[clips, classes], the original labels.
      ontology: the ontology of the classes.
      labeling: a name in `LABELINGS`.
      columns: as in `relabel`.

    Returns:
      `(labels, masked)`, both bool[clips, classes] with each row's indices in ascending order.

    Raises:
      ValueError: an unknown labeling, or a shape or dtype that does not fit.
    """
    _check(labels, ontology, labeling, columns)
    rule = RULES[labeling]

    def relation(of_all_classes: np.ndarray) -> sparse.csr_array:
        chosen = of_all_classes if columns is None else of_all_classes[np.ix_(columns, columns)]
        return sparse.csr_array(chosen)

    positive = labels.copy()
    if rule.adds is not None:
        positive = labels + labels @ relation(rule.adds(ontology)).T.tocsr()
    masked = sparse.csr_array(labels.shape, dtype=bool)
    if rule.masks_descendants or rule.masks_ancestors:
        is_ancestor = relation(ontology.is_ancestor)
        above = labels @ is_ancestor.T.tocsr()
        if rule.masks_descendants:
            masked = (labels > above) @ is_ancestor
        if rule.masks_ancestors:
            masked = masked + (above > positive)
    positive.sort_indices()
    masked.sort_indices()
    return positive, masked


def relabel_set(
    labels: Collection[str], ontology: Ontology, labeling: str
) -> tuple[set[str], set[str]]:
    """Applies one of `LABELINGS` to the mids of one clip.

    >>> ontology = Ontology.from_text('''[
    ...     {"id": "/m/0838f", "name": "Water", "child_ids": ["/m/06mb1"]},
    ...     {"id": "/m/06mb1", "name": "Rain", "child_ids": ["/m/07r10fb"]},
    ...     {"id": "/m/07r10fb", "name": "Raindrop", "child_ids": []}]''')
    >>> labels, masked = relabel_set({"/m/06mb1"}, ontology, "pe_cml")
    >>> sorted(labels), sorted(masked)
    (['/m/06mb1', '/m/0838f'], ['/m/07r10fb'])

    Args:
      labels: the original labels of a clip, as mids of the ontology.
      ontology: the ontology.
      labeling: a name in `LABELINGS`.

    Returns:
      `(labels, masked)` as sets of mids.

    Raises:
      ValueError: an unknown labeling.
      KeyError: a mid that is not in the ontology.
    """
    _check_labeling(labeling)
    rule = RULES[labeling]
    numbers = [ontology.index[mid] for mid in labels]
    positive = set(numbers)
    if rule.adds is not None:
        positive.update(np.flatnonzero(rule.adds(ontology)[:, numbers].any(axis=1)).tolist())
    masked: set[int] = set()
    if rule.masks_descendants or rule.masks_ancestors:
        above = set().union(*(ontology.ancestor_sets[label] for label in numbers))
        if rule.masks_descendants:
            masked.update(*(ontology.descendant_sets[label] for label in set(numbers) - above))
        if rule.masks_ancestors:
            masked |= above - positive
    return {ontology.mids[i] for i in positive}, {ontology.mids[i] for i in masked}


def _check_labeling(labeling: str) -> None:
    if labeling not in RULES:
        raise ValueError(f"labeling {labeling!r} is none of {', '.join(LABELINGS)}")


def _check(
    labels: np.ndarray | sparse.csr_array,
    ontology: Ontology,
    labeling: str,
    columns: np.ndarray | None,
) -> None:
    _check_labeling(labeling)
    if not isinstance(ontology, Ontology):
        raise TypeError(f"ontology: expected an Ontology, got {type(ontology).__name__}")
    num_columns = len(ontology) if columns is None else len(columns)
    if labels.dtype != bool or labels.ndim != 2 or labels.shape[1] != num_columns:
        raise ValueError(
            f"labels: expected bool[clips, {num_columns}], got {labels.dtype}{labels.shape}"
        )
