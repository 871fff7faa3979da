"""The space-to-depth grid: a convolution of stride s as a correlation of stride 1.

Let r = ceil(kernel_size / s), and let the kernel be zero-padded to r s taps. A row of the grid is s
rows of the inputs side by side, X[n] = x[n s : n s + s], with s channels_in values. It is a view,
not a copy. Then

    y[t] = sum_{j < r} X[t + j] W[j],    W[j] of shape [s channels_in, channels_out],

which is a correlation of stride 1 with r taps. With the cotangent dy (zero outside its range), its
gradients are

    dX[n] = sum_j dy[n - j] W[j]^T    a correlation of the padded dy with the flipped taps,
    dW[j] = sum_t X[t + j]^T dy[t]    a matrix product over time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

LAYOUT = ("NWC", "WIO", "NWC")

RowReader = Callable[[Any, Any, int, int], jax.Array]
"""Maps (first clip, first row, number of clips, number of rows) to that part of an array
[batch, time, channels]."""


def row_reader(x: jax.Array) -> RowReader:
    """Reads rows of an array that is in memory."""

    def read(clip, row, clips, rows):
        channels = x.shape[2]
        # Flattening the whole array is free, flattening a slice copies it: so flatten first.
        # Flatten inside the loop, because XLA copies a flattened array that is passed into a loop.
        flat = x.reshape(len(x), -1)
        part = lax.dynamic_slice(flat, (clip, row * channels), (clips, rows * channels))
        return part.reshape(clips, rows, channels)

    return read


def write_rows(
    x: jax.Array, rows: jax.Array, clip: Any, row: Any, cores_share: bool
) -> tuple[jax.Array, jax.Array]:
    """Writes rows of some clips to an array.

    If each core is a device, the rows are read back from the array, where they are still in cache.
    XLA then computes rows while it waits for the memory to store others. If cores share a device,
    this is no faster, and with two blocks in a turn XLA would copy the array.

    Args:
      x: [batch, time, channels].
      rows: [clips, rows, channels].
      clip, row: the position of the first row.
      cores_share: see `Formulation`.

    Returns:
      The array with these rows, and the rows for further computations.
    """
    x = lax.dynamic_update_slice(x, rows, (clip, row, 0))
    if cores_share:
        return x, rows
    # Without the barrier XLA would use the written rows and read nothing. A barrier for the array
    # itself would copy the array (jax 0.10).
    clip, row = lax.optimization_barrier((jnp.int32(clip), jnp.int32(row)))
    return x, lax.dynamic_slice(x, (clip, row, np.int32(0)), rows.shape)


def time_out(time: int, kernel_size: int, stride: int) -> int:
    """The length of a VALID convolution's outputs."""
    return max(0, (time - kernel_size) // stride + 1)


def pad_time(x: jax.Array, before: int, after: int) -> jax.Array:
    """Pads the time axis with zeros. Negative numbers cut it."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (before, after, 0), (0, 0, 0)))


def to_grid(x: jax.Array, stride: int) -> jax.Array:
    """[batch, n stride, channels] -> [batch, n, stride channels]."""
    return x.reshape(x.shape[0], -1, stride * x.shape[2])


def from_grid(x: jax.Array, stride: int) -> jax.Array:
    """[batch, n, stride channels] -> [batch, n stride, channels]."""
    return x.reshape(x.shape[0], x.shape[1] * stride, -1)


def grid_kernel(kernel: jax.Array, stride: int) -> jax.Array:
    """[kernel_size, channels_in, channels_out] -> [r, stride channels_in, channels_out]."""
    kernel_size, _, channels_out = kernel.shape
    r = -(-kernel_size // stride)
    padding = ((0, r * stride - kernel_size), (0, 0), (0, 0))
    return jnp.pad(kernel, padding).reshape(r, -1, channels_out)


def from_grid_kernel(kernel: jax.Array, kernel_size: int, stride: int) -> jax.Array:
    """The reverse of `grid_kernel`."""
    r, _, channels_out = kernel.shape
    return kernel.reshape(r * stride, -1, channels_out)[:kernel_size]


def time_last(x: jax.Array) -> jax.Array:
    """[batch, time, channels] -> [batch, channels, time], in memory too.

    This is for the left side of a matrix product over time. A product over the first axes of both
    sides runs at about half the speed of the usual one.
    """
    return with_layout_constraint(x.swapaxes(1, 2), Layout((0, 1, 2)))


def flipped(kernel: jax.Array) -> jax.Array:
    """The grid kernel of the gradient by the inputs: the taps in reverse, each transposed."""
    return jnp.flip(kernel, 0).swapaxes(1, 2)
