"""Losses against sums written out in Python, and what masked outputs do to them: nothing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from relabel_jax.models.backbone import Outputs
from relabel_jax.train.losses import LOSSES
from relabel_jax.train.optimizers import OPTIMIZERS

KINDS = ("mse", "bce", "bce without logits")


def loss_of(kind, logits, labels, masked):
    """The loss of logits under one of `KINDS`."""
    outputs = Outputs.of_logits(jnp.asarray(logits))
    if kind == "bce without logits":
        outputs = Outputs(outputs.scores)
    return LOSSES[kind.partition(" ")[0]](outputs, jnp.asarray(labels), jnp.asarray(masked), None)


def expected_of(kind, logit, label):
    """The same of one output, in float64."""
    score = 1 / (1 + math.exp(-logit))
    if kind == "mse":
        return (score - label) ** 2
    return log_loss([label], [score], labels=[0, 1])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), share_masked=st.sampled_from([0.0, 0.3, 1.0]))
def test_loss_is_the_mean_over_what_is_not_masked(kind, seed, share_masked):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (4, 3)).astype(np.float32)
    labels, masked = rng.random((4, 3)) < 0.5, rng.random((4, 3)) < share_masked
    known = [
        expected_of(kind, float(logits[i, c]), int(labels[i, c]))
        for i in range(4)
        for c in range(3)
        if not masked[i, c]
    ]
    loss = loss_of(kind, logits, labels, masked)
    assert loss.shape == ()
    assert loss.dtype == np.float32
    # A float32 score near 1 has lost the digits of 1 - score, which the logit still has.
    tolerance = 3e-3 if kind == "bce without logits" else 1e-5
    assert float(loss) == pytest.approx(sum(known) / len(known) if known else 0, rel=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.3, 200.0, -200.0, math.inf, math.nan])
def test_a_masked_output_has_no_part_in_loss_and_gradient(kind, value):
    logits = np.full((2, 3), 0.3, np.float32)
    masked = np.zeros((2, 3), bool)
    masked[1, 2] = True
    labels = np.array([[True, False, True], [False, True, True]])
    value_and_grad = jax.value_and_grad(lambda logits: loss_of(kind, logits, labels, masked))
    expected, expected_gradient = value_and_grad(logits)
    if kind == "bce" or math.isfinite(value):
        logits[1, 2] = value
    got, gradient = value_and_grad(logits)
    assert float(got) == float(expected)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert gradient[1, 2] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_zero_where_everything_is_masked(kind):
    masked = np.ones((4, 3), bool)
    value, gradient = jax.value_and_grad(lambda logits: loss_of(kind, logits, masked, masked))(
        jnp.full((4, 3), 0.3)
    )
    assert float(value) == 0
    assert (np.asarray(gradient) == 0).all()


def test_cross_entropy_of_saturated_scores_is_finite():
    for labels in (np.ones((1, 2), bool), np.zeros((1, 2), bool)):
        scores = jnp.array([[0.0, 1.0]])
        loss = LOSSES["bce"](Outputs(scores), labels, np.zeros((1, 2), bool), None)
        assert np.isfinite(loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_downhill(name):
    optimizer = OPTIMIZERS[name](lambda step: 0.01)
    params = jnp.array([3.0, -2.0])
    state = optimizer.init(params)
    for _ in range(50):
        updates, state = optimizer.update(2 * params, state, params)
        params = params + updates
    assert float((params**2).sum()) < 13
