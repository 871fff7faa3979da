"""Strided 1-D convolution over time, in three formulations of the same sum.

    y[b, t, f] = sum over j, c of x[b, t stride + j, c] w[j, c, f],   t = 0 .. (T - taps) // stride

VALID padding, no bias, no flip of the taps (what the field calls a convolution). This is nearly all
arithmetic of the network (Table II), so its form decides the speed of a training:

- `lax`: `lax.conv_general_dilated` and JAX's own gradients. For accelerators, and the reference.
- `direct`: the same sums in forms that XLA's CPU compiler is fast at (`direct.py`).
- `toom_cook`: fewer multiplications where that pays, for CPUs (`toom_cook.py`); `direct` elsewhere.

In bfloat16 multiplications are not what costs, and the last two are one: matrix products of all
taps side by side (`im2col.py`) in long layers.

`activated_convolution` is the convolution with what the network does to its outputs. The loops of
the last two formulations (`blocked.py`) do it to a part of them that is still in cache.
`activations` is the same for evaluation, where the first layer need not be stored at all.

Everything is chosen from static shapes, so all of it works under jit, grad, vmap, scan and map.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from relabel_jax.ops import blocked, direct, im2col, space_to_depth, toom_cook
from relabel_jax.ops.elementwise import After, elu
from relabel_jax.ops.formulation import Formulation
from relabel_jax.ops.normalization import (
    activate,
    after_convolution,
    before_activation,
    elu_and_moments,
    moments,
)

_ALONE = After(lambda outputs: outputs, lambda values: ())


def convolution(
    inputs: jax.Array, kernel: jax.Array, stride: int, formulation: Formulation
) -> jax.Array:
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
    _check(inputs, kernel, stride)
    if formulation.name == "lax":
        return direct.convolve(inputs, kernel, stride)
    # The gradient is traced later: it gets the precision that holds here, as JAX's own would.
    precision = jax.config.jax_default_matmul_precision
    return _convolution(inputs, kernel, stride, formulation, precision)


class Buffers(NamedTuple):
    """Arrays for a training step's convolution to write its large results to.

    Each step needs such arrays, whatever is in them, and new ones take time to fill
    (`elementwise.unwritten`). So they go from step to step: what `activated_convolution` gives as
    the gradient by them is none. It is the arrays that they have become, for the next step.

    Attributes:
      values: of the shape of the activations.
      by_inputs: of the shape of the inputs, for the gradient by them; None for waveforms, whose
        gradient nobody asks for and so is not computed.
    """

    values: jax.Array
    by_inputs: jax.Array | None


def buffers(inputs: Any, kernel: Any, stride: int, formulation: Formulation) -> Buffers | None:
    """Zeros; None where `activated_convolution` of these arguments has no use for any.

    Of `inputs` and `kernel` only the shapes and the dtype are looked at.
    """
    form = _form_class(inputs.shape, inputs.dtype, kernel.shape, stride, formulation)
    in_parts = formulation.name != "lax" and direct.in_parts(inputs.shape, kernel.shape, stride)
    if form is None and not in_parts:
        return None
    batch, time, channels_in = inputs.shape
    taps, _, channels_out = kernel.shape
    values = jnp.zeros(
        (batch, space_to_depth.time_out(time, taps, stride), channels_out), inputs.dtype
    )
    return Buffers(values, None if channels_in == 1 else jnp.zeros(inputs.shape, inputs.dtype))


def activated_convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    stride: int,
    formulation: Formulation,
    axis_name: str | None = None,
    buffers: Buffers | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`elu_and_moments` of the convolution's outputs and a bias (`normalization.py`).

    Its gradient is right only for the use that is described there.

    Args:
      inputs, kernel, stride, formulation: as of `convolution`.
      bias: float32[channels_out].
      axis_name: of the devices that share the batch (`batch_axis.py`).
      buffers: what the function of that name gives for these arguments, or a step before has left.

    Returns:
      v of the dtype of `inputs`, [batch, time_out, channels_out], and twice float32[channels_out].

    Raises:
      ValueError: as of `convolution`.
    """
    _check(inputs, kernel, stride)
    if formulation.name == "lax":
        return elu_and_moments(direct.convolve(inputs, kernel, stride), bias, axis_name)
    precision = jax.config.jax_default_matmul_precision
    return _activated(inputs, kernel, bias, buffers, stride, formulation, precision, axis_name)


