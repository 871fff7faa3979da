"""The losses that the study compares re-labelling with, against their formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relabel_jax.models.backbone import Outputs
from relabel_jax.train.losses import LARGE_LOSS_SHARE, LOSSES, SMOOTHING

CLIPS, CLASSES = 8, 40


def drawn(seed, share_masked):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (CLIPS, CLASSES)).astype(np.float32)
    labels = rng.random((CLIPS, CLASSES)) < 0.1
    return logits, labels, (rng.random((CLIPS, CLASSES)) < share_masked) & ~labels


def cross_entropies(logits, labels):
    """The cross-entropy of each output, in float64."""
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    labels = labels.astype(np.float64)
    return -labels * np.log(scores) - (1 - labels) * np.log(1 - scores)


def value_and_gradient(name, logits, labels, masked):
    def loss(logits):
        return LOSSES[name](Outputs.of_logits(logits), labels, masked, None)

    return jax.value_and_grad(loss)(jnp.asarray(logits))


@pytest.mark.parametrize("share_masked", [0, 0.3])
def test_large_losses_are_left_out(share_masked):
    logits, labels, masked = drawn(0, share_masked)
    losses = cross_entropies(logits, labels)
    negatives = np.flatnonzero(~labels & ~masked)
    number = int(LARGE_LOSS_SHARE * len(negatives))
    assert number > 0
    largest = negatives[np.argsort(losses.ravel()[negatives])[-number:]]
    kept = ~masked.ravel()
    kept[largest] = False
    value, gradient = value_and_gradient("large_loss", logits, labels, masked)
    assert float(value) == pytest.approx(losses.ravel()[kept].mean(), rel=1e-5)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.where(kept.reshape(logits.shape), (scores - labels) / kept.sum(), 0)
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_no_positive_is_left_out():
    logits, labels, masked = drawn(1, 0)
    logits[labels] = -20  # the largest losses
    _, gradient = value_and_gradient("large_loss", logits, labels, masked)
    assert (np.asarray(gradient)[labels] < 0).all()


def test_large_losses_are_those_of_the_whole_batch_if_devices_share_it():
    logits, labels, masked = drawn(2, 0.2)
    logits[: CLIPS // 2] -= 5  # all large losses are in the second half
    whole, _ = value_and_gradient("large_loss", logits, labels, masked)

    def of_device(logits, labels, masked):
        return LOSSES["large_loss"](Outputs.of_logits(logits), labels, masked, "data")

    halves = [array.reshape(2, CLIPS // 2, CLASSES) for array in (logits, labels, masked)]
    parts = jax.vmap(of_device, axis_name="data")(*halves)
    assert float(parts.sum()) == pytest.approx(float(whole), rel=1e-6)


def test_smoothed_labels():
    logits, labels, masked = drawn(3, 0.3)
    smooth = np.where(labels, 1 - SMOOTHING / 2, SMOOTHING / 2)
    value, gradient = value_and_gradient("smoothed", logits, labels, masked)
    assert float(value) == pytest.approx(cross_entropies(logits, smooth)[~masked].mean(), rel=1e-5)
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = np.where(masked, 0, (scores - smooth) / (~masked).sum())
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


@pytest.mark.parametrize("name", ["large_loss", "smoothed"])
def test_a_masked_output_has_no_part_in_the_loss(name):
    logits, labels, masked = drawn(4, 0.3)
    before, _ = value_and_gradient(name, logits, labels, masked)
    logits[masked] = 100
    after, gradient = value_and_gradient(name, logits, labels, masked)
    assert float(after) == float(before)
    assert (np.asarray(gradient)[masked] == 0).all()
