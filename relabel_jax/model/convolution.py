"""Strided 1-D convolution over time, in three formulations of the same sum.

    y[b, t, f] = sum over j, c of x[b, t stride + j, c] w[j, c, f],   t = 0 .. (T - taps) // stride

VALID padding, no bias, no flip of the taps (what the field calls a convolution). This is nearly all
arithmetic of the network (Table II), so its form decides the speed of a training:

- `lax`: `lax.conv_general_dilated` and JAX's own gradients. For accelerators, and the reference.
- `direct`: the same forward; gradients written so that XLA's CPU compiler sees only plain
  NWC/WIO/NWC convolutions and matrix products. JAX's own weight gradient swaps batch and channels,
  which inside `lax.scan` falls back to a scalar loop, 10 times slower and more
  (https://github.com/jax-ml/jax/issues/12868).
- `toom_cook`: fewer multiplications where that pays, for CPUs; `direct` elsewhere.

**The space-to-depth grid.** With s the stride, r = ceil(taps / s) and the taps zero-padded to r s,
let X[n] be the s rows x[n s : n s + s] side by side, s channels_in values: a view, no copy. Then

    y[t] = sum_{j < r} X[t + j] W[j],    W[j] of shape [s channels_in, channels_out]:

a correlation of stride 1 with r taps. Its gradients, for the cotangent dy (zero outside its range):

    dX[n] = sum_j dy[n - j] W[j]^T    a correlation of the padded dy with the taps flipped,
    dW[j] = sum_t X[t + j]^T dy[t]    a matrix product over time.

**Toom-Cook** (`toom_cook.py` has the algebra) takes 8 matrix products per m = 9 - r values of y
where the sums above take r m: of the 18 products for taps = 16, stride 3, eight are left. Forward
and dX are the same routine with other taps; dW adds up (B^T X)^T (A dy) over all tiles, point by
point, and applies G^T once at the end. The work goes block by block (`_Blocks`), so that a block's
transforms stay in cache; the few rows at the ends that fill no block are done by `direct`, which
saves padding, that is copying, the large arrays.

Everything is chosen from static shapes, so all of it works under jit, grad, vmap, scan and map.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.model import toom_cook

FORMULATIONS = ("lax", "direct", "toom_cook")

_LAYOUT = ("NWC", "WIO", "NWC")
_POINTS = len(toom_cook.POINTS) + 1
# Measured with benchmarks/convolution.py on 2 cores with 1 MiB of L2 cache each.
_BLOCK_BYTES = 6 << 20
_LONG = 100
_WIDE = 32


def default_formulation() -> str:
    """The fastest of `FORMULATIONS` on JAX's default backend."""
    return "toom_cook" if jax.default_backend() == "cpu" else "lax"


