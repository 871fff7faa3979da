"""Hierarchical precision, recall and F1 (Kiritchenko; Silla and Freitas; Kosmopoulos et al.)."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from relabel_jax.labels.ontology import Ontology


class HierarchicalF1(NamedTuple):
    """The hierarchical F1 at the threshold where it is largest; NaN without a true class.

    Attributes:
      f1: the harmonic mean of precision and recall.
      precision, recall: of the pairs of a clip and a class.
      threshold: scores of at least this value count as predictions. It was chosen on the same
        clips, which is slightly optimistic.
    """

    f1: float
    precision: float
    recall: float
    threshold: float


def hierarchical_f1(
    scores: np.ndarray,
    positive: sparse.csr_array,
    masked: sparse.csr_array,
    ontology: Ontology,
    columns: np.ndarray,
) -> HierarchicalF1:
    """Computes the micro-averaged hierarchical F1 at the best single threshold.

    For the clip i, T_i is the set of its positive classes and of all their ancestors, and P_i(t) is
    the set of the classes with a score of at least t and of all their ancestors. Both are then
    restricted to the classes that have scores and are not masked in this clip. With sums over the
    clips::

        precision(t) = sum |P_i(t) & T_i| / sum |P_i(t)|
        recall(t)    = sum |P_i(t) & T_i| / sum |T_i|
        F1(t)        = 2 precision(t) recall(t) / (precision(t) + recall(t))

    This is the measure of C. N. Silla and A. A. Freitas, A survey of hierarchical classification
    across different application domains, 2011, section 5.2, which A. Kosmopoulos et al., Evaluation
    measures for hierarchical classification, 2015, extend to several labels. The threshold t is one
    number for all classes: the one that maximizes F1(t), the highest if there are several.

    The score of a masked class is ignored, so it does not predict ancestors either. Labelings with
    the same ancestor closure and without masks, such as OL and PEL, have the same F1.

    Args:
      scores: float[clips, scored classes], finite.
      positive, masked: bool[clips, classes], over all classes of the ontology.
      ontology: the ontology.
      columns: int[scored classes], the class number of each column of the scores.
    """
    closed_labels = positive + positive @ sparse.csr_array(ontology.is_ancestor).T.tocsr()
    is_masked = np.ascontiguousarray(masked[:, columns].toarray().T)
    is_true = closed_labels[:, columns].toarray().T & ~is_masked

    # A class is in P_i(t) if its own score or that of a descendant is at least t.
    own = np.where(is_masked, -np.inf, scores.T).astype(scores.dtype, copy=False)
    closed = own.copy()
    above, below = np.nonzero(ontology.is_ancestor[np.ix_(columns, columns)])
    for ancestor, descendant in zip(above.tolist(), below.tolist(), strict=True):
        np.maximum(closed[ancestor], own[descendant], out=closed[ancestor])
    del own
    closed[is_masked] = -np.inf

    true = np.sort(closed[is_true])
    if not len(true):
        return HierarchicalF1(np.nan, np.nan, np.nan, np.nan)
    predicted = closed.reshape(-1)
    predicted.sort()
    # Between two scores of true classes a higher threshold only drops false predictions.
    thresholds = np.unique(true)
    num_correct = len(true) - np.searchsorted(true, thresholds)
    num_predicted = len(predicted) - np.searchsorted(predicted, thresholds)
    f1 = 2 * num_correct / (num_predicted + len(true))
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return HierarchicalF1(
        f1=float(f1[best]),
        precision=float(num_correct[best] / num_predicted[best]),
        recall=float(num_correct[best] / len(true)),
        threshold=float(thresholds[best]),
    )