@flax.struct.dataclass
class Deferred:
    """A convolution's activations, `activate` of its outputs, which are not computed yet.

    Attributes:
      inputs, kernel, stride, formulation: as of `convolution`.
      bias: float32[channels_out].
    """

    inputs: jax.Array
    kernel: jax.Array
    bias: jax.Array
    stride: int = flax.struct.field(pytree_node=False)
    formulation: Formulation = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        batch, time, _ = self.inputs.shape
        taps, _, channels_out = self.kernel.shape
        return batch, space_to_depth.time_out(time, taps, self.stride), channels_out

    @property
    def dtype(self) -> jnp.dtype:
        return self.inputs.dtype

    def rows(self, clip, row, clips: int, rows: int) -> jax.Array:
        """Some rows of some clips: the `space_to_depth.Rows` of these activations."""
        length = (rows - 1) * self.stride + len(self.kernel)
        inputs = space_to_depth.stored(self.inputs)(clip, row * self.stride, clips, length)
        values = activate(direct.convolve(inputs, self.kernel, self.stride), self.bias, elu)
        # What takes a row several times would compute it as often.
        return jax.lax.optimization_barrier(values)

    def whole(self) -> jax.Array:
        """All of them."""
        return _stored(self.inputs, self.kernel, self.bias, self.stride, self.formulation)


def whole(values: jax.Array | Deferred) -> jax.Array:
    """The activations as an array."""
    return values.whole() if isinstance(values, Deferred) else values


def _stored(inputs, kernel, bias, stride, formulation):
    """`activations` with nothing deferred, activated after the convolution and not in its loop."""
    return activate(convolution(whole(inputs), kernel, stride, formulation), bias)


def activations(
    inputs: jax.Array | Deferred,
    kernel: jax.Array,
    bias: jax.Array,
    stride: int,
    formulation: Formulation,
) -> jax.Array | Deferred:
    """`activate` of the convolution's outputs and a bias, where no moments are asked for.

    Then a layer need not be stored: the next layer's loop can compute the rows that it takes for a
    block. This pays where a value takes few products, in the first layer of Table II, whose outputs
    are the largest, 6.8 MB a clip.

    Args:
      inputs, kernel, stride, formulation: as of `convolution`.
      bias: float32[channels_out].

    Returns:
      [batch, time_out, channels_out] of the dtype of `inputs`.

    Raises:
      ValueError: as of `convolution`.
    """
    _check(inputs, kernel, stride)
    if direct.few_products(kernel.shape):
        return Deferred(whole(inputs), kernel, bias, stride, formulation)
    if formulation.name == "lax":
        return _stored(inputs, kernel, bias, stride, formulation)
    precision = jax.config.jax_default_matmul_precision
    return _activations(inputs, kernel, bias, stride, formulation, precision)


def _check(inputs, kernel, stride):
    if len(inputs.shape) != 3 or kernel.ndim != 3 or inputs.shape[2] != kernel.shape[1]:
        raise ValueError(
            f"inputs {inputs.shape} and kernel {kernel.shape} are not "
            "[batch, time, channels_in] and [taps, channels_in, channels_out]"
        )
    if inputs.dtype != kernel.dtype:
        raise ValueError(f"inputs are {inputs.dtype} but the kernel is {kernel.dtype}")
    if stride < 1 or kernel.shape[0] < 1:
        raise ValueError(f"stride {stride} and taps {kernel.shape[0]} must be at least 1")


