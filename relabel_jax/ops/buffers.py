"""Large arrays that training steps reuse: each step overwrites the arrays of the step before.

XLA's CPU compiler has no uninitialized arrays. A loop that writes its result block by block fills
the result first, which for the large arrays takes 6% of a training step. Reusing the arrays avoids
this.

An operation that writes to such an array (`convolution_elu.py`) returns the written array as the
"gradient" by the array that it was given. Only that operation and `value_and_grad` rely on this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Buffers(NamedTuple):
    """Arrays for the large results of one convolution in a training step.

    Their values are not read.

    Attributes:
      activations: has the shape and dtype of the activations.
      input_gradient: has the shape and dtype of the inputs, for the gradient by them. It is None
        for waveforms, because their gradient is never computed.
    """

    activations: jax.Array
    input_gradient: jax.Array | None


def value_and_grad(loss: Callable[[Any, Any], tuple[jax.Array, Any]]) -> Callable:
    """Like `jax.value_and_grad` by the parameters, for a loss whose operations write to buffers.

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
