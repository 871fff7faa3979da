"""The convolution by Toom-Cook (`toom_cook.py` has the algebra), block by block of tiles.

8 matrix products per m = 9 - r values of y where the direct sums take r m: for taps = 15, stride 3,
eight instead of 20. The gradient by inputs is a correlation too, dX of dy with the taps flipped.
The gradient by the kernel comes from it: <X, dX> = <y, dy> is linear in the taps, and its
derivative by the flipped ones adds up (A X)^T (B^T dy) over all tiles, point by point, and applies
G^T once at the end. So both gradients share B^T dy, and X needs but its own rows. The eight
products of a block are one batched product: its threads then meet once.

Taps that fill no whole row of the grid are zero-padded to one, or, where this costs less, left to a
product of their own: taps = 16 as r = 5 and one tap takes 8 / 4 + 1 / 3 products a row instead of
the 8 / 3 of r = 6.

The work goes block by block, so that a block's transforms stay in cache, together with what is done
elementwise before and after (`elementwise.py`); the few rows at the ends that fill no block are
done by `direct.py`, which saves padding, that is copying, the large arrays. Two blocks a turn: part
of what a block takes runs on one core, and the other block then has work for the rest.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from relabel_jax.model import direct, grid, toom_cook
from relabel_jax.model.elementwise import After, Before, add_sums, no_sums, scratch

_POINTS = len(toom_cook.POINTS) + 1
# Measured with benchmarks/convolution.py on 2 cores with 1 or 2 MiB of L2 cache each.
_BLOCK_BYTES = 4 << 20
_UNROLL = 2
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
        and grid.time_out(input_shape[1], taps, stride) >= _LONG
    )


class _Blocks(NamedTuple):
    """A split of [batch, rows] outputs on the grid into equal blocks of whole tiles.

    A block is `clips` x `tiles` tiles: part of one clip where clips are long, several clips where
    they are short. `chunks` blocks cover `rows` outputs of a clip.
    """

    clips: int
    tiles: int
    chunks: int
    number: int
    rows: int

    @classmethod
    def of(cls, batch, outputs, tile, width):
        """For `outputs` a clip, `tile` outputs a tile, `width` channels in and out together."""
        tiles = outputs // tile
        most = max(1, _BLOCK_BYTES // (4 * _POINTS * width))
        chunks = -(-tiles // most)
        clips = max(
            c for c in range(1, batch + 1) if batch % c == 0 and c * tiles <= max(most, tiles)
        )
        tiles //= chunks
        return cls(clips, tiles, chunks, batch // clips * chunks, chunks * tiles * tile)

    def start(self, index):
        """(first clip, first tile) of a block."""
        return index // self.chunks * self.clips, index % self.chunks * self.tiles


def _combine(coefficients: Sequence[Fraction], arrays: Sequence[jax.Array]) -> jax.Array:
    """The linear combination, without the terms that are zero."""
    terms = [
        array if coefficient == 1 else float(coefficient) * array
        for coefficient, array in zip(coefficients, arrays, strict=True)
        if coefficient
    ]
    return functools.reduce(jnp.add, terms)


def _transform(matrix: toom_cook.Matrix, arrays: Sequence[jax.Array]) -> jax.Array:
    """The linear combinations by each row of a matrix, stacked: [rows, ...]."""
    return jnp.stack([_combine(row, arrays) for row in matrix])


def _tile_rows(x, first, tile, tiles, n):
    """Row i of every tile, for x [clips, rows, channels] whose tiles begin with row `first`.

    n arrays [clips tiles, channels].
    """
    span = tile * (tiles - 1) + 1
    rows = [lax.slice_in_dim(x, i, i + span, tile, 1) for i in range(first, first + n)]
    return [row.reshape(-1, x.shape[2]) for row in rows]


def _block(x, clip, row, clips, rows, stride, dtype):
    """Rows of the grid of some clips: [clips, rows, stride channels]."""
    width = stride * x.shape[2]
    # Of the clips as they lie in memory: a view of what is sliced, not of a slice, is free.
    block = lax.dynamic_slice(x.reshape(len(x), -1), (clip, row * width), (clips, rows * width))
    return block.reshape(clips, rows, width).astype(dtype)


def _results(products, tile, clips):
    """A^T of the products: [points, clips tiles, channels] -> [clips, tiles tile, channels]."""
    a, _, _ = toom_cook.matrices(tile, _POINTS + 1 - tile)
    rows = jnp.stack([_combine(column, list(products)) for column in zip(*a, strict=True)], 1)
    return rows.reshape(clips, -1, products.shape[2])


def _weights(taps):
    """The transform of taps on the grid: float[points, width, channels_out]."""
    _, g, _ = toom_cook.matrices(_POINTS + 1 - len(taps), len(taps))
    return lax.optimization_barrier(_transform(g, list(taps)))


class _Taps(NamedTuple):
    """A kernel on the grid.

    Attributes:
      fast: float[r, width, channels_out], those for Toom-Cook.
      tail: float[tail channels_in, channels_out], the rest, at the head of the grid's next row;
        empty where zero-padding them to a whole row costs less.
      halo: rows beyond its own that a row of the result sees.
    """

    fast: jax.Array
    tail: jax.Array
    halo: int

    @classmethod
    def of(cls, kernel, stride):
        taps, _, channels_out = kernel.shape
        whole, rest = divmod(taps, stride)
        halo = -(-taps // stride) - 1

        def products(r):
            return stride * _POINTS / (_POINTS + 1 - r)

        if not (rest and whole > 1 and 1.1 * (products(whole) + rest) < products(whole + 1)):
            whole, rest = halo + 1, 0
        fast = grid.grid_kernel(kernel[: whole * stride], stride)
        return cls(fast, kernel[taps - rest :].reshape(-1, channels_out), halo)

    @property
    def tile(self):
        """Outputs a tile."""
        return _POINTS + 1 - len(self.fast)


def forward(inputs: jax.Array, kernel: jax.Array, stride: int, after: After):
    """`after` of the convolution: (values [batch, time_out, channels_out], sums)."""
    batch, time, _ = inputs.shape
    channels_out = kernel.shape[2]
    time_out = grid.time_out(time, kernel.shape[0], stride)
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)
    taps = _Taps.of(kernel.astype(dtype), stride)
    r, width, _ = taps.fast.shape
    blocks = _Blocks.of(batch, time // stride - taps.halo, taps.tile, width + channels_out)
    own = blocks.tiles * taps.tile
    _, _, bt = toom_cook.matrices(taps.tile, r)
    weights = _weights(taps.fast)

    def body(index, carry):
        out, sums = carry
        clip, first = blocks.start(index)
        row = first * taps.tile
        x = _block(inputs, clip, row, blocks.clips, own + taps.halo, stride, dtype)
        points = _transform(bt, _tile_rows(x, 0, taps.tile, blocks.tiles, _POINTS))
        outputs = _results(points @ weights, taps.tile, blocks.clips)
        if taps.tail.size:
            outputs += x[:, r : r + own, : len(taps.tail)] @ taps.tail
        values = after.values(outputs.astype(inputs.dtype))
        out = lax.dynamic_update_slice(out, values, (clip, row, 0))
        return out, add_sums(sums, after.addends(values))

    out = scratch((batch, time_out, channels_out), kernel)
    sums = no_sums(after.addends, out)
    out, sums = lax.fori_loop(0, blocks.number, body, (out, sums), unroll=_UNROLL)
    rest = after.values(direct.convolve(inputs[:, blocks.rows * stride :], kernel, stride))
    out = lax.dynamic_update_slice(out, rest, (0, blocks.rows, 0))
    return out, add_sums(sums, after.addends(rest))


def backward(
    inputs: jax.Array, kernel: jax.Array, stride: int, arrays: tuple[jax.Array, ...], before: Before
):
    """The gradients for the cotangent `before(*arrays)`: (by inputs, by kernel, sums)."""
    batch, time, channels_in = inputs.shape
    channels_out = kernel.shape[2]
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)
    taps = _Taps.of(kernel.astype(dtype), stride)
    r, width, _ = taps.fast.shape
    num_tail = len(taps.tail)
    halo, tile = taps.halo, taps.tile
    a, g, bt = toom_cook.matrices(tile, r)
    blocks = _Blocks.of(batch, arrays[0].shape[1] - halo, tile, width + channels_out)
    own = blocks.tiles * tile
    weights = _weights(grid.flipped(taps.fast))

    def body(index, carry):
        dx, totals, tail_totals, sums = carry
        clip, first = blocks.start(index)
        row = first * tile
        dy, addends = before(
            *(_block(x, clip, row, blocks.clips, own + halo, 1, x.dtype) for x in arrays)
        )
        dy = lax.optimization_barrier(dy.astype(dtype))
        sums = add_sums(sums, [addend[:, :own] for addend in addends])

        dy_points = _transform(bt, _tile_rows(dy, halo + 1 - r, tile, blocks.tiles, _POINTS))
        dx_block = _results(dy_points @ weights, tile, blocks.clips)
        if num_tail:
            by_tail = dy[:, :own] @ taps.tail.T
            dx_block += jnp.pad(by_tail, ((0, 0), (0, 0), (0, width - num_tail)))
        at = (clip, (halo + row) * stride, 0)
        dx_block = grid.from_grid(dx_block.astype(dx.dtype), stride)
        dx = lax.dynamic_update_slice(dx, dx_block, at)

        x = _block(inputs, clip, halo + row, blocks.clips, own, stride, dtype)
        x_points = _transform(a, _tile_rows(x, 0, tile, blocks.tiles, tile))
        # Transposed in memory: a matrix product over the first axes of both sides is the slower
        # one, and dy is the smaller side.
        dy_points = with_layout_constraint(dy_points.swapaxes(1, 2), Layout((0, 1, 2)))
        totals += dy_points @ x_points
        if num_tail:
            # In as many parts as a tile has rows, which divides: one small product has no parts
            # for threads.
            seen = x[:, :, :num_tail].reshape(tile, -1, num_tail)
            seen_by = dy[:, :own].reshape(tile, -1, channels_out)
            tail_totals += jnp.einsum("ptf,ptc->pfc", seen_by, seen)
        return dx, totals, tail_totals, sums

    carry = (
        scratch((batch, time, channels_in), kernel),
        jnp.zeros((_POINTS, channels_out, width), dtype),
        jnp.zeros((tile, channels_out, num_tail), dtype),
        no_sums(lambda *arrays: before(*arrays)[1], *arrays),
    )
    dx, totals, tail_totals, sums = lax.fori_loop(0, blocks.number, body, carry, unroll=_UNROLL)
    gradient = _transform(tuple(zip(*g, strict=True)), list(totals))
    gradient = grid.flipped(gradient).reshape(-1, channels_in, channels_out)
    tail = tail_totals.sum(0).T.reshape(-1, channels_in, channels_out)
    gradient = jnp.concatenate([gradient, tail])[: len(kernel)]

    # The rows of the grid that no block has: those before `halo` see the first cotangents alone,
    # those from halo + blocks.rows on the last.
    first, _ = before(*(array[:, :halo] for array in arrays))
    last, addends = before(*(array[:, blocks.rows :] for array in arrays))
    at_end = halo + blocks.rows
    start = direct.by_input(first, kernel, stride, halo * stride)
    dx = lax.dynamic_update_slice(dx, start, (0, 0, 0))
    end = direct.by_input(last, kernel, stride, time - blocks.rows * stride)[:, halo * stride :]
    dx = lax.dynamic_update_slice(dx, end, (0, at_end * stride, 0))
    gradient += direct.by_kernel(inputs[:, : halo * stride], first, stride, len(kernel))
    rest = grid.pad_time(inputs[:, at_end * stride :], halo * stride, 0)
    gradient += direct.by_kernel(rest, last, stride, len(kernel))
    return dx, gradient, add_sums(sums, addends)
