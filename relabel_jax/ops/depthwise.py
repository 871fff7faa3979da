"""Convolutions as sums of shifted arrays, which XLA compiles well for a CPU.

They are depthwise, or have one input channel, which all output channels share. XLA's own depthwise
convolution takes 7 to 18 times as long, and its convolution of one channel 2 to 20 times
(`benchmarks/convolutions_2d.py`). Each tap of a kernel multiplies a shifted view of the input by
one number for each channel. The sum over the taps is one loop over the output, whose innermost axis
is the channels.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_ROWS = 4
"""Rows that a kernel's gradient adds up before the others. More take longer to compile."""


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """`depthwise` for `nn.Conv(conv_general_dilated=...)`; it pads by half the kernel."""
    return depthwise(x, kernel, strides[0])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel with its own kernel, padded by zeros.

    Args:
      x: float32[batch, height, width, channels], or one channel for all kernels.
      kernel: float32[size, size, 1, channels]; `size` is odd. Each side of `x` gets `size // 2`
        zeros.
      stride: the step along height and width.

    Returns:
      float32[batch, height', width', channels], with a height and width of ceil(size / stride).
    """
    return _sum_of_taps(_padded(x, kernel), kernel, stride)


def _forward(x, kernel, stride):
    return depthwise(x, kernel, stride), (x, kernel)


def _backward(stride, residuals, gradient):
    x, kernel = residuals
    of_one = x.shape[-1] == 1
    of_input = _input_gradient_of_one if of_one else _input_gradient
    of_kernel = _kernel_gradient_of_one if of_one else _kernel_gradient
    return of_input(x, kernel, stride, gradient), of_kernel(x, kernel, stride, gradient)


depthwise.defvjp(_forward, _backward)


def _padded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    margin = (kernel.shape[0] // 2,) * 2
    return jnp.pad(x, ((0, 0), margin, margin, (0, 0)))


def _tap(padded: jax.Array, size: int, stride: int, i: int, j: int) -> jax.Array:
    """The inputs that tap (i, j) of a kernel multiplies, in the shape of the outputs."""
    _, height, width, _ = padded.shape
    last = height - size + i + 1, width - size + j + 1
    return padded[:, i : last[0] : stride, j : last[1] : stride]


def _sum_of_taps(padded: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size = kernel.shape[0]
    taps = [(i, j) for i in range(size) for j in range(size)]
    products = (
        _tap(padded, size, stride, i, j) * kernel[i, j].reshape(1, 1, 1, -1) for i, j in taps
    )
    return functools.reduce(jnp.add, products)


def _edges(x, kernel, stride, gradient):
    """The zeros before and after the height and width of gradients with `stride - 1` between."""
    size, margin = kernel.shape[0], kernel.shape[0] // 2
    between = [(gradient.shape[axis] - 1) * stride + 1 for axis in (1, 2)]
    return [
        (size - 1 - margin, total + margin - length)
        for total, length in zip(x.shape[1:3], between, strict=True)
    ]


def _input_gradient(x, kernel, stride, gradient):
    """The outputs' gradients with zeros between them, convolved with the reversed kernel."""
    edges = [(*edge, stride - 1) for edge in _edges(x, kernel, stride, gradient)]
    none = (0, 0, 0)
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [none, *edges, none])
    return _sum_of_taps(spread, kernel[::-1, ::-1], 1)


def _input_gradient_of_one(x, kernel, stride, gradient):
    """The same for one input channel, by XLA's convolution."""
    return jax.lax.conv_general_dilated(
        gradient,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        _edges(x, kernel, stride, gradient),
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


def _kernel_gradient(x, kernel, stride, gradient):
    """For each tap, the sum of the products of its inputs and the outputs' gradients.

    A sum over many rows as one loop would not be vectorized. So some rows are added first, and
    matrix products with ones add the rest.
    """
    size, channels = kernel.shape[0], kernel.shape[-1]
    height = gradient.shape[1]
    step = next(each for each in range(_ROWS, 0, -1) if height % each == 0)
    padded = _padded(x, kernel)
    rows = [gradient[:, row::step] for row in range(step)]
    ones = jnp.ones((1, gradient.size // (step * channels)), gradient.dtype)

    def sum_of(i, j):
        inputs = _tap(padded, size, stride, i, j)
        products = (inputs[:, row::step] * rows[row] for row in range(step))
        added = functools.reduce(jnp.add, products).reshape(-1, channels)
        return jnp.matmul(ones, added, precision=jax.lax.Precision.HIGHEST)

    return jnp.stack([jnp.stack([sum_of(i, j) for j in range(size)]) for i in range(size)])


def _kernel_gradient_of_one(x, kernel, stride, gradient):
    """The same for one input channel: the product of the inputs of all taps and the gradients."""
    size, features = kernel.shape[0], kernel.shape[-1]
    padded = _padded(x, kernel)
    taps = [(i, j) for i in range(size) for j in range(size)]
    inputs = jnp.stack([_tap(padded, size, stride, i, j).ravel() for i, j in taps])
    gradients = gradient.reshape(-1, features)
    product = jnp.matmul(inputs, gradients, precision=jax.lax.Precision.HIGHEST)
    return product.reshape(kernel.shape)
