"""The bootstrap against scikit-learn, clip by clip; its coverage; Holm's correction by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from relabel_jax.metrics import evaluate
from relabel_jax.report.statistics import (
    bootstrap_map,
    compare,
    holm,
    resampled,
    weighted_average_precision,
)


def random_class(seed, num_clips, num_levels, share):
    generator = np.random.default_rng(seed)
    scores = (generator.integers(num_levels, size=num_clips) / num_levels).astype(np.float32)
    return scores, generator.random(num_clips) < share, generator


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    num_clips=st.integers(1, 40),
    num_levels=st.sampled_from([1, 3, 1000]),
    share=st.sampled_from([0.05, 0.5, 1.0]),
)
def test_against_scikit_learn(seed, num_clips, num_levels, share):
    """Ties, few and many positives, clips that are not drawn at all."""
    scores, labels, generator = random_class(seed, num_clips, num_levels, share)
    weights = generator.integers(3, size=(num_clips, 5)).astype(np.float32)
    values = weighted_average_precision(scores, labels, weights)
    for weight, value in zip(weights.T, values, strict=True):
        if not (weight * labels).any():
            assert np.isnan(value)
            continue
        expected = average_precision_score(labels, scores, sample_weight=weight)
        assert value == pytest.approx(expected, abs=1e-12)


def test_the_draws():
    weights = np.concatenate(list(resampled(50, 400, 0)), axis=1)
    assert weights.shape == (50, 400)
    assert (weights.sum(axis=0) == 50).all()
    assert (weights == np.concatenate(list(resampled(50, 400, 0)), axis=1)).all()
    # A clip is drawn k times by the binomial law; of 0 draws (1 - 1/50)^50.
    assert (weights == 0).mean() == pytest.approx(0.98**50, abs=0.01)


def test_bootstrap_map_by_repeating_rows():
    """A replicate is what the metric says of the data set with its rows repeated as drawn."""
    max_weights = 30 * 7  # several blocks
    generator = np.random.default_rng(3)
    scores = generator.random((30, 4)).astype(np.float32)
    labels = generator.random((30, 4)) < [0.04, 0.2, 0.5, 0]
    masked = (generator.random((30, 4)) < 0.3) & ~labels
    draws = {"num_replicates": 20, "seed": 5, "max_weights": max_weights}
    values = bootstrap_map(scores, labels, masked, **draws)
    weights = np.concatenate(list(resampled(30, **draws)), axis=1)
    for weight, value in zip(weights.T, values, strict=True):
        rows = np.repeat(np.arange(30), weight.astype(int))
        expected = evaluate(scores[rows], labels[rows], masked[rows]).mean_average_precision
        assert value == pytest.approx(expected, abs=1e-12)


def test_the_interval_covers():
    """Of 200 pairs of equally good networks the interval leaves out zero in about 5%."""
    generator = np.random.default_rng(0)
    outside = 0
    for seed in range(200):
        labels = generator.random((120, 1)) < 0.4
        masked = np.zeros_like(labels)
        noisy = [
            (0.3 * labels + 0.7 * generator.random(labels.shape)).astype(np.float32)
            for _ in range(2)
        ]
        draws = {"num_replicates": 300, "seed": seed}
        replicates = np.subtract(*(bootstrap_map(s, labels, masked, **draws) for s in noisy))
        means = [evaluate(s, labels, masked).mean_average_precision for s in noisy]
        found = compare(means[0] - means[1], replicates)
        assert found.low <= found.high
        is_outside = not found.low <= 0 <= found.high
        outside += is_outside
        assert is_outside == (found.p <= 0.05) or found.p == pytest.approx(0.05, abs=0.02)
    assert 2 <= outside <= 22  # binomial(200, 0.05): 10 +- 3.1


def test_p_by_hand():
    found = compare(1.0, np.array([1.0] * 97 + [-1.0] * 2 + [np.nan]))
    assert found.p == 2 * 3 / 100
    assert compare(0.0, np.zeros(10)).p == 1
    assert np.isnan(compare(0.0, np.full(3, np.nan)).p)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, then never falling.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.9, 0.6]) == [1, 1, 1]
    assert holm([]) == []
