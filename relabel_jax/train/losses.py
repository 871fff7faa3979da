"""Losses that ignore masked outputs: these change neither the value nor the gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from relabel_jax.models.backbone import Outputs
from relabel_jax.ops import batch_axis

Loss = Callable[[Outputs, jax.Array, jax.Array, str | None], jax.Array]


def masked_mean_squared_error(
    outputs: Outputs, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Computes the paper's loss, the mean of (score - label)^2 over outputs that are not masked.

    The mean is over the whole batch. If all outputs are masked, the loss is 0.

    Args:
      outputs: `scores` float32[batch, classes].
      labels: bool[batch, classes], or float32 between 0 and 1.
      masked: bool[batch, classes]; True leaves the output out.
      axis_name: the axis of the devices that share the batch (`ops/batch_axis.py`), or None.

    Returns:
      float32[]. With several devices it is the part of this device, and the loss is the sum of the
      parts.
    """
    errors = jnp.where(masked, 0.0, outputs.scores - labels)
    return jnp.sum(errors * errors) / _num_known(masked, axis_name)


def masked_binary_cross_entropy(
    outputs: Outputs, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Computes the mean binary cross-entropy over the outputs that are not masked.

    It is computed from the logits (Optax's `sigmoid_binary_cross_entropy`) if the network returns
    them, else from the scores. Arguments and result are those of `masked_mean_squared_error`.
    """
    losses = _cross_entropies(outputs, labels, masked)
    return jnp.sum(jnp.where(masked, 0.0, losses)) / _num_known(masked, axis_name)


LARGE_LOSS_SHARE = 0.01
SMOOTHING = 0.1


def large_loss_rejection(
    outputs: Outputs, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Computes the cross-entropy without the negatives that have the largest losses.

    They are probably positives that the raters left out. Of the negatives of the whole batch that
    are not masked, the share `LARGE_LOSS_SHARE` is left out, rounded down (LL-R of Y. Kim et al.,
    Large loss matters in weakly supervised multi-label classification, 2022). There the share
    grows with each epoch. Here it is constant, because a loss does not know the epoch.

    Arguments and result are those of `masked_binary_cross_entropy`.
    """
    losses = _cross_entropies(outputs, labels, masked)
    is_negative = (labels == 0) & ~masked
    largest = jax.lax.stop_gradient(jnp.where(is_negative, losses, -jnp.inf))
    of_batch = largest if axis_name is None else jax.lax.all_gather(largest, axis_name)
    num_rejected = batch_axis.total(jnp.sum(is_negative), axis_name) * LARGE_LOSS_SHARE
    # The largest loss that stays.
    limit = jnp.sort(of_batch.ravel(), descending=True)[num_rejected.astype(jnp.int32)]
    left_out = masked | (largest > limit)
    return jnp.sum(jnp.where(left_out, 0.0, losses)) / _num_known(left_out, axis_name)


def smoothed_binary_cross_entropy(
    outputs: Outputs, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Computes the cross-entropy with the labels 1 - `SMOOTHING` / 2 and `SMOOTHING` / 2.

    A label that was not given counts as unlikely, not as absent (E. Cole et al., Multi-label
    learning from single positive labels, 2021). Arguments and result are those of
    `masked_binary_cross_entropy`.
    """
    smooth = labels * (1 - SMOOTHING) + SMOOTHING / 2
    losses = _cross_entropies(outputs, smooth, masked)
    return jnp.sum(jnp.where(masked, 0.0, losses)) / _num_known(masked, axis_name)


def _cross_entropies(outputs: Outputs, labels: jax.Array, masked: jax.Array) -> jax.Array:
    """Returns float32[batch, classes]; what it holds for masked outputs is finite.

    Args:
      labels: bool or float32[batch, classes], from 0 to 1.
    """
    labels = labels.astype(jnp.float32)
    if outputs.logits is None:
        # Larger scores round to 1 in float32, and log(1 - 1) is infinite.
        tiny = jnp.finfo(jnp.float32).eps
        scores = jnp.clip(jnp.where(masked, 0.5, outputs.scores), tiny, 1 - tiny)
        return -(labels * jnp.log(scores) + (1 - labels) * jnp.log1p(-scores))
    logits = jnp.where(masked, 0.0, outputs.logits)
    return optax.sigmoid_binary_cross_entropy(logits, labels)


def distillation(outputs: Outputs, teacher: jax.Array, axis_name: str | None = None) -> jax.Array:
    """Computes the mean binary cross-entropy to the scores of a teacher.

    A mask of labels has no part in it: the teacher has a score also where the label is not known.

    Args:
      outputs: see `masked_mean_squared_error`.
      teacher: float32[batch, classes] in 0 to 1; NaN leaves the output out.
      axis_name: see `masked_mean_squared_error`.

    Returns:
      float32[], see `masked_mean_squared_error`.
    """
    absent = jnp.isnan(teacher)
    return masked_binary_cross_entropy(outputs, jnp.where(absent, 0, teacher), absent, axis_name)


def _num_known(masked: jax.Array, axis_name: str | None) -> jax.Array:
    """Counts the outputs of the whole batch that are not masked; at least 1."""
    return jnp.maximum(batch_axis.total(jnp.sum(~masked), axis_name), 1)


LOSSES: dict[str, Loss] = {
    "mse": masked_mean_squared_error,
    "bce": masked_binary_cross_entropy,
    "large_loss": large_loss_rejection,
    "smoothed": smoothed_binary_cross_entropy,
}
"""The losses by their names in `config.loss`."""
