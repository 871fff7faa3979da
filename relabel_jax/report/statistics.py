"""Significance of differences over test clips: paired bootstrap and Holm's correction."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

NUM_REPLICATES = 2000
MAX_WEIGHTS = 2**25
"""The number of float32 weights in memory at once: 128 MiB."""


def replicates_for(num_comparisons: int) -> int:
    """Returns how many replicates a family of comparisons needs.

    The smallest p is 2 / (replicates + 1), and Holm's correction multiplies it by the number of
    comparisons. With 50 replicates for each comparison the product can go below 0.05.
    """
    return max(NUM_REPLICATES, 50 * num_comparisons)


class Comparison(NamedTuple):
    """A difference between two means over the same test clips.

    Attributes:
      difference: as measured.
      low, high: its 95% percentile interval over the replicates.
      p: two-sided p-value of the hypothesis that there is no difference.
    """

    difference: float
    low: float
    high: float
    p: float


def resampled(
    num_clips: int, num_replicates: int, seed: int, max_weights: int = MAX_WEIGHTS
) -> Iterator[np.ndarray]:
    """Draws bootstrap replicates, each of `num_clips` clips with replacement.

    The same arguments give the same draws, so comparisons over the same clips are paired.

    Args:
      num_clips: clips of the test set.
      num_replicates: how often the clips are drawn.
      seed: seed of the draws.
      max_weights: the size of the blocks. The draws depend on it.

    Yields:
      Blocks float32[clips, replicates]: how often each clip is drawn in each replicate.
    """
    generator = np.random.default_rng(seed)
    block = max(1, max_weights // num_clips)
    for start in range(0, num_replicates, block):
        size = min(block, num_replicates - start)
        draws = generator.integers(num_clips, size=(size, num_clips))
        flat = (draws * size + np.arange(size)[:, None]).ravel()
        counts = np.bincount(flat, minlength=num_clips * size)
        yield counts.reshape(num_clips, size).astype(np.float32)


def weighted_average_precision(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Returns the average precision of one class under many weightings of the clips.

    The clips are sorted once. The result equals scikit-learn's
    `average_precision_score(labels, scores, sample_weight=weights[:, r])`, ties included.

    Args:
      scores: float[clips].
      labels: bool[clips].
      weights: float32[clips, replicates], not negative; exact for whole numbers.

    Returns:
      float64[replicates]; NaN where the weights of all positives are 0.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, positive = scores[order], labels[order]
    ends_tie = np.append(ranked[1:] != ranked[:-1], True)
    tie = np.cumsum(np.append(False, ends_tie[:-1]))
    has_positive = np.bincount(tie, positive, minlength=tie[-1] + 1) > 0
    # The sum needs the precision only at the ends of ties with a positive.
    ends = np.flatnonzero(ends_tie)[has_positive]
    if not len(ends):
        return np.full(weights.shape[1], np.nan)
    segment = np.searchsorted(ends, np.arange(ends[-1] + 1))

    def sums(clips: np.ndarray, segments: np.ndarray) -> np.ndarray:
        ones = np.ones(len(clips), np.float32)
        shape = (len(ends), len(weights))
        return (sparse.csr_array((ones, (segments, clips)), shape=shape) @ weights).astype(float)

    all_weights = np.cumsum(sums(order[: len(segment)], segment), axis=0)
    is_positive = np.flatnonzero(positive)
    gained = sums(order[is_positive], segment[is_positive])
    positives = np.cumsum(gained, axis=0)
    precision = np.divide(positives, all_weights, out=np.zeros_like(positives), where=gained > 0)
    total = positives[-1]
    return np.divide(
        (gained * precision).sum(axis=0), total, out=np.full_like(total, np.nan), where=total > 0
    )


def bootstrap_map(
    scores: np.ndarray,
    labels: np.ndarray,
    masked: np.ndarray,
    *,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
    max_weights: int = MAX_WEIGHTS,
) -> np.ndarray:
    """Returns mAP over resampled clips: the mean over the classes with an unmasked positive there.

    Args:
      scores: float32[clips, classes].
      labels, masked: bool[clips, classes].
      num_replicates, seed, max_weights: see `resampled`.

    Returns:
      float64[replicates]; NaN where no class has a positive.
    """
    parts = []
    for weights in resampled(len(scores), num_replicates, seed, max_weights):
        total = np.zeros(weights.shape[1])
        defined = np.zeros(weights.shape[1])
        for column in range(scores.shape[1]):
            known = ~masked[:, column]
            if not labels[known, column].any():
                continue
            of_class = weights if known.all() else weights[known]
            values = weighted_average_precision(
                scores[known, column], labels[known, column], of_class
            )
            is_defined = ~np.isnan(values)
            total[is_defined] += values[is_defined]
            defined += is_defined
        parts.append(np.divide(total, defined, out=np.full_like(total, np.nan), where=defined > 0))
    return np.concatenate(parts)


def compare(difference: float, replicates: np.ndarray) -> Comparison:
    """Compares a measured difference with its bootstrap replicates.

    p is twice the smaller share of the replicates on either side of zero. A share is
    (count + 1) / (all + 1), so p is never 0 (Davison and Hinkley, Bootstrap Methods and their
    Application, 1997, 4.2).

    Args:
      difference: as measured.
      replicates: float64[replicates]; NaN where the difference is undefined.
    """
    replicates = replicates[~np.isnan(replicates)]
    if not len(replicates):
        return Comparison(difference, np.nan, np.nan, np.nan)
    low, high = np.quantile(replicates, (0.025, 0.975))
    fewer = min((replicates <= 0).sum(), (replicates >= 0).sum())
    return Comparison(
        difference, float(low), float(high), min(1.0, 2 * (int(fewer) + 1) / (len(replicates) + 1))
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), which bounds the chance of any false finding."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(
        np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    )
    return np.minimum(corrected, 1).tolist()