def convolution(inputs: jax.Array, kernel: jax.Array, stride: int, formulation: str) -> jax.Array:
    """Convolves over time with VALID padding and no bias.

    Differentiable once in reverse mode; `lax` alone also in forward mode and more than once.

    Args:
      inputs: float[batch, time, channels_in].
      kernel: float[taps, channels_in, channels_out], of the same dtype.
      stride: the step in time, at least 1.
      formulation: one of `FORMULATIONS`; the result is the same up to rounding.

    Returns:
      float[batch, time_out, channels_out] of the same dtype,
      `time_out = max(0, (time - taps) // stride + 1)`.

    Raises:
      ValueError: an unknown formulation, or shapes, dtypes or a stride that do not fit.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"formulation {formulation!r} is none of {', '.join(FORMULATIONS)}")
    if inputs.ndim != 3 or kernel.ndim != 3 or inputs.shape[2] != kernel.shape[1]:
        raise ValueError(
            f"inputs {inputs.shape} and kernel {kernel.shape} are not "
            "[batch, time, channels_in] and [taps, channels_in, channels_out]"
        )
    if inputs.dtype != kernel.dtype:
        raise ValueError(f"inputs are {inputs.dtype} but the kernel is {kernel.dtype}")
    if stride < 1 or kernel.shape[0] < 1:
        raise ValueError(f"stride {stride} and taps {kernel.shape[0]} must be at least 1")
    if formulation == "lax":
        return _lax(inputs, kernel, stride)
    # The gradient is traced later: it gets the precision that holds here, as JAX's own would.
    precision = jax.config.jax_default_matmul_precision
    return _convolution(inputs, kernel, stride, formulation == "toom_cook", precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(inputs, kernel, stride, fast, precision):
    if fast and _toom_cook_pays(inputs.shape, kernel.shape, stride):
        return _toom_cook_forward(inputs, kernel, stride)
    return _lax(inputs, kernel, stride)


def _convolution_fwd(inputs, kernel, stride, fast, precision):
    return _convolution(inputs, kernel, stride, fast, precision), (inputs, kernel)


def _convolution_bwd(stride, fast, precision, residuals, cotangent):
    # The two gradients share no loop: XLA drops the one that nobody uses, as in layer 1.
    inputs, kernel = residuals
    if cotangent.size == 0:
        return jnp.zeros_like(inputs), jnp.zeros_like(kernel)
    by_input, by_kernel = _direct_by_input, _direct_by_kernel
    if fast and _toom_cook_pays(inputs.shape, kernel.shape, stride):
        by_input, by_kernel = _toom_cook_by_input, _toom_cook_by_kernel
    with jax.default_matmul_precision(precision):
        return (
            by_input(cotangent, kernel, stride, inputs.shape[1]),
            by_kernel(inputs, cotangent, stride, kernel.shape[0]).astype(kernel.dtype),
        )


_convolution.defvjp(_convolution_fwd, _convolution_bwd)


def _toom_cook_pays(input_shape, kernel_shape, stride):
    """Whether Toom-Cook beats the direct form: layers 2 to 6 of Table II.

    Clips must be long enough to fill tiles, channels many enough for the matrix products to
    outweigh the transforms, and r such that a tile saves multiplications (1 < r < 8).
    """
    taps, channels_in, channels_out = kernel_shape
    return (
        1 < -(-taps // stride) < _POINTS
        and min(stride * channels_in, channels_out) >= _WIDE
        and _time_out(input_shape[1], taps, stride) >= _LONG
    )


def _lax(inputs, kernel, stride):
    return lax.conv_general_dilated(inputs, kernel, (stride,), "VALID", dimension_numbers=_LAYOUT)


def _time_out(time, taps, stride):
    return max(0, (time - taps) // stride + 1)


# The space-to-depth grid.


def _pad_time(x, before, after):
    """Pads (or, where negative, cuts) the time axis with zeros."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (before, after, 0), (0, 0, 0)))


def _to_grid(x, stride):
    """[batch, n stride, channels] -> [batch, n, stride channels]."""
    return x.reshape(x.shape[0], -1, stride * x.shape[2])


def _from_grid(x, stride):
    """[batch, n, stride channels] -> [batch, n stride, channels]."""
    return x.reshape(x.shape[0], x.shape[1] * stride, -1)


