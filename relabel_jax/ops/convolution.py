"""Strided 1-D convolution over time, in three formulations of the same sum.

    y[b, t, f] = sum over j, c of x[b, t stride + j, c] w[j, c, f],   t = 0 .. (T - n) // stride,

for a kernel of size n, with VALID padding and without a bias. These sums are nearly all of the
arithmetic of the paper's network (Table II), so they determine the speed of training:

- `lax`: `lax.conv_general_dilated` and JAX's gradients. For accelerators, and as the reference.
- `direct`: the same sums in forms that XLA's CPU compiler computes fast (`direct.py`).
- `toom_cook`: fewer multiplications in the layers where this is faster (`toom_cook.py`), `direct`
  in the others. For CPUs.

In bfloat16 multiplications are not the bottleneck. There `direct` and `toom_cook` are the same:
long layers are matrix products with all taps side by side (`im2col.py`).

The form is chosen by static shapes, so all of this works under jit, grad, vmap, scan and map.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from relabel_jax.ops import blocked, direct, grouped_time, im2col, space_to_depth, toom_cook
from relabel_jax.ops.deferred import Deferred
from relabel_jax.ops.elementwise import Epilogue, Prologue, Summands
from relabel_jax.ops.formulation import Formulation

_NO_EPILOGUE = Epilogue(lambda outputs: outputs, lambda values: ())


def convolution(
    inputs: jax.Array, kernel: jax.Array, stride: int, formulation: Formulation
) -> jax.Array:
    """Convolves over time with VALID padding and no bias.

    It is differentiable once, in reverse mode. With `lax` it is also differentiable in forward mode
    and more than once.

    Args:
      inputs: float[batch, time, channels_in].
      kernel: float[kernel_size, channels_in, channels_out], of the same dtype.
      stride: the step in time, at least 1.
      formulation: how it is computed. The result is the same up to rounding.

    Returns:
      float[batch, time_out, channels_out] of the same dtype, with
      `time_out = max(0, (time - kernel_size) // stride + 1)`.

    Raises:
      ValueError: the shapes, dtypes or stride do not fit.
    """
    check(inputs, kernel, stride)
    group = grouped_time.group(inputs.shape, kernel.shape, stride, formulation)
    if group > 1:
        return grouped_time.convolve(inputs, kernel, stride, group).steps()
    if formulation.uses_lax:
        return direct.convolve(inputs, kernel, stride)
    # JAX traces the gradient later, but the gradient must have the precision that is set now.
    precision = jax.config.jax_default_matmul_precision
    return _convolution(inputs, kernel, stride, formulation, precision)


def check(inputs: jax.Array | Deferred, kernel: jax.Array, stride: int) -> None:
    """Raises ValueError if the arguments of a convolution do not fit each other."""
    if len(inputs.shape) != 3 or kernel.ndim != 3 or inputs.shape[2] != kernel.shape[1]:
        raise ValueError(
            f"inputs {inputs.shape} and kernel {kernel.shape} are not "
            "[batch, time, channels_in] and [kernel_size, channels_in, channels_out]"
        )
    if inputs.dtype != kernel.dtype:
        raise ValueError(f"inputs are {inputs.dtype} but the kernel is {kernel.dtype}")
    if stride < 1 or kernel.shape[0] < 1:
        raise ValueError(f"stride {stride} and kernel size {kernel.shape[0]} must be at least 1")


def uses_im2col(
    input_shape: Sequence[int],
    dtype: jnp.dtype,
    kernel_shape: Sequence[int],
    stride: int,
    formulation: Formulation,
) -> bool:
    """Whether a convolution is computed in blocks by im2col."""
    return (
        not formulation.uses_lax
        and jnp.dtype(dtype).name in formulation.tuning.im2col_dtypes
        and im2col.pays(input_shape, kernel_shape, stride, formulation.tuning)
    )


def uses_toom_cook(
    input_shape: Sequence[int],
    dtype: jnp.dtype,
    kernel_shape: Sequence[int],
    stride: int,
    formulation: Formulation,
) -> bool:
    """Whether a convolution is computed in blocks by Toom-Cook."""
    return (
        formulation.name == "toom_cook"
        and jnp.dtype(dtype).name not in formulation.tuning.im2col_dtypes
        and jnp.finfo(dtype).bits >= 32
        and toom_cook.pays(input_shape, kernel_shape, stride, formulation.tuning)
    )


def in_blocks(
    input_shape: Sequence[int],
    dtype: jnp.dtype,
    kernel_shape: Sequence[int],
    stride: int,
    formulation: Formulation,
) -> bool:
    """Whether a convolution is computed block by block (`blocked.py`), not in the direct form."""
    arguments = input_shape, dtype, kernel_shape, stride, formulation
    return uses_im2col(*arguments) or uses_toom_cook(*arguments)


def _form(inputs, kernel, stride, formulation) -> blocked.Form | None:
    """Returns the form that multiplies blocks, or None if the direct form is faster."""
    arguments = inputs.shape, inputs.dtype, kernel.shape, stride, formulation
    if uses_im2col(*arguments):
        return im2col.Im2Col.of(kernel, stride, formulation.tuning)
    if uses_toom_cook(*arguments):
        return toom_cook.ToomCook.of(kernel, stride)
    return None


def forward(
    inputs: jax.Array | Deferred,
    kernel: jax.Array,
    stride: int,
    formulation: Formulation,
    epilogue: Epilogue,
    out: jax.Array | None = None,
) -> tuple[jax.Array, Summands]:
    """The convolution and its epilogue, not differentiable, for formulations other than `lax`.

    Args:
      inputs, kernel, stride, formulation: see `convolution`. Deferred inputs require `in_blocks`.
      out: an array to write the values to. Its own values are not read.

    Returns:
      The epilogue's values [batch, time_out, channels_out] and its sums by channel.
    """
    form = _form(inputs, kernel, stride, formulation)
    if form is None:
        assert not isinstance(inputs, Deferred)
        return direct.forward(inputs, kernel, stride, epilogue, formulation, out)
    read = inputs.rows if isinstance(inputs, Deferred) else space_to_depth.row_reader(inputs)
    return blocked.forward(form, inputs.shape, read, kernel, stride, epilogue, formulation, out)


def backward(
    inputs: jax.Array,
    kernel: jax.Array,
    stride: int,
    formulation: Formulation,
    arrays: tuple[jax.Array, ...],
    prologue: Prologue,
    dx: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Summands]:
    """The gradients of `forward` for the outputs' cotangent `prologue(*arrays)`.

    Args:
      inputs, kernel, stride, formulation: see `convolution`.
      arrays: [batch, time_out, channels_out] each.
      dx: an array to write the gradient by the inputs to. Its own values are not read.

    Returns:
      The gradient by the inputs, the gradient by the kernel, and the prologue's sums by channel.
    """
    form = _form(inputs, kernel, stride, formulation)
    if form is None:
        gradients = direct.backward(inputs, kernel, stride, arrays, prologue, formulation)
    else:
        gradients = blocked.backward(
            form, inputs, kernel, stride, arrays, prologue, formulation, dx
        )
    input_gradient, kernel_gradient, sums = gradients
    return input_gradient, kernel_gradient.astype(kernel.dtype), sums


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(inputs, kernel, stride, formulation, precision):
    return forward(inputs, kernel, stride, formulation, _NO_EPILOGUE)[0]


def _convolution_fwd(inputs, kernel, stride, formulation, precision):
    return _convolution(inputs, kernel, stride, formulation, precision), (inputs, kernel)


def _convolution_bwd(stride, formulation, precision, residuals, cotangent):
    if cotangent.size == 0:
        return jax.tree.map(jnp.zeros_like, residuals)
    with jax.default_matmul_precision(precision):
        input_gradient, kernel_gradient, _ = backward(
            *residuals, stride, formulation, (cotangent,), lambda cotangent: (cotangent, ())
        )
    return input_gradient, kernel_gradient


_convolution.defvjp(_convolution_fwd, _convolution_bwd)
