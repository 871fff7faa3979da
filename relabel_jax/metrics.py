"""Average precision, ROC AUC and d-prime, as defined in AudioSet's literature.

Scores are float32 in [0, 1]. Their bit patterns have the same order as the numbers and are below
2^30, so a score and a label fit into one 32-bit key. One sort of the keys of a class, without
argsort and gather, gives the order from which all metrics follow exactly, also with ties.
"""

import math
import statistics
from typing import NamedTuple

import numpy as np

_LEFT_OUT = np.uint32(0xFFFFFFFF)  # larger than every key


class Evaluation(NamedTuple):
    """Metrics of one set of clips.

    Attributes:
      average_precision: float64[classes]; NaN for a class without an unmasked positive.
      roc_auc: float64[classes]; NaN for a class without an unmasked positive and negative.
      mean_average_precision: mean over the classes with an average precision; NaN if there are
        none.
      mean_auc: mean over the classes with a ROC AUC; NaN if there are none.
      d_prime: sqrt(2) times the standard normal quantile of `mean_auc` (AudioSet's definition);
        infinite if `mean_auc` is 1.
    """

    average_precision: np.ndarray
    roc_auc: np.ndarray
    mean_average_precision: float
    mean_auc: float
    d_prime: float

    def means(self) -> dict[str, float | None]:
        """The three means under their names in files; None where a mean is undefined."""
        return {
            "mAP": none_if_undefined(self.mean_average_precision),
            "mean_auc": none_if_undefined(self.mean_auc),
            "d_prime": none_if_undefined(self.d_prime),
        }


def none_if_undefined(value: float) -> float | None:
    """Returns the value, or None for NaN and infinity, which JSON cannot represent."""
    return float(value) if math.isfinite(value) else None


def evaluate(scores: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> Evaluation:
    """Computes all metrics. Each class is evaluated over the clips in which it is not masked.

    Average precision is defined as in scikit-learn: the sum over distinct scores, from the highest
    down, of (gain of recall) x (precision at this score).

    Args:
      scores: float32[clips, classes] in [0, 1].
      labels: bool[clips, classes].
      masked: bool[clips, classes]; True leaves the class out for the clip.

    Raises:
      ValueError: shapes or dtypes do not fit, or scores are outside [0, 1].
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
        # For each positive, counts the clips and the positives with a higher score, and those with
        # a score at least as high. Only positives are searched for: most classes have few of them.
        clips_above, clips = _above_and_with(key, positive)
        positives_above, positives = _above_and_with(positive, positive)
        average_precision[row] = np.mean(positives / clips)
        if num_negatives:
            # Counts pairs in the wrong order. A tie counts one half.
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


def in_unit_interval(scores: np.ndarray) -> np.ndarray:
    """Returns scores in the form that `evaluate` takes, with the same metrics.

    The metrics depend only on the order of the scores of a class. Scores that are not exact in
    float32, or not in [0, 1], such as logits, are replaced by their ranks within their class.

    Args:
      scores: float[clips, classes], finite; at most 2^24 clips.

    Returns:
      float32[clips, classes] in [0, 1]. In each class, the same scores are equal, and the order is
      the same.

    Raises:
      ValueError: too many clips.
    """
    with np.errstate(over="ignore"):
        single = scores.astype(np.float32, copy=False)
    if ((single == scores) & (single >= 0) & (single <= 1)).all():
        return single
    if len(scores) > 2**24:
        raise ValueError(f"expected at most 2^24 clips, got {len(scores)}")
    ranks = np.empty(scores.shape, np.float32)
    for column, values in enumerate(scores.T):
        ranks[:, column] = np.unique(values, return_inverse=True)[1]
    return ranks / np.float32(2**24)


def d_prime(auc: float) -> float:
    """Returns sqrt(2) times the standard normal quantile of a ROC AUC in [0, 1]."""
    if math.isnan(auc):
        return math.nan
    if auc in (0.0, 1.0):
        return math.copysign(math.inf, auc - 0.5)
    return math.sqrt(2) * statistics.NormalDist().inv_cdf(auc)


def _above_and_with(keys: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the sorted `keys` that score higher than each of `of`, and at least as high."""
    return np.searchsorted(keys, of & ~np.uint32(1)), np.searchsorted(keys, of | 1, side="right")


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
