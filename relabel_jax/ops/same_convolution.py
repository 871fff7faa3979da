"""Two-dimensional convolutions whose kernel's gradient is fast on a CPU.

XLA computes that gradient as a convolution by a kernel as large as the input. With jax 0.12 this
takes 1.5 times as long as a matrix product for each tap (`benchmarks/convolutions_2d.py`).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """`same_convolution` for `nn.Conv(conv_general_dilated=...)` with a stride of 1."""
    return same_convolution(x, kernel)


@jax.custom_vjp
def same_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a stride of 1; each side of `x` gets `size // 2` zeros.

    Args:
      x: float32[batch, height, width, channels].
      kernel: float32[size, size, channels, features]; `size` is odd.

    Returns:
      float32[batch, height, width, features].
    """
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), _margins(kernel), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _forward(x, kernel):
    return same_convolution(x, kernel), (x, kernel)


def _backward(residuals, gradient):
    x, kernel = residuals
    reversed_kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    return same_convolution(gradient, reversed_kernel), _kernel_gradient(x, kernel, gradient)


same_convolution.defvjp(_forward, _backward)


def _margins(kernel: jax.Array) -> list[tuple[int, int]]:
    return [(kernel.shape[0] // 2,) * 2] * 2


def _kernel_gradient(x, kernel, gradient):
    """For each tap, the product of its inputs and the outputs' gradients, as matrices."""
    size, _, channels, features = kernel.shape
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), *_margins(kernel), (0, 0)))
    gradients = gradient.reshape(-1, features)

    def of_tap(i, j):
        inputs = padded[:, i : i + height, j : j + width].reshape(-1, channels)
        return jnp.matmul(inputs.T, gradients, precision=jax.lax.Precision.HIGHEST)

    return jnp.stack([jnp.stack([of_tap(i, j) for j in range(size)]) for i in range(size)])
