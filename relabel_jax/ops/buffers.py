"""Arrays that one training step leaves for the next one to write to.

XLA's CPU compiler has no array without values: a loop that writes its result block by block first
fills it, which for the large arrays takes 6% of a training step. So a step hands its arrays on to
the next step, which overwrites them. An operation that writes to such an array (`convolution.py`)
returns the array it has become as the "gradient" by the array it was given. `value_and_grad` is the
only place that needs to know this.
"""

from collections.abc import Callable
from typing import Any

import jax


def value_and_grad(loss: Callable[[Any, Any], tuple[jax.Array, Any]]) -> Callable:
    """`jax.value_and_grad` by the parameters, of a loss whose operations write to buffers.

    Args:
      loss: `(params, buffers) -> (loss, auxiliary)`.

    Returns:
      `(params, buffers) -> (loss, auxiliary, gradients, buffers)`. The last are the buffers for the
      next step.
    """

    def loss_and_gradients(params, buffers):
        (value, auxiliary), (gradients, buffers) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            params, buffers
        )
        return value, auxiliary, gradients, buffers

    return loss_and_gradients
