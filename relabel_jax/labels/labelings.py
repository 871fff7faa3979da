"""The paper's three labelings as pure functions, in three forms that agree.

For one clip with the raters' labels L (paper, section III):

- `ol` (original labels): L; nothing is masked.
- `pel` (parent-expanded labels): L and every ancestor of a label in L; nothing is masked.
- `pe_cml` (parent-expanded, children-masked labels): the labels of `pel`; and for every *original*
  label p in L that has no descendant in L, all descendants of p are masked.

`masked` is True where the truth is unknown. Such labels are left out of loss, gradient and metric.

No label is both positive and masked. Proof: let d be masked because of p. Then p is in L, d is a
descendant of p, and no descendant of p is in L. If d were positive, d or a descendant of d would be
in L. That would be a descendant of p in L: a contradiction.

`relabel` takes boolean matrices, `relabel_sparse` SciPy's sparse matrices, and `relabel_set` the
mids of one clip. The matrices are bool[clips, classes], with the classes in the order of
`is_ancestor` bool[classes, classes], where `is_ancestor[a, c]` is True if a is a (strict) ancestor
of c.

A clip has two or three labels of hundreds of classes, so the work is done on sparse matrices. With
A for `is_ancestor`, `L @ A.T` holds the ancestors of the labels. A label that is not among them has
no descendant in L: it is general. `general @ A` is masked.

>>> import numpy as np
>>> is_ancestor = np.zeros((3, 3), bool)  # Music > Guitar > Strum
>>> is_ancestor[0, 1] = is_ancestor[0, 2] = is_ancestor[1, 2] = True
>>> labels, masked = relabel(np.array([[False, True, False]]), is_ancestor, "pe_cml")
>>> labels
array([[ True,  True, False]])
>>> masked
array([[False, False,  True]])
"""

from collections.abc import Collection

import numpy as np
from scipy import sparse

from relabel_jax.labels.ontology import Ontology

LABELINGS = ("ol", "pel", "pe_cml")


def relabel(
    labels: np.ndarray, is_ancestor: np.ndarray, labeling: str
) -> tuple[np.ndarray, np.ndarray]:
    """Applies one of `LABELINGS` to a boolean matrix.

    Args:
      labels: bool[clips, classes], the original labels.
      is_ancestor: bool[classes, classes], the strict ancestor relation.
      labeling: `ol`, `pel` or `pe_cml`.

    Returns:
      `(labels, masked)`, both bool[clips, classes].

    Raises:
      ValueError: an unknown labeling, or shapes or dtypes that do not fit.
    """
    if labeling == "ol":
        _check(labels, is_ancestor)
        return labels, np.zeros_like(labels)
    if labeling == "pel":
        return parent_expanded(labels, is_ancestor), np.zeros_like(labels)
    if labeling == "pe_cml":
        return parent_expanded(labels, is_ancestor), children_masked(labels, is_ancestor)
    raise _unknown(labeling)


def parent_expanded(labels: np.ndarray, is_ancestor: np.ndarray) -> np.ndarray:
    """bool[clips, classes]: the labels and all of their ancestors."""
    _check(labels, is_ancestor)
    return relabel_sparse(sparse.csr_array(labels), is_ancestor, "pel")[0].toarray()


def children_masked(labels: np.ndarray, is_ancestor: np.ndarray) -> np.ndarray:
    """bool[clips, classes]: the classes that are unknown, because only a parent was chosen."""
    _check(labels, is_ancestor)
    return relabel_sparse(sparse.csr_array(labels), is_ancestor, "pe_cml")[1].toarray()


def relabel_sparse(
    labels: sparse.csr_array, is_ancestor: np.ndarray, labeling: str
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Applies one of `LABELINGS` to a sparse matrix.

    >>> is_ancestor = np.array([[False, True], [False, False]])  # Water > Rain
    >>> labels, masked = relabel_sparse(
    ...     sparse.csr_array([[True, False], [False, True]]), is_ancestor, "pe_cml"
    ... )
    >>> labels.toarray()
    array([[ True, False],
           [ True,  True]])
    >>> masked.toarray()
    array([[False,  True],
           [False, False]])

    Args:
      labels: bool[clips, classes], the original labels.
      is_ancestor: bool[classes, classes], the strict ancestor relation.
      labeling: `ol`, `pel` or `pe_cml`.

    Returns:
      `(labels, masked)`, both bool[clips, classes] with each row's indices in ascending order.

    Raises:
      ValueError: an unknown labeling, or shapes or dtypes that do not fit.
    """
    _check(labels, is_ancestor)
    if labeling not in LABELINGS:
        raise _unknown(labeling)
    if labeling == "ol":
        positive, masked = labels.copy(), sparse.csr_array(labels.shape, dtype=bool)
    else:
        ancestor = sparse.csr_array(is_ancestor)
        above = labels @ ancestor.T.tocsr()
        positive = labels + above
        if labeling == "pel":
            masked = sparse.csr_array(labels.shape, dtype=bool)
        else:
            masked = (labels > above) @ ancestor
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
      labeling: `ol`, `pel` or `pe_cml`.

    Returns:
      `(labels, masked)` as sets of mids.

    Raises:
      ValueError: an unknown labeling.
      KeyError: a mid that is not in the ontology.
    """
    if labeling not in LABELINGS:
        raise _unknown(labeling)
    numbers = [ontology.index[mid] for mid in labels]
    positive, masked = set(labels), set()
    if labeling != "ol":
        above = set().union(*(ontology.ancestor_sets[label] for label in numbers))
        positive |= {ontology.mids[ancestor] for ancestor in above}
        if labeling == "pe_cml":
            for general in set(numbers) - above:
                masked |= {ontology.mids[below] for below in ontology.descendant_sets[general]}
    return positive, masked


def _unknown(labeling: str) -> ValueError:
    return ValueError(f"labeling {labeling!r} is none of {', '.join(LABELINGS)}")


def _check(labels: np.ndarray | sparse.csr_array, is_ancestor: np.ndarray) -> None:
    if labels.dtype != bool or labels.ndim != 2:
        raise ValueError(f"labels: expected bool[clips, classes], got {labels.dtype}{labels.shape}")
    if is_ancestor.dtype != bool or is_ancestor.shape != (labels.shape[1],) * 2:
        raise ValueError(
            f"is_ancestor: expected bool[{labels.shape[1]}, {labels.shape[1]}], "
            f"got {is_ancestor.dtype}{is_ancestor.shape}"
        )
