"""The convolution block by block, so that the arrays of a block stay in cache.

A `Form` multiplies one block (`toom_cook.py`, `im2col.py`). This module has the parts that all
forms share: the split into blocks, the elementwise work before and after (`elementwise.py`), and
the few rows at the ends that do not fill a block. The direct form computes these rows
(`direct.py`), because padding them to a block would copy the large arrays.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.ops import direct, space_to_depth
from relabel_jax.ops.elementwise import (
    Epilogue,
    Prologue,
    Summands,
    add_channel_sums,
    scratch,
    zero_sums,
)
from relabel_jax.ops.formulation import Formulation


class Form(Protocol):
    """Multiplies blocks of rows of the grid (`space_to_depth.py`) by one kernel.

    Attributes:
      tile: output rows in a tile; the output rows of a block are a multiple of it.
      tile_bytes: the size of a tile's part of a block's largest arrays.
      halo: the number of later input rows that an output row depends on.
    """

    @property
    def tile(self) -> int: ...
    @property
    def tile_bytes(self) -> int: ...
    @property
    def halo(self) -> int: ...

    def outputs(self) -> Callable[[jax.Array], jax.Array]:
        """Returns the function that maps a block of the inputs x [clips, rows + halo, width] to
        its outputs y [clips, rows, channels_out]."""

    def gradients(self) -> tuple[Any, Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]]:
        """Returns zeros, and the function that computes a block's gradients.

        The function maps dy [clips, rows + halo, channels_out] and x [clips, rows, width] to dx,
        which has x's shape, and to the block's part of the gradient by the kernel. The caller adds
        these parts to the zeros. Row 0 of x is row `halo` of dy.
        """

    def kernel_gradient(self, totals: Any) -> jax.Array:
        """The gradient [kernel_size, channels_in, channels_out] from the sum of all parts."""


class Blocks(NamedTuple):
    """A split of the outputs [batch, rows] on the grid into equal blocks of whole tiles.

    A block is a part of one clip if clips are long, or several whole clips if they are short.

    Attributes:
      clips: clips in a block.
      tiles: tiles of each clip in a block.
      tile: output rows in a tile.
      per_clip: blocks that cover a clip.
      number: blocks that cover the batch.
    """

    clips: int
    tiles: int
    tile: int
    per_clip: int
    number: int

    @classmethod
    def of(cls, form: Form, batch: int, rows: int, block_bytes: int) -> "Blocks":
        """The split for `rows` output rows a clip, into blocks of at most `block_bytes`.

        A block has at least one tile, even if this is larger.
        """
        tiles = rows // form.tile
        most = max(1, block_bytes // form.tile_bytes)
        per_clip = -(-tiles // most)
        clips = max(
            c for c in range(1, batch + 1) if batch % c == 0 and c * tiles <= max(most, tiles)
        )
        return cls(clips, tiles // per_clip, form.tile, per_clip, batch // clips * per_clip)

    @property
    def rows(self) -> int:
        """Output rows of each clip in a block."""
        return self.tiles * self.tile

    @property
    def rows_per_clip(self) -> int:
        """Output rows of each clip in all blocks together."""
        return self.per_clip * self.rows

    def start(self, index):
        """(first clip, first output row) of a block."""
        clip = index // self.per_clip * self.clips
        first_tile = index % self.per_clip * self.tiles
        return clip, first_tile * self.tile


def _grid_rows(x, clip, row, clips, rows, stride):
    """Rows of the grid of some clips: [clips, rows, stride channels]."""
    read = space_to_depth.row_reader(x)
    return space_to_depth.to_grid(read(clip, row * stride, clips, rows * stride), stride)


def forward(
    form: Form,
    input_shape: Sequence[int],
    read: space_to_depth.RowReader,
    kernel: jax.Array,
    stride: int,
    epilogue: Epilogue,
    formulation: Formulation,
    out: jax.Array | None = None,
) -> tuple[jax.Array, Summands]:
    """The convolution and its epilogue.

    Args:
      form: for the kernel and the stride.
      input_shape: (batch, time, channels_in).
      read: reads rows of the inputs.
      kernel, stride: see `convolution.convolution`.
      out: an array to write the values to. Its own values are not read.

    Returns:
      The epilogue's values [batch, time_out, channels_out] and its sums by channel.
    """
    batch, time, _ = input_shape
    kernel_size, _, channels_out = kernel.shape
    blocks = Blocks.of(form, batch, time // stride - form.halo, formulation.block_bytes)
    outputs = form.outputs()

    def body(index, carry):
        out, sums = carry
        clip, row = blocks.start(index)
        x = read(clip, row * stride, blocks.clips, (blocks.rows + form.halo) * stride)
        y = outputs(space_to_depth.to_grid(x, stride))
        values = epilogue.values(y).astype(kernel.dtype)
        out, values = space_to_depth.write_rows(out, values, clip, row, formulation.cores_share)
        return out, add_channel_sums(sums, epilogue.summands(values))

    if out is None:
        length = space_to_depth.time_out(time, kernel_size, stride)
        out = scratch((batch, length, channels_out), kernel)
    carry = out, zero_sums(epilogue.summands, out)
    out, sums = lax.fori_loop(0, blocks.number, body, carry, unroll=formulation.unroll)

    done = blocks.rows_per_clip
    x = read(0, done * stride, batch, time - done * stride)
    rest = epilogue.values(direct.convolve(x, kernel, stride))
    out = lax.dynamic_update_slice(out, rest, (0, done, 0))
    return out, add_channel_sums(sums, epilogue.summands(rest))


def backward(
    form: Form,
    inputs: jax.Array,
    kernel: jax.Array,
    stride: int,
    arrays: tuple[jax.Array, ...],
    prologue: Prologue,
    formulation: Formulation,
    dx: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Summands]:
    """The gradients for the outputs' cotangent `prologue(*arrays)`.

    Args:
      form: for the kernel and the stride.
      inputs, kernel, stride: see `convolution.convolution`.
      arrays: [batch, time_out, channels_out] each.
      dx: an array to write the gradient by the inputs to. Its own values are not read.

    Returns:
      The gradient by the inputs, the gradient by the kernel, and the prologue's sums by channel.
    """
    batch, time, _ = inputs.shape
    halo = form.halo
    blocks = Blocks.of(form, batch, arrays[0].shape[1] - halo, formulation.block_bytes)
    rows = blocks.rows
    zeros, gradients = form.gradients()

    def body(index, carry):
        dx, totals, sums = carry
        clip, row = blocks.start(index)
        dy, summands = prologue(
            *(_grid_rows(array, clip, row, blocks.clips, rows + halo, 1) for array in arrays)
        )
        dy = lax.optimization_barrier(dy)
        sums = add_channel_sums(sums, [summand[:, :rows] for summand in summands])
        x = _grid_rows(inputs, clip, halo + row, blocks.clips, rows, stride)
        dx_block, part = gradients(dy, x)
        at = (clip, (halo + row) * stride, 0)
        dx_block = space_to_depth.from_grid(dx_block.astype(dx.dtype), stride)
        dx = lax.dynamic_update_slice(dx, dx_block, at)
        return dx, jax.tree.map(jnp.add, totals, part), sums

    if dx is None:
        dx = scratch(inputs.shape, kernel)
    sums = zero_sums(lambda *arrays: prologue(*arrays)[1], *arrays)
    dx, totals, sums = lax.fori_loop(
        0, blocks.number, body, (dx, zeros, sums), unroll=formulation.unroll
    )
    gradient = form.kernel_gradient(totals)

    # Two parts of the inputs are in no block. The rows of the grid before `halo` affect the first
    # outputs alone, and the rows from `end` on affect the last outputs alone.
    done = blocks.rows_per_clip
    first, _ = prologue(*(array[:, :halo] for array in arrays))
    last, summands = prologue(*(array[:, done:] for array in arrays))
    end = halo + done
    dx_first = direct.input_gradient(first, kernel, stride, halo * stride)
    dx = lax.dynamic_update_slice(dx, dx_first, (0, 0, 0))
    dx_last = direct.input_gradient(last, kernel, stride, time - done * stride)
    dx = lax.dynamic_update_slice(dx, dx_last[:, halo * stride :], (0, end * stride, 0))
    gradient += direct.kernel_gradient(inputs[:, : halo * stride], first, stride, len(kernel))
    rest = space_to_depth.pad_time(inputs[:, end * stride :], halo * stride, 0)
    gradient += direct.kernel_gradient(rest, last, stride, len(kernel))
    return dx, gradient, add_channel_sums(sums, summands)
