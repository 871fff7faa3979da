"""Average precision, ROC AUC and d-prime against scikit-learn and SciPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from relabel_jax.metrics import d_prime, evaluate


def by_scikit_learn(scores, labels, masked):
    """(average precision, ROC AUC) by class, NaN where there is none."""
    average_precision, roc_auc = np.full((2, scores.shape[1]), np.nan)
    for number in range(scores.shape[1]):
        kept = ~masked[:, number]
        truth, score = labels[kept, number], scores[kept, number].astype(np.float64)
        if truth.any():
            average_precision[number] = average_precision_score(truth, score)
            if not truth.all():
                roc_auc[number] = roc_auc_score(truth, score)
    return average_precision, roc_auc


def mean_of_defined(values):
    values = [value for value in values if not np.isnan(value)]
    return sum(values) / len(values) if values else math.nan


def check(scores, labels, masked):
    got = evaluate(scores, labels, masked)
    average_precision, roc_auc = by_scikit_learn(scores, labels, masked)
    np.testing.assert_allclose(got.average_precision, average_precision, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.roc_auc, roc_auc, rtol=0, atol=1e-6)
    means = [mean_of_defined(values) for values in (average_precision, roc_auc)]
    assert [got.mean_average_precision, got.mean_auc] == pytest.approx(means, nan_ok=True)
    if math.isnan(means[1]):
        assert math.isnan(got.d_prime)
    else:
        assert got.d_prime == pytest.approx(math.sqrt(2) * stats.norm.ppf(means[1]), abs=1e-6)
    return got


# Equal, nearly equal, subnormal and extreme scores are likely.
SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1e-45, 1e-38, 0.25, 0.5, np.nextafter(np.float32(1), 0), 1.0]),
    st.floats(0, 1, width=32),
)


@settings(max_examples=200)
@given(st.data())
def test_few_clips_with_ties(data):
    num_clips = data.draw(st.integers(1, 12))

    def column(elements):
        return data.draw(st.lists(elements, min_size=num_clips, max_size=num_clips))

    scores = np.array([column(SCORES)], np.float32).T
    labels, masked = (np.array([column(st.booleans())]).T for _ in range(2))
    check(scores, labels, masked)


@pytest.mark.parametrize("levels", [2, 10, 2**20])
@pytest.mark.parametrize("positives", [0.002, 0.1, 0.9])
def test_random_scores_with_ties_masks_and_empty_classes(levels, positives):
    rng = np.random.default_rng([levels, round(1000 * positives)])
    shape = (700, 40)
    labels = rng.random(shape) < positives
    # Positives score higher, so that the metrics are better than chance.
    scores = np.round((rng.random(shape) + 0.3 * labels) / 1.3 * levels) / levels
    masked = rng.random(shape) < rng.choice([0, 0.2, 0.8], shape[1])
    labels[:, 0] = False
    masked[:, 1] = True
    labels[:, 2] = True
    masked[:, 3] = labels[:, 3]
    got = check(scores.astype(np.float32), labels, masked)
    assert np.isnan(got.average_precision[[0, 1, 3]]).all()
    assert got.average_precision[2] == 1
    assert np.isnan(got.roc_auc[:4]).all()


def test_labels_and_scores_where_masked_change_nothing():
    rng = np.random.default_rng(0)
    scores = rng.random((50, 6)).astype(np.float32)
    labels, masked = (rng.random((50, 6)) < p for p in (0.3, 0.4))
    before = evaluate(scores, labels, masked)
    after = evaluate(np.where(masked, 1 - scores, scores), labels ^ masked, masked)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("num_clips", [0, 3])
def test_nothing_to_score(num_clips):
    shape = (num_clips, 2)
    got = evaluate(np.full(shape, 0.5, np.float32), np.ones(shape, bool), np.ones(shape, bool))
    assert all(np.isnan(value).all() for value in got)
    assert got.average_precision.shape == got.roc_auc.shape == (2,)


@pytest.mark.parametrize("auc", [1e-12, 0.01, 0.3, 0.5, 0.7, 0.97, 1 - 1e-12])
def test_d_prime(auc):
    assert d_prime(auc) == pytest.approx(math.sqrt(2) * stats.norm.ppf(auc), rel=1e-9, abs=1e-12)


def test_d_prime_at_the_ends():
    assert (d_prime(0.0), d_prime(1.0)) == (-math.inf, math.inf)
    assert math.isnan(d_prime(math.nan))


@pytest.mark.parametrize(
    ("scores", "labels", "masked", "message"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 2), bool), np.zeros((2, 3), bool), "one shape"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), bool), np.zeros((3, 2), bool), "one shape"),
        (np.zeros(3, np.float32), np.zeros(3, bool), np.zeros(3, bool), "one shape"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), np.zeros((2, 3), bool), "got float64, bool"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3)), np.zeros((2, 3), bool), "float64, bool"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), bool), np.zeros((2, 3)), "bool, float64"),
    ],
)
def test_what_does_not_fit_is_refused(scores, labels, masked, message):
    with pytest.raises(ValueError, match=message):
        evaluate(scores, labels, masked)


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.001, np.nextafter(np.float32(1), 2)])
def test_scores_outside_0_to_1_are_refused(score):
    scores = np.full((2, 3), 0.5, np.float32)
    scores[1, 2] = score
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        evaluate(scores, np.zeros((2, 3), bool), np.zeros((2, 3), bool))
