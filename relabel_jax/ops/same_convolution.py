"""Two-dimensional convolutions that are fast on a CPU, with their gradients.

`benchmarks/convolutions_2d.py` compares them with XLA's:

- XLA's convolution by a large kernel takes two to six times as long as by a small one, for the same
  number of operations. A large kernel is a matrix product for each of its rows here.
- XLA computes the kernel's gradient as a convolution by a kernel as large as the input. With jax
  0.12 this takes 1.5 times as long as a matrix product for each tap. Inside a loop, such as that
  over the steps of a program, both gradients take up to 60 times as long as outside.
- A convolution of one channel is a sum of shifted arrays (`depthwise.py`), and one by a kernel of
  1 x 1 is a matrix product.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from relabel_jax.ops.depthwise import depthwise
from relabel_jax.ops.product import product

_LARGE = 1 << 21
"""The elements of a kernel from which the matrix products are faster."""


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """For `nn.Conv(conv_general_dilated=...)`; it pads by half the kernel.

    The stride is 1, except that one input channel can have another one.
    """
    if kernel.shape[2] == 1:
        return depthwise(x, kernel, strides[0])
    if kernel.shape[:2] == (1, 1):
        return product(x, kernel[0, 0])
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
    if kernel.size >= _LARGE:
        return jax.lax.map(functools.partial(_by_rows, kernel), x)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), _margins(kernel), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_rows(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Convolves one clip [height, width, channels] by a matrix product for each row of the kernel.

    The inputs of all taps of a row are put side by side.
    """
    size, _, channels, features = kernel.shape
    height, width, _ = x.shape
    padded = jnp.pad(x, (*_margins(kernel), (0, 0)))
    taps = jnp.concatenate([padded[:, j : j + width] for j in range(size)], axis=2)
    rows = kernel.reshape(size, size * channels, features)
    products = (
        jnp.matmul(
            taps[i : i + height].reshape(height * width, size * channels),
            rows[i],
            precision=jax.lax.Precision.HIGHEST,
        )
        for i in range(size)
    )
    return functools.reduce(jnp.add, products).reshape(height, width, features)


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
