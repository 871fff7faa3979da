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
    if outputs.logits is None:
        # Larger scores round to 1 in float32, and log(1 - 1) is infinite.
        tiny = jnp.finfo(jnp.float32).eps
        scores = jnp.clip(jnp.where(masked, 0.5, outputs.scores), tiny, 1 - tiny)
        losses = -(labels * jnp.log(scores) + (1 - labels) * jnp.log1p(-scores))
    else:
        logits = jnp.where(masked, 0.0, outputs.logits)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return jnp.sum(jnp.where(masked, 0.0, losses)) / _num_known(masked, axis_name)


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
}
"""The losses by their names in `config.loss`."""
