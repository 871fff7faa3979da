"""The shares of a judgement, with intervals by a bootstrap over the clips."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from data_prep.judge_counts import KINDS, Clips, Entries
from relabel_jax.report.statistics import resampled

LEVEL = 0.95
SHARES = ("recall", "precision", *KINDS[1:], "unmasked_negatives")
_MAX_WEIGHTS = 1 << 22  # the draws depend on it

_OfReference = tuple[sparse.csr_array, sparse.csr_array]


def shares(
    clips: Clips,
    counts: Mapping[str, Mapping[str, Entries]],
    of_reference: _OfReference,
    num_replicates: int,
    seed: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Computes the shares of each labeling.

    - `recall`: of the true entries, those that are labels. A masked entry is not a label.
    - `precision`: of the labels, those that are true.
    - `entailed`, `not_entailed`, `elsewhere`: of the labels added to the raters', those that are
      true, by `KINDS`.
    - `masked`: of the masked entries, those that are true.
    - `unmasked_negatives`: of the entries that are neither labels nor masked, those that are true.
      It is a mean over the classes, weighted by their masked entries, so that it compares with
      `masked`. Classes without masked entries or without such negatives are left out.

    Args:
      clips: the clips.
      counts: by labeling, the result of `count_entries`.
      of_reference: the result of `count_reference`.
      num_replicates: how often the clips, or bags of them, are drawn with replacement.
      seed: seed of the draws. All labelings see the same draws.

    Returns:
      By labeling and share: `count` and `of` (not for `unmasked_negatives`), `share`, and `low` and
      `high`, the 95% percentile interval. They are None where there is nothing to divide by.
    """
    totals = {
        name: {
            share: [int(vector.sum()) for vector in vectors]
            for share, vectors in _parts(kinds, of_reference).items()
        }
        for name, kinds in counts.items()
    }
    ratios = _Ratios(clips, counts, of_reference)
    measured = ratios(np.ones((clips.num_bags, 1), np.float32))
    drawn = [
        ratios(weights) for weights in resampled(clips.num_bags, num_replicates, seed, _MAX_WEIGHTS)
    ]
    result: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in counts}
    for i, (name, share) in enumerate(ratios.names):
        value = measured[i, 0]
        low, high = _interval(np.concatenate([block[i] for block in drawn]))
        row = {"share": None if np.isnan(value) else float(value), "low": low, "high": high}
        if share in totals[name]:
            count, of = totals[name][share]
            row = {"count": count, "of": of, **row}
        result[name][share] = row
    return result


def _parts(
    kinds: Mapping[str, Entries], of_reference: _OfReference
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By share that is a ratio of two sums: both terms, float64[bags]."""
    terms = {kind: (_rows(entries.true), _rows(entries.decided)) for kind, entries in kinds.items()}
    true_labels, labels = terms.pop("positive")
    return {
        "recall": (true_labels, _rows(of_reference[0])),
        "precision": (true_labels, labels),
        **terms,
    }


class _Ratios:
    """Computes all shares from weights of the bags.

    Attributes:
      names: the labeling and the share of each row of the result.
    """

    def __init__(
        self,
        clips: Clips,
        counts: Mapping[str, Mapping[str, Entries]],
        of_reference: _OfReference,
    ):
        self.names: list[tuple[str, str]] = []
        parts, wholes = [], []
        for name, kinds in counts.items():
            for share, (part, whole) in _parts(kinds, of_reference).items():
                self.names.append((name, share))
                parts.append(part)
                wholes.append(whole)
        self.parts, self.wholes = np.stack(parts), np.stack(wholes)
        self.names += [(name, "unmasked_negatives") for name in counts]
        self.matched = [_Matched(clips, kinds, of_reference) for kinds in counts.values()]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float64[shares, replicates], from float32[bags, replicates]; NaN for 0 of 0."""
        ratios = _divide(self.parts @ weights, self.wholes @ weights)
        return np.concatenate([ratios, *(matched(weights)[None] for matched in self.matched)])


class _Matched:
    """Computes the share `unmasked_negatives` of one labeling from weights of the bags."""

    def __init__(self, clips: Clips, kinds: Mapping[str, Entries], of_reference: _OfReference):
        positive, masked = kinds["positive"], kinds["masked"]
        true, other = of_reference
        columns = np.flatnonzero(masked.decided.sum(axis=0))
        # The negatives of a class are `sizes` and `others` less `masked`, each float32[., bags].
        self.masked = _transposed(masked.decided, columns)
        self.missed = _transposed(true - positive.true - masked.true, columns)
        self.sizes = np.zeros(clips.num_bags)
        if clips.reference.negative_sets is None:
            self.sizes = np.bincount(clips.bags, minlength=clips.num_bags).astype(np.float64)
            other = -other
        self.others = _transposed(other - positive.decided, columns)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """float64[replicates], from float32[bags, replicates]; NaN if nothing is masked."""
        masked = (self.masked @ weights).astype(np.float64)
        missed = (self.missed @ weights).astype(np.float64)
        negatives = (self.sizes @ weights)[None] + self.others @ weights - masked
        exists = negatives > 0
        rate = np.divide(missed, negatives, out=np.zeros_like(missed), where=exists)
        return _divide((masked * rate).sum(axis=0), (masked * exists).sum(axis=0))


def _transposed(matrix: sparse.csr_array, columns: np.ndarray) -> sparse.csr_array:
    return matrix[:, columns].T.tocsr()


def _rows(matrix: sparse.csr_array) -> np.ndarray:
    """float64[bags]: the sum over the classes."""
    return matrix.sum(axis=1, dtype=np.float64)


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _interval(replicates: np.ndarray) -> tuple[float | None, float | None]:
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)
