"""Average precision, ROC AUC and d-prime as AudioSet's literature has them.

Scores are float32 in [0, 1]; their bit patterns are then ordered like the numbers and below 2^30.
So score and label fit one 32-bit key, and one plain sort per class (no argsort, no gather) brings
the clips into the order from which every metric follows, exactly, ties included.
"""

import math
import statistics
from typing import NamedTuple

import numpy as np

_LEFT_OUT = np.uint32(0xFFFFFFFF)  # sorts behind every key


class Evaluation(NamedTuple):
    """Metrics of one set of clips.

    Attributes:
      average_precision: float64[classes]; NaN for a class without an unmasked positive.
      roc_auc: float64[classes]; NaN for a class without an unmasked positive and negative.
      mean_average_precision: mean over the classes that have one; NaN if none has.
      mean_auc: the same of `roc_auc`.
      d_prime: sqrt(2) times the standard normal quantile of `mean_auc` (AudioSet's definition);
        infinite where that is 1.
    """

    average_precision: np.ndarray
    roc_auc: np.ndarray
    mean_average_precision: float
    mean_auc: float
    d_prime: float


def evaluate(scores: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> Evaluation:
    """All metrics, each class over the clips in which it is not masked.

    Average precision is scikit-learn's: the sum over distinct scores, from the highest, of
    (recall gained) x (precision there).

    Args:
      scores: float32[clips, classes] in [0, 1].
      labels: bool[clips, classes].
      masked: bool[clips, classes], True is left out.

    Raises:
      ValueError: shapes or dtypes that do not fit, or scores outside [0, 1].
    """
    if not scores.shape == labels.shape == masked.shape or scores.ndim != 2:
        raise ValueError(
            "scores, labels, masked: expected one shape [clips, classes], got "
            f"{scores.shape}, {labels.shape}, {masked.shape}"
        )
    if scores.dtype != np.float32 or labels.dtype != bool or masked.dtype != bool:
        raise ValueError(
            f"expected float32, bool, bool, got {scores.dtype}, {labels.dtype}, {masked.dtype}"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores: expected numbers in [0, 1], without NaN")

    # Descending scores become ascending keys; + 0.0 turns -0.0 into 0.0.
    keys = (np.float32(1).view(np.uint32) - (scores + np.float32(0)).view(np.uint32)) << 1
    keys = np.ascontiguousarray(np.where(masked, _LEFT_OUT, keys | labels).T)
    keys.sort(axis=1)

    average_precision = np.full(len(keys), np.nan)
    roc_auc = np.full(len(keys), np.nan)
    for row, key in enumerate(keys):
        key = key[: np.searchsorted(key, _LEFT_OUT)]
        positive = key[np.flatnonzero(key & 1)]
        num_positives, num_negatives = len(positive), len(key) - len(positive)
        if num_positives == 0:
            continue
        # Of clips and of positives, how many score above each positive, and how many as high too.
        # Only where they are is searched: most classes have few of them.
        clips_above, clips = _above_and_with(key, positive)
        positives_above, positives = _above_and_with(positive, positive)
        average_precision[row] = np.mean(positives / clips)
        if num_negatives:
            # Pairs in the wrong order; a tie counts one half.
            wrong = (clips_above - positives_above + clips - positives) / 2
            roc_auc[row] = 1 - np.mean(wrong) / num_negatives

    mean_auc = _mean(roc_auc)
    return Evaluation(
        average_precision=average_precision,
        roc_auc=roc_auc,
        mean_average_precision=_mean(average_precision),
        mean_auc=mean_auc,
        d_prime=d_prime(mean_auc),
    )


def d_prime(auc: float) -> float:
    """sqrt(2) times the standard normal quantile of a ROC AUC in [0, 1]."""
    if math.isnan(auc):
        return math.nan
    if auc in (0.0, 1.0):
        return math.copysign(math.inf, auc - 0.5)
    return math.sqrt(2) * statistics.NormalDist().inv_cdf(auc)


def _above_and_with(keys: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of sorted `keys` whose score is above each of `of`; the same with its equals."""
    return np.searchsorted(keys, of & ~np.uint32(1)), np.searchsorted(keys, of | 1, side="right")


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
