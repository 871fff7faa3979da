"""Blocks of the convolution by Toom-Cook (`toom_cook.py` has the algebra), tile by tile.

8 matrix products per m = 9 - r values of y where the direct sums take r m: for taps = 15, stride 3,
eight instead of 20. The gradient by inputs is a correlation too, dX of dy with the taps flipped.
The gradient by the kernel comes from it: <X, dX> = <y, dy> is linear in the taps, and its
derivative by the flipped ones adds up (A X)^T (B^T dy) over all tiles, point by point, and applies
G^T once at the end. So both gradients share B^T dy, and X needs but its own rows. The eight
products of a block are one batched product: its threads then meet once.

Taps that fill no whole row of the grid are zero-padded to one, or, where this costs less, left to a
product of their own: taps = 16 as r = 5 and one tap takes 8 / 4 + 1 / 3 products a row instead of
the 8 / 3 of r = 6.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.ops import space_to_depth, toom_cook_matrices

_POINTS = len(toom_cook_matrices.POINTS) + 1
# Measured with benchmarks/convolution.py.
_LONG = 100
_WIDE = 32


def pay(input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int) -> bool:
    """Whether Toom-Cook beats the direct form: layers 2 to 6 of Table II.

    Clips must be long enough to fill tiles, channels many enough for the matrix products to
    outweigh the transforms, and r such that a tile saves multiplications (1 < r < 8).
    """
    taps, channels_in, channels_out = kernel_shape
    return (
        1 < -(-taps // stride) < _POINTS
        and min(stride * channels_in, channels_out) >= _WIDE
        and space_to_depth.time_out(input_shape[1], taps, stride) >= _LONG
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
    """Row i of every tile, for x [clips, rows, channels] whose tiles begin with row `first`.

    n arrays [clips tiles, channels].
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
    """The transform of taps on the grid: float[points, width, channels_out]."""
    _, g, _ = toom_cook_matrices.matrices(_POINTS + 1 - len(taps), len(taps))
    return lax.optimization_barrier(_transform(g, list(taps)))


class ToomCook(NamedTuple):
    """The `loops.Form` of a kernel.

    Attributes:
      fast: float[r, width, channels_out], the taps for Toom-Cook.
      tail: float[tail channels_in, channels_out], the rest, at the head of the grid's next row;
        empty where zero-padding them to a whole row costs less.
      shape: of the kernel, (taps, channels_in, channels_out).
      halo: rows beyond its own that a row of the result sees.
    """

    fast: jax.Array
    tail: jax.Array
    shape: tuple[int, ...]
    halo: int

    @classmethod
    def of(cls, kernel: jax.Array, stride: int) -> "ToomCook":
        """For a kernel [taps, channels_in, channels_out]."""
        taps, _, channels_out = kernel.shape
        whole, rest = divmod(taps, stride)
        halo = -(-taps // stride) - 1

        def products(r):
            return stride * _POINTS / (_POINTS + 1 - r)

        if not (rest and whole > 1 and 1.1 * (products(whole) + rest) < products(whole + 1)):
            whole, rest = halo + 1, 0
        fast = space_to_depth.grid_kernel(kernel[: whole * stride], stride)
        return cls(fast, kernel[taps - rest :].reshape(-1, channels_out), kernel.shape, halo)

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
            clips, rows, _ = x.shape
            own = rows - self.halo
            points = _transform(bt, _tile_rows(x, 0, tile, own // tile, _POINTS))
            y = _results(points @ weights, tile, clips)
            return y + x[:, r : r + own, :num_tail] @ self.tail if num_tail else y

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
            clips, own, _ = x.shape
            tiles = own // tile
            dy_points = _transform(bt, _tile_rows(dy, self.halo + 1 - r, tile, tiles, _POINTS))
            dx = _results(dy_points @ weights, tile, clips)
            if num_tail:
                dx_tail = dy[:, :own] @ self.tail.T
                dx += jnp.pad(dx_tail, ((0, 0), (0, 0), (0, width - num_tail)))

            x_points = _transform(a, _tile_rows(x, 0, tile, tiles, tile))
            # The tail in as many parts as a tile has rows, which divides: one small product has no
            # parts for threads.
            seen = x[:, :, :num_tail].reshape(tile, clips * tiles, num_tail)
            seen_by = dy[:, :own].reshape(tile, -1, channels_out)
            by_tail = jnp.einsum("ptf,ptc->pfc", seen_by, seen)
            # Of the two sides dy is the smaller one to copy.
            return dx, (space_to_depth.time_last(dy_points) @ x_points, by_tail)

        return zeros, gradients

    def by_kernel(self, totals):
        of_points, of_tail = totals
        r, _, channels_out = self.fast.shape
        _, g, _ = toom_cook_matrices.matrices(self.tile, r)
        fast = space_to_depth.flipped(_transform(tuple(zip(*g, strict=True)), list(of_points)))
        rows = jnp.concatenate([fast.reshape(-1, channels_out), of_tail.sum(0).T])
        # Where taps are zero-padded, the padding is last.
        return rows.reshape(-1, *self.shape[1:])[: self.shape[0]]