def _form_class(
    input_shape: Sequence[int],
    dtype: jnp.dtype,
    kernel_shape: Sequence[int],
    stride: int,
    formulation: Formulation,
) -> type[im2col.Shifted] | type[toom_cook.ToomCook] | None:
    """How blocks are multiplied; None where whole clips are faster, in the form of `direct.py`."""
    form: type[im2col.Shifted] | type[toom_cook.ToomCook]
    if formulation.name == "lax":
        return None
    if dtype == jnp.bfloat16:
        fits, form = im2col.pay, im2col.Shifted
    elif formulation.name == "toom_cook" and jnp.finfo(dtype).bits >= 32:
        fits, form = toom_cook.pay, toom_cook.ToomCook
    else:
        return None
    return form if fits(input_shape, kernel_shape, stride) else None


def _form(inputs, kernel, stride, formulation):
    form = _form_class(inputs.shape, inputs.dtype, kernel.shape, stride, formulation)
    return None if form is None else form.of(kernel, stride)


def _forward(inputs, kernel, stride, formulation, after, out=None):
    form = _form(inputs, kernel, stride, formulation)
    if form is None:
        return direct.forward(whole(inputs), kernel, stride, after, out)
    rows = inputs.rows if isinstance(inputs, Deferred) else space_to_depth.stored(inputs)
    return blocked.forward(form, inputs.shape, rows, kernel, stride, after, out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(inputs, kernel, stride, formulation, precision):
    return _forward(inputs, kernel, stride, formulation, _ALONE)[0]


def _convolution_fwd(inputs, kernel, stride, formulation, precision):
    return _convolution(inputs, kernel, stride, formulation, precision), (inputs, kernel)


def _convolution_bwd(stride, formulation, precision, residuals, cotangent):
    if cotangent.size == 0:
        return jax.tree.map(jnp.zeros_like, residuals)
    by_inputs, by_kernel, _ = _gradients(
        stride, formulation, precision, residuals, (cotangent,), lambda cotangent: (cotangent, ())
    )
    return by_inputs, by_kernel


_convolution.defvjp(_convolution_fwd, _convolution_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _activated(inputs, kernel, bias, buffers, stride, formulation, precision, axis_name):
    after, out = after_convolution(bias, elu), buffers and buffers.values
    values, sums = _forward(inputs, kernel, stride, formulation, after, out)
    return values, *moments(sums, values, axis_name)


def _activated_fwd(inputs, kernel, bias, buffers, *static):
    values, *means = _activated(inputs, kernel, bias, buffers, *static)
    buffers = buffers and buffers._replace(values=values)
    return (values, *means), (inputs, kernel, values, bias, buffers)


def _activated_bwd(stride, formulation, precision, axis_name, residuals, cotangents):
    *residuals, values, bias, buffers = residuals
    dx = buffers and buffers.by_inputs
    of_values, *of_moments = cotangents
    before = before_activation(values, bias, *of_moments, axis_name)
    by_inputs, by_kernel, (by_bias,) = _gradients(
        stride, formulation, precision, residuals, (of_values, values), before, dx
    )
    if dx is not None:
        buffers = buffers._replace(by_inputs=by_inputs)
    return by_inputs, by_kernel, by_bias, buffers


_activated.defvjp(_activated_fwd, _activated_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _activations(inputs, kernel, bias, stride, formulation, precision):
    after = After(after_convolution(bias, elu).values, lambda values: ())
    return _forward(inputs, kernel, stride, formulation, after)[0]


def _activations_fwd(inputs, kernel, bias, stride, formulation, precision):
    residuals = inputs, kernel, bias
    return _activations(*residuals, stride, formulation, precision), residuals


def _activations_bwd(stride, formulation, precision, residuals, cotangent):
    stored = functools.partial(_stored, stride=stride, formulation=formulation)
    with jax.default_matmul_precision(precision):
        return jax.vjp(stored, *residuals)[1](cotangent)


_activations.defvjp(_activations_fwd, _activations_bwd)


def _gradients(stride, formulation, precision, residuals, arrays, before, dx=None):
    inputs, kernel = residuals
    with jax.default_matmul_precision(precision):
        form = _form(inputs, kernel, stride, formulation)
        if form is None:
            gradients = direct.backward(inputs, kernel, stride, arrays, before)
        else:
            gradients = blocked.backward(form, inputs, kernel, stride, arrays, before, dx)
    by_inputs, by_kernel, sums = gradients
    return by_inputs, by_kernel.astype(kernel.dtype), sums
