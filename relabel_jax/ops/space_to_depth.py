"""The space-to-depth grid: a convolution of stride s as a correlation of stride 1.

With r = ceil(taps / s) and the taps zero-padded to r s, let X[n] be the s rows x[n s : n s + s]
side by side, s channels_in values: a view, no copy. Then

    y[t] = sum_{j < r} X[t + j] W[j],    W[j] of shape [s channels_in, channels_out]:

a correlation of stride 1 with r taps. Its gradients, for the cotangent dy (zero outside its range):

    dX[n] = sum_j dy[n - j] W[j]^T    a correlation of the padded dy with the taps flipped,
    dW[j] = sum_t X[t + j]^T dy[t]    a matrix product over time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from relabel_jax.ops import cpu_devices

LAYOUT = ("NWC", "WIO", "NWC")

Rows = Callable[[Any, Any, int, int], jax.Array]
"""(first clip, first row, clips, rows) -> that part of an array [batch, time, channels]."""


def stored(x: jax.Array) -> Rows:
    """The rows of an array."""

    def rows_of(clip, row, clips, rows):
        channels = x.shape[2]
        # Of the clips as they lie in memory: a view of what is sliced, not of a slice, is free.
        # Made here, within the loop: a view that is handed into it is copied.
        flat = x.reshape(len(x), -1)
        part = lax.dynamic_slice(flat, (clip, row * channels), (clips, rows * channels))
        return part.reshape(clips, rows, channels)

    return rows_of


def store(x: jax.Array, rows: jax.Array, clip: Any, row: Any) -> tuple[jax.Array, jax.Array]:
    """Writes rows of some clips to an array: the array, and the rows for whatever else takes them.

    Where each core is a device these are read back: the rows are then computed as they are written,
    while memory is waited for, and what is read is in cache. Where cores share this is no faster,
    and of two blocks a turn XLA would copy the array for the second.
    """
    x = lax.dynamic_update_slice(x, rows, (clip, row, 0))
    if cpu_devices.cores_share():
        return x, rows
    # Or XLA knew what is there. A barrier for the array itself copies it, on jax 0.10.
    clip, row = lax.optimization_barrier((jnp.int32(clip), jnp.int32(row)))
    return x, lax.dynamic_slice(x, (clip, row, 0), rows.shape)


def time_out(time: int, taps: int, stride: int) -> int:
    """The length of a VALID convolution's result."""
    return max(0, (time - taps) // stride + 1)


def pad_time(x: jax.Array, before: int, after: int) -> jax.Array:
    """Pads (or, where negative, cuts) the time axis with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (before, after, 0), (0, 0, 0)))


def to_grid(x: jax.Array, stride: int) -> jax.Array:
    """[batch, n stride, channels] -> [batch, n, stride channels]."""
    return x.reshape(x.shape[0], -1, stride * x.shape[2])


def from_grid(x: jax.Array, stride: int) -> jax.Array:
    """[batch, n, stride channels] -> [batch, n stride, channels]."""
    return x.reshape(x.shape[0], x.shape[1] * stride, -1)


def grid_kernel(kernel: jax.Array, stride: int) -> jax.Array:
    """[taps, channels_in, channels_out] -> [r, stride channels_in, channels_out]."""
    taps, _, channels_out = kernel.shape
    r = -(-taps // stride)
    return jnp.pad(kernel, ((0, r * stride - taps), (0, 0), (0, 0))).reshape(r, -1, channels_out)


def from_grid_kernel(kernel: jax.Array, taps: int, stride: int) -> jax.Array:
    """The reverse of `grid_kernel`."""
    r, _, channels_out = kernel.shape
    return kernel.reshape(r * stride, -1, channels_out)[:taps]


def time_last(x: jax.Array) -> jax.Array:
    """[batch, time, channels] -> [batch, channels, time], in memory too.

    For the left side of a product over time: one over the first axes of both sides runs at about
    half the speed of the usual one.
    """
    return with_layout_constraint(x.swapaxes(1, 2), Layout((0, 1, 2)))


def flipped(kernel: jax.Array) -> jax.Array:
    """The taps of a grid kernel in reverse, each transposed: those of the gradient by inputs."""
    return jnp.flip(kernel, 0).swapaxes(1, 2)
