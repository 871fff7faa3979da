"""The convolution's direct sums, in forms that XLA's CPU compiler is fast at.

The forward is `lax.conv_general_dilated`. The gradients are plain NWC/WIO/NWC convolutions and
matrix products on the space-to-depth grid (`space_to_depth.py`). JAX's own weight gradient swaps
batch and channels, which inside `lax.scan` falls back to a scalar loop, 10 times slower and more
(https://github.com/jax-ml/jax/issues/12868).

Long clips of few channels, as waveforms are, go in parts that stay in cache, with what is done
elementwise (`elementwise.py`): backward, and forward where each core is a device. Backward, other
long clips go in pairs. Else XLA's fusion over whole arrays is the faster one.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from relabel_jax.ops import cpu_devices, space_to_depth
from relabel_jax.ops.elementwise import After, Before, add_sums, no_sums, row_sums, unwritten

# The length from which clips go in pairs.
_LONG = 300
# Rows of a part. Measured on 2 cores with 2 MiB of L2 cache each; 512 to 2048 are equal.
_PART = 2048
_FEW_PRODUCTS = 32  # a value


def convolve(inputs: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The convolution itself: [batch, time, channels_in] -> [batch, time_out, channels_out]."""
    return lax.conv_general_dilated(
        inputs, kernel, (stride,), "VALID", dimension_numbers=space_to_depth.LAYOUT
    )


def in_parts(input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int) -> bool:
    """Whether `forward` goes part by part if it is given an array to write to."""
    rows = space_to_depth.time_out(input_shape[1], kernel_shape[0], stride)
    return few_products(kernel_shape) and rows > _LONG and not cpu_devices.cores_share()


