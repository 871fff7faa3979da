"""The paper's three labelings as pure functions on boolean arrays.

For one clip with the raters' labels L (paper, section III; design.md, section 1):

- `ol` (original labels): L; nothing is masked.
- `pel` (parent-expanded labels): L and every ancestor of a label in L; nothing is masked.
- `pe_cml` (parent-expanded, children-masked labels): the labels of `pel`; and for every *original*
  label p in L none of whose descendants is in L, all descendants of p are masked.

`masked` is True where the truth is unknown: left out of the loss, its gradient and the metric.

No label is both positive and masked. Let d be masked because of p: p is in L, d is a descendant of
p, and no descendant of p is in L. Were d positive, then d or a descendant of d would be in L, and
that is a descendant of p: a contradiction.

All functions take `labels` bool[clips, classes] and `is_ancestor` bool[classes, classes] (strict,
`is_ancestor[a, c]`: a is an ancestor of c), over the same classes in the same order. They work on
columns packed eight clips to a byte: cost is (pairs of ancestor and descendant) x clips / 8 byte
operations, and no step loops over clips.
"""

import numpy as np

LABELINGS = ("ol", "pel", "pe_cml")


def relabel(
    labels: np.ndarray, is_ancestor: np.ndarray, labeling: str
) -> tuple[np.ndarray, np.ndarray]:
    """Applies one of `LABELINGS`.

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
    raise ValueError(f"labeling {labeling!r} is none of {', '.join(LABELINGS)}")


def parent_expanded(labels: np.ndarray, is_ancestor: np.ndarray) -> np.ndarray:
    """The labels and all of their ancestors: bool[clips, classes]."""
    _check(labels, is_ancestor)
    columns = _pack(labels)
    expanded = columns.copy()
    for ancestor, descendant in np.argwhere(is_ancestor):
        expanded[ancestor] |= columns[descendant]
    return _unpack(expanded, labels.shape)


def children_masked(labels: np.ndarray, is_ancestor: np.ndarray) -> np.ndarray:
    """What is unknown because only something more general was chosen: bool[clips, classes]."""
    _check(labels, is_ancestor)
    columns = _pack(labels)
    masked = np.zeros_like(columns)
    for general in np.flatnonzero(is_ancestor.any(axis=1)):
        descendants = np.flatnonzero(is_ancestor[general])
        chosen_below = np.bitwise_or.reduce(columns[descendants], axis=0)
        masked[descendants] |= columns[general] & ~chosen_below
    return _unpack(masked, labels.shape)


def _check(labels: np.ndarray, is_ancestor: np.ndarray) -> None:
    if labels.dtype != bool or labels.ndim != 2:
        raise ValueError(f"labels: expected bool[clips, classes], got {labels.dtype}{labels.shape}")
    if is_ancestor.dtype != bool or is_ancestor.shape != (labels.shape[1],) * 2:
        raise ValueError(
            f"is_ancestor: expected bool[{labels.shape[1]}, {labels.shape[1]}], "
            f"got {is_ancestor.dtype}{is_ancestor.shape}"
        )


def _pack(labels: np.ndarray) -> np.ndarray:
    """bool[clips, classes] -> uint8[classes, ceil(clips / 8)]."""
    return np.packbits(np.ascontiguousarray(labels.T), axis=1)


def _unpack(columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.ascontiguousarray(np.unpackbits(columns, axis=1, count=shape[0]).view(bool).T)
