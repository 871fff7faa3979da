"""Losses over what is known: masked outputs have exactly no part in the value and the gradient."""

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
    """Mean of (score - label)^2 over the outputs of the batch that are not masked (the paper's).

    A batch in which everything is masked has the loss 0.

    Args:
      outputs: `scores` float32[batch, classes].
      labels: bool[batch, classes].
      masked: bool[batch, classes], True is left out.
      axis_name: names the devices that share the batch (`ops/batch_axis.py`).

    Returns:
      float32[]; on several devices each device's part, and the parts add up to the loss.
    """
    errors = jnp.where(masked, 0.0, outputs.scores - labels)
    return jnp.sum(errors * errors) / _num_known(masked, axis_name)


def masked_binary_cross_entropy(
    outputs: Outputs, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean binary cross-entropy over the outputs of the batch that are not masked.

    It is computed from the logits where the network has any (Optax's
    `sigmoid_binary_cross_entropy`), else from the scores.

    Args, returns: as of `masked_mean_squared_error`.
    """
    if outputs.logits is None:
        # float32 cannot tell larger scores from 1, whose logarithm of 1 - score is infinite.
        tiny = jnp.finfo(jnp.float32).eps
        scores = jnp.clip(jnp.where(masked, 0.5, outputs.scores), tiny, 1 - tiny)
        losses = -jnp.where(labels, jnp.log(scores), jnp.log1p(-scores))
    else:
        logits = jnp.where(masked, 0.0, outputs.logits)
        losses = optax.sigmoid_binary_cross_entropy(logits, labels.astype(logits.dtype))
    return jnp.sum(jnp.where(masked, 0.0, losses)) / _num_known(masked, axis_name)


def _num_known(masked: jax.Array, axis_name: str | None) -> jax.Array:
    """How many outputs of the whole batch are not masked; at least 1."""
    return jnp.maximum(batch_axis.total(jnp.sum(~masked), axis_name), 1)


LOSSES: dict[str, Loss] = {
    "mse": masked_mean_squared_error,
    "bce": masked_binary_cross_entropy,
}
"""By the name that `config.loss` has."""
