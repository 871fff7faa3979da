"""The convolution block by block, so that what a block takes stays in cache.

How a block is multiplied is a `Form`'s affair (`tiles.py`, `shifted.py`). Here is what all of them
share: the split into blocks, what is done elementwise before and after (`elementwise.py`), and the
few rows at the ends that fill no block. These are done by `direct.py`, which saves padding, that is
copying, the large arrays.

Where cores share a block they do two a turn: part of what a block takes runs on one core, and the
other block then has work for the rest.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.ops import cpu_devices, direct, space_to_depth
from relabel_jax.ops.elementwise import After, Before, add_sums, no_sums, unwritten


def _unroll() -> int:
    """Blocks a turn."""
    return 2 if cpu_devices.cores_share() else 1


def _block_bytes() -> int:
    """What a block may take in its largest arrays.

    What cores share must be worth dividing; a core by itself is faster on what its cache holds.
    Measured on 2 cores with 2 MiB of L2 cache each: as one device, blocks of 1 and 2 MiB are 13 and
    5% slower than of 4; as two, 1 MiB is 7% faster in bfloat16, and float32 the same.
    """
    return (4 if cpu_devices.cores_share() else 1) << 20


class Form(Protocol):
    """A way to multiply a block of rows of the grid by a kernel.

    Attributes:
      tile: rows of the result come in multiples of it.
      tile_bytes: what these take in a block's largest arrays.
      halo: rows beyond its own that a row of the result sees.
    """

    @property
    def tile(self) -> int: ...
    @property
    def tile_bytes(self) -> int: ...
    @property
    def halo(self) -> int: ...

    def outputs(self) -> Callable[[jax.Array], jax.Array]:
        """x [clips, rows + halo, width] -> y [clips, rows, channels_out]."""

    def gradients(self) -> tuple[Any, Callable[[jax.Array, jax.Array], tuple[jax.Array, Any]]]:
        """Zeros, and a function of a block of dy and one of x.

        (dy [clips, rows + halo, channels_out], x [clips, rows, width]) -> dx of x's shape, and x's
        part of the gradient by the kernel, to be added to the zeros. Row 0 of x is row `halo` of
        dy.
        """

    def by_kernel(self, totals: Any) -> jax.Array:
        """The gradient [taps, channels_in, channels_out] from the sum of all parts."""


class Blocks(NamedTuple):
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
    def of(cls, form: Form, batch: int, outputs: int) -> "Blocks":
        """For `outputs` a clip."""
        tiles = outputs // form.tile
        most = max(1, _block_bytes() // form.tile_bytes)
        chunks = -(-tiles // most)
        clips = max(
            c for c in range(1, batch + 1) if batch % c == 0 and c * tiles <= max(most, tiles)
        )
        tiles //= chunks
        return cls(clips, tiles, chunks, batch // clips * chunks, chunks * tiles * form.tile)

    def start(self, index):
        """(first clip, first tile) of a block."""
        return index // self.chunks * self.clips, index % self.chunks * self.tiles


def _block(x, clip, row, clips, rows, stride):
    """Rows of the grid of some clips: [clips, rows, stride channels]."""
    return space_to_depth.to_grid(
        space_to_depth.stored(x)(clip, row * stride, clips, rows * stride), stride
    )


def forward(
    form: Form,
    shape: Sequence[int],
    inputs: space_to_depth.Rows,
    kernel: jax.Array,
    stride: int,
    after: After,
    out: jax.Array | None = None,
):
    """`after` of the convolution: (values [batch, time_out, channels_out], sums).

    Args:
      shape: of all inputs.
      out: an array for the values to be written to; its own are not read.
    """
    batch, time, _ = shape
    taps, _, channels_out = kernel.shape
    blocks = Blocks.of(form, batch, time // stride - form.halo)
    own = blocks.tiles * form.tile
    outputs = form.outputs()

    def body(index, carry):
        out, sums = carry
        clip, first = blocks.start(index)
        row = first * form.tile
        x = inputs(clip, row * stride, blocks.clips, (own + form.halo) * stride)
        values = after.values(outputs(space_to_depth.to_grid(x, stride))).astype(kernel.dtype)
        out, values = space_to_depth.store(out, values, clip, row)
        return out, add_sums(sums, after.addends(values))

    if out is None:
        out = unwritten((batch, space_to_depth.time_out(time, taps, stride), channels_out), kernel)
    sums = no_sums(after.addends, out)
    out, sums = lax.fori_loop(0, blocks.number, body, (out, sums), unroll=_unroll())
    at_end = blocks.rows * stride
    x = inputs(0, at_end, batch, time - at_end)
    rest = after.values(direct.convolve(x, kernel, stride))
    out = lax.dynamic_update_slice(out, rest, (0, blocks.rows, 0))
    return out, add_sums(sums, after.addends(rest))


def backward(
    form: Form,
    inputs: jax.Array,
    kernel: jax.Array,
    stride: int,
    arrays: tuple[jax.Array, ...],
    before: Before,
    dx: jax.Array | None = None,
):
    """The gradients for the cotangent `before(*arrays)`: (by inputs, by kernel, sums).

    Args:
      dx: an array for the one by inputs to be written to; its own values are not read.
    """
    batch, time, _ = inputs.shape
    halo = form.halo
    blocks = Blocks.of(form, batch, arrays[0].shape[1] - halo)
    own = blocks.tiles * form.tile
    zeros, gradients = form.gradients()

    def body(index, carry):
        dx, totals, sums = carry
        clip, first = blocks.start(index)
        row = first * form.tile
        dy, addends = before(*(_block(x, clip, row, blocks.clips, own + halo, 1) for x in arrays))
        dy = lax.optimization_barrier(dy)
        sums = add_sums(sums, [addend[:, :own] for addend in addends])
        x = _block(inputs, clip, halo + row, blocks.clips, own, stride)
        dx_block, part = gradients(dy, x)
        at = (clip, (halo + row) * stride, 0)
        dx_block = space_to_depth.from_grid(dx_block.astype(dx.dtype), stride)
        dx = lax.dynamic_update_slice(dx, dx_block, at)
        return dx, jax.tree.map(jnp.add, totals, part), sums

    if dx is None:
        dx = unwritten(inputs.shape, kernel)
    sums = no_sums(lambda *arrays: before(*arrays)[1], *arrays)
    carry = dx, zeros, sums
    dx, totals, sums = lax.fori_loop(0, blocks.number, body, carry, unroll=_unroll())
    gradient = form.by_kernel(totals)

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
    rest = space_to_depth.pad_time(inputs[:, at_end * stride :], halo * stride, 0)
    gradient += direct.by_kernel(rest, last, stride, len(kernel))
    return dx, gradient, add_sums(sums, addends)