def _grid_kernel(kernel, stride):
    """[taps, channels_in, channels_out] -> [r, stride channels_in, channels_out]."""
    taps, _, channels_out = kernel.shape
    r = -(-taps // stride)
    return jnp.pad(kernel, ((0, r * stride - taps), (0, 0), (0, 0))).reshape(r, -1, channels_out)


def _from_grid_kernel(grid_kernel, taps, stride):
    """The reverse of `_grid_kernel`."""
    r, _, channels_out = grid_kernel.shape
    return grid_kernel.reshape(r * stride, -1, channels_out)[:taps]


def _flipped(grid_kernel):
    return jnp.flip(grid_kernel, 0).swapaxes(1, 2)


# The direct form.


def _direct_by_input(cotangent, kernel, stride, time):
    """The gradient with respect to the inputs, float[batch, time, channels_in].

    One convolution of the padded cotangent. Where padding would be most of it, each cotangent is
    multiplied by all taps and the products are added up, shifted.
    """
    time_out = cotangent.shape[1]
    grid_kernel = _grid_kernel(kernel, stride)
    r = len(grid_kernel)
    if time_out > 2 * r:
        grid = lax.conv_general_dilated(
            cotangent, _flipped(grid_kernel), (1,), [(r - 1, r - 1)], dimension_numbers=_LAYOUT
        )
    else:
        products = [cotangent @ taps.T for taps in grid_kernel]
        shifted = [_pad_time(product, j, r - 1 - j) for j, product in enumerate(products)]
        grid = functools.reduce(jnp.add, shifted)
    gradient = _from_grid(grid, stride)
    return _pad_time(gradient, 0, time - gradient.shape[1])


def _direct_by_kernel(inputs, cotangent, stride, taps):
    """The gradient with respect to the kernel, at least float32[taps, channels_in, channels_out].

    One matrix product [s channels_in, time] x [time, r channels_out], or, where this copies less,
    [r s channels_in, time_out] x [time_out, channels_out]; long clips one at a time.
    """
    time_out, channels_out = cotangent.shape[1:]
    r = -(-taps // stride)
    n = time_out + r - 1
    grid = _to_grid(_pad_time(inputs, 0, n * stride - inputs.shape[1]), stride)
    width = grid.shape[2]
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)

    # Time goes last in the copied side: a matrix product over the first axes of both sides runs at
    # about half the speed of the usual one.
    def product(left, right):
        return lax.dot_general(
            left, right, (((0, 2), (0, 1)), ((), ())), preferred_element_type=dtype
        )

    def widen_inputs(x, dy):
        x = x.swapaxes(1, 2)
        shifted = jnp.concatenate([x[:, :, j : j + time_out] for j in range(r)], 1)
        return product(shifted, dy).reshape(r, width, channels_out)

    def widen_cotangent(x, dy):
        dy = _pad_time(dy, r - 1, r - 1).swapaxes(1, 2)
        shifted = jnp.concatenate([dy[:, :, r - 1 - j : r - 1 - j + n] for j in range(r)], 1)
        return product(shifted, x).reshape(r, channels_out, width).swapaxes(1, 2)

    one = widen_inputs if time_out * width <= n * channels_out else widen_cotangent
    if time_out > 3 * _LONG:
        total = jnp.zeros((r, width, channels_out), dtype)

        def add(total, clip):
            return total + one(clip[0][None], clip[1][None]), None

        total, _ = lax.scan(add, total, (grid, cotangent))
    else:
        total = one(grid, cotangent)
    return _from_grid_kernel(total, taps, stride)


# Toom-Cook.


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


def _combine(coefficients, arrays):
    """The linear combination, without the terms that are zero."""
    terms = [
        array if coefficient == 1 else float(coefficient) * array
        for coefficient, array in zip(coefficients, arrays, strict=True)
        if coefficient
    ]
    return functools.reduce(jnp.add, terms)


def _tile_rows(x, tile, tiles, n):
    """Row i of every tile: n arrays [clips, tiles, channels] of x [clips, >= rows, channels]."""
    return [lax.slice_in_dim(x, i, i + tile * (tiles - 1) + 1, tile, 1) for i in range(n)]


def _block(x, clip, row, clips, rows, stride, dtype):
    """Rows of the grid of some clips: [clips, rows, stride channels]."""
    block = lax.dynamic_slice(x, (clip, row * stride, 0), (clips, rows * stride, x.shape[2]))
    return lax.optimization_barrier(_to_grid(block, stride).astype(dtype))


def _correlate(x, x_stride, grid_kernel, blocks, out, out_row, out_stride):
    """Writes the correlation of x's grid with the taps into `out`'s grid, from `out_row` on.

    Rows 0 .. blocks.rows of the result are written.
    """
    r, _, channels_out = grid_kernel.shape
    tile = _POINTS + 1 - r
    a, g, bt = toom_cook.matrices(tile, r)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    transformed = [_combine(row, list(grid_kernel.astype(dtype))) for row in g]

    def body(index, out):
        clip, first = blocks.start(index)
        row = first * tile
        rows = _block(x, clip, row, blocks.clips, blocks.tiles * tile + r - 1, x_stride, dtype)
        rows = _tile_rows(rows, tile, blocks.tiles, _POINTS)
        products = [
            _combine(coefficients, rows) @ weights
            for coefficients, weights in zip(bt, transformed, strict=True)
        ]
        result = jnp.stack([_combine(column, products) for column in zip(*a, strict=True)], 2)
        result = result.reshape(blocks.clips, -1, channels_out).astype(out.dtype)
        at = (clip, (out_row + row) * out_stride, 0)
        return lax.dynamic_update_slice(out, _from_grid(result, out_stride), at)

    return lax.fori_loop(0, blocks.number, body, out)


def _toom_cook_forward(inputs, kernel, stride):
    batch, time, _ = inputs.shape
    taps, _, channels_out = kernel.shape
    time_out = _time_out(time, taps, stride)
    grid_kernel = _grid_kernel(kernel, stride)
    r, width, _ = grid_kernel.shape
    blocks = _Blocks.of(batch, time // stride - r + 1, _POINTS + 1 - r, width + channels_out)
    out = jnp.zeros((batch, time_out, channels_out), inputs.dtype)
    out = _correlate(inputs, stride, grid_kernel, blocks, out, 0, 1)
    if blocks.rows < time_out:
        rest = _lax(inputs[:, blocks.rows * stride :], kernel, stride)
        out = lax.dynamic_update_slice(out, rest, (0, blocks.rows, 0))
    return out


def _toom_cook_by_input(cotangent, kernel, stride, time):
    batch, time_out, channels_out = cotangent.shape
    grid_kernel = _grid_kernel(kernel, stride)
    r, width, _ = grid_kernel.shape
    ends = r - 1
    blocks = _Blocks.of(batch, time_out - ends, _POINTS + 1 - r, width + channels_out)
    out = jnp.zeros((batch, time, kernel.shape[1]), cotangent.dtype)
    out = _correlate(cotangent, 1, _flipped(grid_kernel), blocks, out, ends, stride)
    # Rows before `ends` see the first cotangents alone, rows from ends + blocks.rows the last.
    first = _direct_by_input(cotangent[:, :ends], kernel, stride, ends * stride)
    out = lax.dynamic_update_slice(out, first, (0, 0, 0))
    last = _direct_by_input(
        cotangent[:, blocks.rows :], kernel, stride, time - blocks.rows * stride
    )[:, ends * stride :]
    return lax.dynamic_update_slice(out, last, (0, (ends + blocks.rows) * stride, 0))


def _toom_cook_by_kernel(inputs, cotangent, stride, taps):
    batch, time, channels_in = inputs.shape
    time_out, channels_out = cotangent.shape[1:]
    r = -(-taps // stride)
    width = stride * channels_in
    tile = _POINTS + 1 - r
    a, g, bt = toom_cook.matrices(tile, r)
    blocks = _Blocks.of(batch, time // stride - r + 1, tile, width + channels_out)
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)

    def body(index, totals):
        clip, first = blocks.start(index)
        row = first * tile
        x = _block(inputs, clip, row, blocks.clips, blocks.tiles * tile + r - 1, stride, dtype)
        dy = _block(cotangent, clip, row, blocks.clips, blocks.tiles * tile, 1, dtype)
        # [tile, channels_out, tiles]: a matrix product over the first axes of both sides runs at
        # about half the speed of the usual one, and dy is the smaller side.
        dy = dy.reshape(-1, tile, channels_out).transpose(1, 2, 0)
        dy = list(lax.optimization_barrier(dy))
        x = [rows.reshape(-1, width) for rows in _tile_rows(x, tile, blocks.tiles, _POINTS)]
        return [
            total + _combine(e, dy) @ _combine(b, x)
            for total, b, e in zip(totals, bt, a, strict=True)
        ]

    totals = [jnp.zeros((channels_out, width), dtype)] * _POINTS
    totals = lax.fori_loop(0, blocks.number, body, totals)
    gradient = jnp.stack([_combine(column, totals) for column in zip(*g, strict=True)])
    gradient = _from_grid_kernel(gradient.swapaxes(1, 2), taps, stride)
    if blocks.rows < time_out:
        gradient += _direct_by_kernel(
            inputs[:, blocks.rows * stride :], cotangent[:, blocks.rows :], stride, taps
        )
    return gradient
