"""The direct sums of the convolution, in forms that XLA's CPU compiler computes fast.

The forward pass is `lax.conv_general_dilated`. The gradients are plain NWC/WIO/NWC convolutions and
matrix products on the space-to-depth grid (`space_to_depth.py`). JAX's gradient by the kernel swaps
batch and channels. Inside `lax.scan` this falls back to a scalar loop that is at least 10 times
slower (https://github.com/jax-ml/jax/issues/12868).

Long clips of few channels, such as waveforms, are computed in parts that stay in cache, together
with the elementwise work (`elementwise.py`). The backward pass always does this; the forward pass
does it if each core is a device. The backward pass computes other long clips in pairs. For all
other clips, XLA's fusion over whole arrays is faster.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.ops import space_to_depth
from relabel_jax.ops.elementwise import (
    Epilogue,
    Prologue,
    Summands,
    add_channel_sums,
    channel_sums,
    scratch,
    zero_sums,
)
from relabel_jax.ops.formulation import Formulation

_FEW_PRODUCTS = 32


def convolve(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution itself: [batch, time, channels_in] -> [batch, time_out, channels_out]."""
    return lax.conv_general_dilated(
        inputs, kernel, (stride,), "VALID", dimension_numbers=space_to_depth.LAYOUT
    )


def in_parts(
    input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int, formulation: Formulation
) -> bool:
    """Whether `forward` should get an array to write to, part by part."""
    rows = space_to_depth.time_out(input_shape[1], kernel_shape[0], stride)
    return (
        memory_bound(kernel_shape)
        and rows > formulation.tuning.long
        and not formulation.cores_share
    )


def memory_bound(kernel_shape: Sequence[int]) -> bool:
    """Whether the layer is memory-bound: an output value takes few products.

    In Table II this is true only of the first layer.
    """
    kernel_size, channels_in, _ = kernel_shape
    return kernel_size * channels_in < _FEW_PRODUCTS


