"""Blocks of the convolution by Toom-Cook, tile by tile (`toom_cook_matrices.py` has the algebra).

A tile of m = 9 - r outputs takes 8 matrix products, where the direct sums take r m: with a kernel
size of 15 and a stride of 3, 8 instead of 20.

The gradient by the inputs is also a correlation: of the cotangent dy with the flipped taps. The
gradient by the kernel follows from it. <X, dX> = <y, dy> is linear in the taps. Its derivative by
the flipped taps is the sum of (A X)^T (B^T dy) over all tiles, point by point. G^T is applied once
at the end. So both gradients share B^T dy, and X is read without rows of other tiles. The eight
products of a block are one batched product, so threads synchronize only once.

A kernel that does not fill whole rows of the grid is zero-padded to a whole row. Alternatively its
last taps become a separate matrix product, if this is cheaper: a kernel size of 16 takes
8 / 4 + 1 / 3 products a row as r = 5 and one tap, and 8 / 3 as r = 6.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.ops import space_to_depth, toom_cook_matrices
from relabel_jax.ops.formulation import Tuning

_POINTS = len(toom_cook_matrices.POINTS) + 1


def pays(
    input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int, tuning: Tuning
) -> bool:
    """Whether Toom-Cook is faster than the direct form: in layers 2 to 6 of Table II.

    Clips must be long enough to fill tiles. There must be enough channels for the matrix products
    to outweigh the transforms. A tile must save multiplications, which requires 1 < r < 8.
    """
    kernel_size, channels_in, channels_out = kernel_shape
    return (
        1 < -(-kernel_size // stride) < _POINTS
        and min(stride * channels_in, channels_out) >= tuning.toom_cook_channels
        and space_to_depth.time_out(input_shape[1], kernel_size, stride) >= tuning.toom_cook_length
    )


def _combine(coefficients: Sequence[Fraction], arrays: Sequence[jax.Array]) -> jax.Array:
    """The linear combination, without the terms that are zero."""
    terms = [
        array if coefficient == 1 else float(coefficient) * array
        for coefficient, array in zip(coefficients, arrays, strict=True)
        if coefficient
    ]
    return functools.reduce(jnp.add, terms)


def _transform(matrix: toom_cook_matrices.Matrix, arrays: Sequence[jax.Array]) -> jax.Array:
    """The linear combinations by each row of a matrix, stacked: [rows, ...]."""
    return jnp.stack([_combine(row, arrays) for row in matrix])


def _tile_rows(x, first, tile, tiles, n):
    """The first n rows of every tile of x [clips, rows, channels], whose tiles begin at `first`.

    Returns n arrays [clips tiles, channels]: row 0 of every tile, row 1 of every tile, and so on.
    """
    span = tile * (tiles - 1) + 1
    rows = [lax.slice_in_dim(x, i, i + span, tile, 1) for i in range(first, first + n)]
    return [row.reshape(-1, x.shape[2]) for row in rows]


def _results(products, tile, clips):
    """A^T of the products: [points, clips tiles, channels] -> [clips, tiles tile, channels]."""
    a, _, _ = toom_cook_matrices.matrices(tile, _POINTS + 1 - tile)
    rows = jnp.stack([_combine(column, list(products)) for column in zip(*a, strict=True)], 1)
    return rows.reshape(clips, -1, products.shape[2])


def _weights(taps):
    """The transformed taps of a grid kernel, float[points, width, channels_out]."""
    _, g, _ = toom_cook_matrices.matrices(_POINTS + 1 - len(taps), len(taps))
    return lax.optimization_barrier(_transform(g, list(taps)))


class ToomCook(NamedTuple):
    """The `blocked.Form` for a kernel.

    Attributes:
      fast: float[r, width, channels_out], the taps that Toom-Cook multiplies.
      tail: float[tail channels_in, channels_out], the taps after them, which are at the start of
        the grid's next row. It is empty if zero-padding the kernel is cheaper.
      kernel_shape: (kernel_size, channels_in, channels_out).
      halo: input rows after its own that an output row depends on.
    """

    fast: jax.Array
    tail: jax.Array
    kernel_shape: tuple[int, ...]
    halo: int

    @classmethod
    def of(cls, kernel: jax.Array, stride: int) -> "ToomCook":
        """The form for a kernel [kernel_size, channels_in, channels_out]."""
        kernel_size, _, channels_out = kernel.shape
        whole, rest = divmod(kernel_size, stride)
        halo = -(-kernel_size // stride) - 1

        def products(r):
            return stride * _POINTS / (_POINTS + 1 - r)

        if not (rest and whole > 1 and 1.1 * (products(whole) + rest) < products(whole + 1)):
            whole, rest = halo + 1, 0
        fast = space_to_depth.grid_kernel(kernel[: whole * stride], stride)
        tail = kernel[kernel_size - rest :].reshape(-1, channels_out)
        return cls(fast, tail, kernel.shape, halo)

    @property
    def tile(self) -> int:
        return _POINTS + 1 - len(self.fast)

    @property
    def tile_bytes(self) -> int:
        _, width, channels_out = self.fast.shape
        return self.fast.dtype.itemsize * _POINTS * (width + channels_out)

    def outputs(self):
        r, tile, num_tail = len(self.fast), self.tile, len(self.tail)
        _, _, bt = toom_cook_matrices.matrices(tile, r)
        weights = _weights(self.fast)

        def outputs(x):
            clips = len(x)
            rows = x.shape[1] - self.halo
            points = _transform(bt, _tile_rows(x, 0, tile, rows // tile, _POINTS))
            y = _results(points @ weights, tile, clips)
            return y + x[:, r : r + rows, :num_tail] @ self.tail if num_tail else y

        return outputs

    def gradients(self):
        r, width, channels_out = self.fast.shape
        tile, num_tail = self.tile, len(self.tail)
        a, _, bt = toom_cook_matrices.matrices(tile, r)
        weights = _weights(space_to_depth.flipped(self.fast))
        zeros = (
            jnp.zeros((_POINTS, channels_out, width), self.fast.dtype),
            jnp.zeros((tile, channels_out, num_tail), self.fast.dtype),
        )

        def gradients(dy, x):
            clips, rows, _ = x.shape
            tiles = rows // tile
            dy_points = _transform(bt, _tile_rows(dy, self.halo + 1 - r, tile, tiles, _POINTS))
            dx = _results(dy_points @ weights, tile, clips)
            if num_tail:
                dx_tail = dy[:, :rows] @ self.tail.T
                dx += jnp.pad(dx_tail, ((0, 0), (0, 0), (0, width - num_tail)))

            x_points = _transform(a, _tile_rows(x, 0, tile, tiles, tile))
            # One small product cannot be divided among threads. So the tail's product is computed
            # in `tile` parts, because the number of rows is a multiple of `tile`.
            x_tail = x[:, :, :num_tail].reshape(tile, clips * tiles, num_tail)
            dy_tail = dy[:, :rows].reshape(tile, -1, channels_out)
            tail_gradient = jnp.einsum("ptf,ptc->pfc", dy_tail, x_tail)
            # Transposing copies an array, and dy is smaller than x.
            return dx, (space_to_depth.time_last(dy_points) @ x_points, tail_gradient)

        return zeros, gradients

    def kernel_gradient(self, totals):
        point_gradients, tail_gradient = totals
        r, _, channels_out = self.fast.shape
        _, g, _ = toom_cook_matrices.matrices(self.tile, r)
        fast = _transform(tuple(zip(*g, strict=True)), list(point_gradients))
        fast = space_to_depth.flipped(fast)
        rows = jnp.concatenate([fast.reshape(-1, channels_out), tail_gradient.sum(0).T])
        # The taps' zero-padding, if there is any, comes last.
        return rows.reshape(-1, *self.kernel_shape[1:])[: self.kernel_shape[0]]
