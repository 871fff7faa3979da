"""Blocks of the convolution as one matrix product with all taps side by side, for bfloat16.

Where a CPU has units for bfloat16 products (AMX), multiplications are cheap. XLA uses these units
for matrix products, but not for convolutions. On the grid (`space_to_depth.py`), with the r taps
side by side,

    Z = X [W[0] ... W[r - 1]],    y[t] = sum_j Z[t + j][j],

which is one product and a sum of r shifted parts, and XLA fuses the sum with the work that follows.
The gradients use the shifted cotangent, D[n] = [dy[n] ... dy[n - r + 1]]:

    dX = D [W[0] ... W[r - 1]]^T,    dW = D^T X.

For narrow inputs such as a waveform this product is too thin. Then `tile` rows of the grid are
joined, and the kernels of their outputs are written side by side. X is now the smaller side, so X
is shifted instead: y[t] = [X[t] ... X[t + r - 1]] W.

The factors are bfloat16, the sums float32.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from relabel_jax.ops import space_to_depth
from relabel_jax.ops.formulation import Tuning


def pays(
    input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int, tuning: Tuning
) -> bool:
    """Whether taps overlap and clips are long enough for blocks.

    In Table II this is true of layers 1 to 6.
    """
    kernel_size, channels_in, _ = kernel_shape
    one_block = kernel_size // stride + 2 * _tile(channels_in, stride, tuning)
    length = space_to_depth.time_out(input_shape[1], kernel_size, stride)
    return kernel_size > stride and length >= max(tuning.im2col_length, one_block)


def _tile(channels_in: int, stride: int, tuning: Tuning) -> int:
    """The number of rows of the grid that are joined."""
    return -(-tuning.im2col_width // (stride * channels_in))


class Im2Col(NamedTuple):
    """The `blocked.Form` for a kernel.

    Attributes:
      taps: float[r, width, features], the kernel on a grid of stride `tile` times its own. Its
        features are the channels of `tile` outputs side by side.
      kernel_shape: (kernel_size, channels_in, channels_out).
      stride: the stride of the convolution.
      tile: outputs side by side in a row.
    """

    taps: jax.Array
    kernel_shape: tuple[int, ...]
    stride: int
    tile: int

    @classmethod
    def of(cls, kernel: jax.Array, stride: int, tuning: Tuning) -> "Im2Col":
        """The form for a kernel [kernel_size, channels_in, channels_out]."""
        _, channels_in, channels_out = kernel.shape
        tile = _tile(channels_in, stride, tuning)
        starts = [stride * i for i in range(tile)]
        padded = [jnp.pad(kernel, ((i, starts[-1] - i), (0, 0), (0, 0))) for i in starts]
        wide = jnp.stack(padded, 2).reshape(-1, channels_in, tile * channels_out)
        return cls(space_to_depth.grid_kernel(wide, tile * stride), kernel.shape, stride, tile)

    @property
    def tile_bytes(self) -> int:
        r, _, features = self.taps.shape
        return self.taps.dtype.itemsize * r * features

    @property
    def halo(self) -> int:
        return self.tile * (len(self.taps) - 1)

    @property
    def narrow(self) -> bool:
        """Whether the inputs are the smaller side of the product."""
        _, width, features = self.taps.shape
        return width < features

    def outputs(self):
        r, width, features = self.taps.shape
        below = self.taps.reshape(-1, features)
        beside = self.taps.swapaxes(0, 1).reshape(width, -1)

        def outputs(x):
            x = x.reshape(len(x), -1, width)
            rows = x.shape[1] - (r - 1)
            if self.narrow:
                y = _product(jnp.concatenate([x[:, j : j + rows] for j in range(r)], 2), below)
            else:
                z = _product(x, beside)
                shifted = [z[:, j : j + rows, j * features : (j + 1) * features] for j in range(r)]
                y = functools.reduce(jnp.add, shifted)
            return y.reshape(len(x), rows * self.tile, -1)

        return outputs

    def gradients(self):
        r, width, features = self.taps.shape
        weights = self.taps.swapaxes(1, 2).reshape(-1, width)
        shape = (r, width, features) if self.narrow else (r * features, width)
        zeros = jnp.zeros(shape, jnp.promote_types(weights.dtype, jnp.float32))

        def gradients(dy, x):
            x_shape = x.shape
            x, dy = x.reshape(len(x), -1, width), dy.reshape(len(x), -1, features)
            rows = x.shape[1]
            shifts = [slice(r - 1 - j, r - 1 - j + rows) for j in range(r)]
            shifted = [dy[:, shift] for shift in shifts]
            dx = _product(jnp.concatenate(shifted, 2), weights).reshape(x_shape)
            if self.narrow:
                x = space_to_depth.time_last(x)
                return dx, jnp.stack([_product(x, dy).sum(0) for dy in shifted])
            dy = space_to_depth.time_last(dy)
            return dx, _product(jnp.concatenate([dy[:, :, s] for s in shifts], 1), x).sum(0)

        return zeros, gradients

    def kernel_gradient(self, totals):
        r, width, features = self.taps.shape
        kernel_size, channels_in, channels_out = self.kernel_shape
        if not self.narrow:
            totals = totals.reshape(r, features, width).swapaxes(1, 2)
        wide = totals.reshape(-1, channels_in, self.tile, channels_out)
        of_outputs = [wide[i * self.stride :][:kernel_size, :, i] for i in range(self.tile)]
        return functools.reduce(jnp.add, of_outputs)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """[clips, rows, n] times [n, columns] or [clips, n, columns], in at least float32."""
    dtype = jnp.promote_types(left.dtype, jnp.float32)
    return jnp.matmul(left, right, preferred_element_type=dtype)