def forward(
    inputs: jax.Array,
    kernel: jax.Array,
    stride: int,
    epilogue: Epilogue,
    formulation: Formulation,
    out: jax.Array | None = None,
) -> tuple[jax.Array, Summands]:
    """The convolution and its epilogue.

    Args:
      inputs, kernel, stride: see `convolution.convolution`.
      out: an array to write the values to, part by part. Its own values are not read.

    Returns:
      The epilogue's values [batch, time_out, channels_out] and its sums by channel.
    """
    if out is None:
        values = epilogue.values(convolve(inputs, kernel, stride))
        return values, channel_sums(epilogue.summands(values))
    batch, num_rows, _ = out.shape
    parts, part_rows = _parts(num_rows, formulation.tuning.part)

    def one_part(clip, row, clips, rows, out, sums):
        length = (rows - 1) * stride + len(kernel)
        x = space_to_depth.row_reader(inputs)(clip, row * stride, clips, length)
        values = epilogue.values(convolve(x, kernel, stride))
        out, values = space_to_depth.write_rows(out, values, clip, row, formulation.cores_share)
        return out, add_channel_sums(sums, epilogue.summands(values))

    def body(index, carry):
        return one_part(index // parts, index % parts * part_rows, 1, part_rows, *carry)

    carry = out, zero_sums(epilogue.summands, out)
    carry = lax.fori_loop(0, batch * parts, body, carry)
    done = parts * part_rows
    return one_part(0, done, batch, num_rows - done, *carry) if done < num_rows else carry


def backward(
    inputs: jax.Array,
    kernel: jax.Array,
    stride: int,
    arrays: tuple[jax.Array, ...],
    prologue: Prologue,
    formulation: Formulation,
) -> tuple[jax.Array, jax.Array, Summands]:
    """The gradients for the outputs' cotangent `prologue(*arrays)`.

    Returns:
      The gradient by the inputs, the gradient by the kernel, and the prologue's sums by channel.
    """
    batch, rows, _ = arrays[0].shape
    time, kernel_size = inputs.shape[1], kernel.shape[0]

    if rows <= formulation.tuning.long:
        dy, summands = prologue(*arrays)
        dx = input_gradient(dy, kernel, stride, time)
        return dx, kernel_gradient(inputs, dy, stride, kernel_size), channel_sums(summands)

    if memory_bound(kernel.shape):
        dw, sums = _kernel_gradient_in_parts(
            inputs, stride, kernel_size, arrays, prologue, formulation.tuning.part
        )
        # XLA removes this computation for waveforms, because their gradient is not used.
        return input_gradient(prologue(*arrays)[0], kernel, stride, time), dw, sums

    # Two clips in a turn, with one matrix product each, because a single small product cannot be
    # divided among threads.
    clips = 2 - batch % 2

    def body(index, carry):
        dx, dw, sums = carry
        at = (index * clips, 0, 0)
        x, *parts = (lax.dynamic_slice(a, at, (clips, *a.shape[1:])) for a in (inputs, *arrays))
        dy, summands = prologue(*parts)
        dx_clips = input_gradient(dy, kernel, stride, x.shape[1])
        dx = lax.dynamic_update_slice(dx, dx_clips, at)
        products = jax.vmap(lambda x, dy: kernel_gradient(x[None], dy[None], stride, kernel_size))(
            x, dy
        )
        return dx, dw + products.sum(0), add_channel_sums(sums, summands)

    dx = scratch(inputs.shape, kernel)
    dw = jnp.zeros(kernel.shape, jnp.promote_types(inputs.dtype, jnp.float32))
    sums = zero_sums(lambda *arrays: prologue(*arrays)[1], *arrays)
    return lax.fori_loop(0, batch // clips, body, (dx, dw, sums))


def _parts(rows: int, part: int) -> tuple[int, int]:
    """(parts of a clip, rows of each). The parts leave out fewer rows than there are parts."""
    parts = max(1, rows // part)
    return parts, rows // parts


def _kernel_gradient_in_parts(inputs, stride, kernel_size, arrays, prologue, part):
    """The gradient by the kernel, and the prologue's sums by channel."""
    batch, num_rows, _ = arrays[0].shape
    parts, rows = _parts(num_rows, part)

    def one_part(x, *arrays):
        dy, summands = prologue(*arrays)
        # Without the barrier the matrix product would compute it a second time.
        dy = lax.optimization_barrier(dy)
        return kernel_gradient(x, dy, stride, kernel_size), channel_sums(summands)

    def body(index, totals):
        clip, row = index // parts, index % parts * rows
        length = (rows - 1) * stride + kernel_size
        x = space_to_depth.row_reader(inputs)(clip, row * stride, 1, length)
        added = one_part(
            x, *(space_to_depth.row_reader(array)(clip, row, 1, rows) for array in arrays)
        )
        return jax.tree.map(jnp.add, totals, added)

    done = parts * rows
    rest = one_part(inputs[:, done * stride :], *(array[:, done:] for array in arrays))
    return lax.fori_loop(0, batch * parts, body, rest)


def input_gradient(cotangent: jax.Array, kernel: jax.Array, stride: int, time: int) -> jax.Array:
    """The gradient by the inputs, float[batch, time, channels_in].

    It is one convolution of the padded cotangent. For short cotangents, which would be mostly
    padding, it is the sum of shifted products with each tap.
    """
    taps = space_to_depth.grid_kernel(kernel, stride)
    r = len(taps)
    if cotangent.shape[1] > 2 * r:
        on_grid = lax.conv_general_dilated(
            cotangent,
            space_to_depth.flipped(taps),
            (1,),
            [(r - 1, r - 1)],
            dimension_numbers=space_to_depth.LAYOUT,
        )
    else:
        products = [cotangent @ tap.T for tap in taps]
        shifted = [
            space_to_depth.pad_time(product, j, r - 1 - j) for j, product in enumerate(products)
        ]
        on_grid = functools.reduce(jnp.add, shifted)
    gradient = space_to_depth.from_grid(on_grid, stride)
    return space_to_depth.pad_time(gradient, 0, time - gradient.shape[1])


def kernel_gradient(
    inputs: jax.Array, cotangent: jax.Array, stride: int, kernel_size: int
) -> jax.Array:
    """The gradient by the kernel, at least float32[kernel_size, channels_in, channels_out].

    It is one matrix product: [s channels_in, time] x [time, r channels_out] or
    [r s channels_in, time_out] x [time_out, channels_out], whichever copies less.
    """
    time_out, channels_out = cotangent.shape[1:]
    r = -(-kernel_size // stride)
    n = time_out + r - 1
    x = space_to_depth.to_grid(
        space_to_depth.pad_time(inputs, 0, n * stride - inputs.shape[1]), stride
    )
    width = x.shape[2]
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)

    # Time is the last axis of the side that is copied anyway: a product over the first axes of both
    # sides runs at about half the speed of the usual one.
    def product(left, right):
        return lax.dot_general(
            left, right, (((0, 2), (0, 1)), ((), ())), preferred_element_type=dtype
        )

    if time_out * width <= n * channels_out:
        x = x.swapaxes(1, 2)
        shifted = jnp.concatenate([x[:, :, j : j + time_out] for j in range(r)], 1)
        gradient = product(shifted, cotangent).reshape(r, width, channels_out)
    else:
        dy = space_to_depth.pad_time(cotangent, r - 1, r - 1).swapaxes(1, 2)
        shifted = jnp.concatenate([dy[:, :, r - 1 - j : r - 1 - j + n] for j in range(r)], 1)
        gradient = product(shifted, x).reshape(r, channels_out, width).swapaxes(1, 2)
    return space_to_depth.from_grid_kernel(gradient, kernel_size, stride)