def forward(
    inputs: jax.Array, kernel: jax.Array, stride: int, after: After, out: jax.Array | None = None
):
    """`after` of the convolution: (values [batch, time_out, channels_out], sums).

    Args:
      out: an array for the values to be written to, part by part; its own are not read.
    """
    if out is None:
        values = after.values(convolve(inputs, kernel, stride))
        return values, row_sums(after.addends(values))
    batch, rows, _ = out.shape
    chunks, own = _parts(rows)

    def of_rows(clip, row, clips, rows, out, sums):
        length = (rows - 1) * stride + len(kernel)
        x = space_to_depth.stored(inputs)(clip, row * stride, clips, length)
        out, values = space_to_depth.store(
            out, after.values(convolve(x, kernel, stride)), clip, row
        )
        return out, add_sums(sums, after.addends(values))

    def body(index, carry):
        return of_rows(index // chunks, index % chunks * own, 1, own, *carry)

    carry = out, no_sums(after.addends, out)
    carry = lax.fori_loop(0, batch * chunks, body, carry)
    at = chunks * own
    return of_rows(0, at, batch, rows - at, *carry) if at < rows else carry


def backward(
    inputs: jax.Array, kernel: jax.Array, stride: int, arrays: tuple[jax.Array, ...], before: Before
):
    """The gradients for the cotangent `before(*arrays)`: (by inputs, by kernel, sums)."""
    batch, rows, _ = arrays[0].shape
    taps = kernel.shape[0]

    if rows <= _LONG:
        dy, addends = before(*arrays)
        dx = by_input(dy, kernel, stride, inputs.shape[1])
        return dx, by_kernel(inputs, dy, stride, taps), row_sums(addends)

    if few_products(kernel.shape):
        dw, sums = _kernel_gradient_in_parts(inputs, stride, taps, arrays, before)
        # Waveforms need no gradient, and what nobody asks for is not computed.
        return by_input(before(*arrays)[0], kernel, stride, inputs.shape[1]), dw, sums

    # In pairs, with a product for each clip: a single small one has no parts for threads.
    clips = 2 - batch % 2

    def body(index, carry):
        dx, dw, sums = carry
        at = (index * clips, 0, 0)
        x, *of_clips = (lax.dynamic_slice(a, at, (clips, *a.shape[1:])) for a in (inputs, *arrays))
        dy, addends = before(*of_clips)
        dx_clips = by_input(dy, kernel, stride, x.shape[1])
        dx = lax.dynamic_update_slice(dx, dx_clips, at)
        products = jax.vmap(lambda x, dy: by_kernel(x[None], dy[None], stride, taps))(x, dy)
        return dx, dw + products.sum(0), add_sums(sums, addends)

    dx = unwritten(inputs.shape, kernel)
    dw = jnp.zeros(kernel.shape, jnp.promote_types(inputs.dtype, jnp.float32))
    sums = no_sums(lambda *arrays: before(*arrays)[1], *arrays)
    return lax.fori_loop(0, batch // clips, body, (dx, dw, sums))


def few_products(kernel_shape: Sequence[int]) -> bool:
    """Whether a value takes so few that memory is what its layer waits for: layer 1 of Table II."""
    taps, channels_in, _ = kernel_shape
    return taps * channels_in < _FEW_PRODUCTS


def _parts(rows: int) -> tuple[int, int]:
    """Of a clip, and the rows of each; fewer than there are parts are left over."""
    chunks = max(1, rows // _PART)
    return chunks, rows // chunks


def _kernel_gradient_in_parts(inputs, stride, taps, arrays, before):
    """The gradient by the kernel, and the sums."""
    batch, rows, _ = arrays[0].shape
    chunks, own = _parts(rows)

    def of_rows(x, *arrays):
        dy, addends = before(*arrays)
        # In memory once: the product would compute it again.
        dy = lax.optimization_barrier(dy)
        return by_kernel(x, dy, stride, taps), row_sums(addends)

    def body(index, totals):
        clip, row = index // chunks, index % chunks * own
        x = space_to_depth.stored(inputs)(clip, row * stride, 1, (own - 1) * stride + taps)
        part = of_rows(x, *(space_to_depth.stored(array)(clip, row, 1, own) for array in arrays))
        return jax.tree.map(jnp.add, totals, part)

    at = chunks * own
    rest = of_rows(inputs[:, at * stride :], *(array[:, at:] for array in arrays))
    return lax.fori_loop(0, batch * chunks, body, rest)


def by_input(cotangent: jax.Array, kernel: jax.Array, stride: int, time: int) -> jax.Array:
    """The gradient with respect to the inputs, float[batch, time, channels_in].

    One convolution of the padded cotangent. Where padding would be most of it, each cotangent is
    multiplied by all taps and the products are added up, shifted.
    """
    of_grid = space_to_depth.grid_kernel(kernel, stride)
    r = len(of_grid)
    if cotangent.shape[1] > 2 * r:
        on_grid = lax.conv_general_dilated(
            cotangent,
            space_to_depth.flipped(of_grid),
            (1,),
            [(r - 1, r - 1)],
            dimension_numbers=space_to_depth.LAYOUT,
        )
    else:
        products = [cotangent @ taps.T for taps in of_grid]
        shifted = [
            space_to_depth.pad_time(product, j, r - 1 - j) for j, product in enumerate(products)
        ]
        on_grid = functools.reduce(jnp.add, shifted)
    gradient = space_to_depth.from_grid(on_grid, stride)
    return space_to_depth.pad_time(gradient, 0, time - gradient.shape[1])


def by_kernel(inputs: jax.Array, cotangent: jax.Array, stride: int, taps: int) -> jax.Array:
    """The gradient with respect to the kernel, at least float32[taps, channels_in, channels_out].

    One matrix product [s channels_in, time] x [time, r channels_out], or, where this copies less,
    [r s channels_in, time_out] x [time_out, channels_out].
    """
    time_out, channels_out = cotangent.shape[1:]
    r = -(-taps // stride)
    n = time_out + r - 1
    x = space_to_depth.to_grid(
        space_to_depth.pad_time(inputs, 0, n * stride - inputs.shape[1]), stride
    )
    width = x.shape[2]
    dtype = jnp.promote_types(inputs.dtype, jnp.float32)

    # Time goes last in the copied side: a matrix product over the first axes of both sides runs at
    # about half the speed of the usual one.
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
    return space_to_depth.from_grid_kernel(gradient, taps, stride)
