"""A convolution with bias and ELU in the same loop, so that a block is activated while in cache.

`activations_and_moments` is for training. `activations` is for evaluation, which need not store the
largest layer. Both give the results of `elu_moments.py` for the convolution's outputs, and both
work under jit, vmap, scan and map.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from relabel_jax.ops import direct, grouped_time, space_to_depth
from relabel_jax.ops.buffers import Buffers
from relabel_jax.ops.convolution import backward, check, convolution, forward, in_blocks
from relabel_jax.ops.deferred import Deferred
from relabel_jax.ops.elementwise import Elu, Epilogue, elu
from relabel_jax.ops.elu_moments import (
    activate,
    activation_epilogue,
    activation_prologue,
    elu_and_moments,
    moments,
)
from relabel_jax.ops.formulation import Formulation
from relabel_jax.ops.grouped_time import Grouped


def make_buffers(inputs: Any, kernel: Any, stride: int, formulation: Formulation) -> Buffers | None:
    """Returns zero-filled buffers for `activations_and_moments`, or None if it needs none.

    Args:
      inputs, kernel, stride, formulation: the arguments of `activations_and_moments`. Arrays may be
        given as `jax.ShapeDtypeStruct`.
    """
    blocks = in_blocks(inputs.shape, inputs.dtype, kernel.shape, stride, formulation)
    parts = not formulation.uses_lax and direct.in_parts(
        inputs.shape, kernel.shape, stride, formulation
    )
    if not (blocks or parts):
        return None
    batch, time, channels_in = inputs.shape
    kernel_size, _, channels_out = kernel.shape
    shape = batch, space_to_depth.time_out(time, kernel_size, stride), channels_out
    return Buffers(
        jnp.zeros(shape, inputs.dtype),
        None if channels_in == 1 else jnp.zeros(inputs.shape, inputs.dtype),
    )


def activations_and_moments(
    inputs: jax.Array | Deferred | Grouped,
    kernel: jax.Array,
    bias: jax.Array,
    stride: int,
    formulation: Formulation,
    axis_name: str | None = None,
    buffers: Buffers | None = None,
) -> tuple[jax.Array | Grouped, jax.Array, jax.Array]:
    """`elu_moments.elu_and_moments` of the convolution's outputs, with the same gradient.

    Args:
      inputs, kernel, stride, formulation: see `convolution.convolution`. The inputs may be
        grouped.
      bias: float32[channels_out].
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
      buffers: from `make_buffers`, or the "gradient" by the buffers of the step before. Without
        them the function allocates new arrays.

    Returns:
      v in the dtype of `inputs`, [batch, time_out, channels_out], possibly grouped, and the means
      of v and v^2, float32[channels_out] each.

    Raises:
      ValueError: the shapes, dtypes or stride do not fit.
    """
    check(inputs, kernel, stride)
    if outputs := _grouped(inputs, kernel, stride, formulation):
        v, mean, mean_square = elu_and_moments(outputs.array, bias, axis_name, outputs.length)
        return dataclasses.replace(outputs, array=v), mean, mean_square
    inputs = computed(inputs)
    if formulation.uses_lax:
        return elu_and_moments(direct.convolve(inputs, kernel, stride), bias, axis_name)
    precision = jax.config.jax_default_matmul_precision
    return _activated(inputs, kernel, bias, buffers, stride, formulation, precision, axis_name)


def activations(
    inputs: jax.Array | Deferred | Grouped,
    kernel: jax.Array,
    bias: jax.Array,
    stride: int,
    formulation: Formulation,
) -> jax.Array | Deferred | Grouped:
    """`elu_moments.activate` of the convolution's outputs, possibly deferred to the next layer.

    A deferred layer is not stored. Instead the next layer's loop computes the rows that a block
    needs. This is faster for a memory-bound layer: the first of Table II, whose outputs are the
    largest, 6.8 MB a clip.

    Args:
      inputs, kernel, stride, formulation: see `convolution.convolution`. The inputs may be
        deferred or grouped.
      bias: float32[channels_out].

    Returns:
      [batch, time_out, channels_out] in the dtype of `inputs`, possibly grouped.

    Raises:
      ValueError: the shapes, dtypes or stride do not fit.
    """
    check(inputs, kernel, stride)
    if outputs := _grouped(inputs, kernel, stride, formulation):
        return dataclasses.replace(outputs, array=activate(outputs.array, bias))
    if direct.memory_bound(kernel.shape):
        return Deferred(computed(inputs), kernel, bias, stride, formulation)
    if formulation.uses_lax:
        return _stored(inputs, kernel, bias, stride, formulation)
    precision = jax.config.jax_default_matmul_precision
    return _activations(inputs, kernel, bias, stride, formulation, precision)


def _grouped(
    inputs: jax.Array | Deferred | Grouped, kernel: jax.Array, stride: int, formulation: Formulation
) -> Grouped | None:
    """The convolution's outputs in groups; None if the plain convolution is faster."""
    group = grouped_time.group(inputs.shape, kernel.shape, stride, formulation)
    if group == 1:
        return None
    x = inputs if isinstance(inputs, Grouped) else computed(inputs)
    return grouped_time.convolve(x, kernel, stride, group)


def computed(values: jax.Array | Deferred | Grouped) -> jax.Array:
    """The activations as an array [batch, time, channels]."""
    if isinstance(values, Grouped):
        return values.steps()
    if isinstance(values, Deferred):
        return _stored(values.inputs, values.kernel, values.bias, values.stride, values.formulation)
    return values


def _stored(inputs, kernel, bias, stride, formulation):
    """The activations, computed after the convolution's loop, with JAX's gradient."""
    return activate(convolution(computed(inputs), kernel, stride, formulation), bias)


def _elu(formulation: Formulation) -> Elu:
    return functools.partial(elu, cores_share=formulation.cores_share)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _activated(inputs, kernel, bias, buffers, stride, formulation, precision, axis_name):
    epilogue, out = activation_epilogue(bias, _elu(formulation)), buffers and buffers.activations
    values, sums = forward(inputs, kernel, stride, formulation, epilogue, out)
    return values, *moments(sums, values, axis_name)


def _activated_fwd(inputs, kernel, bias, buffers, *static):
    values, *means = _activated(inputs, kernel, bias, buffers, *static)
    buffers = buffers and buffers._replace(activations=values)
    return (values, *means), (inputs, kernel, values, bias, buffers)


def _activated_bwd(stride, formulation, precision, axis_name, residuals, cotangents):
    inputs, kernel, values, bias, buffers = residuals
    dx = buffers and buffers.input_gradient
    values_cotangent, *moment_cotangents = cotangents
    prologue = activation_prologue(values, bias, *moment_cotangents, axis_name)
    arrays = values_cotangent, values
    with jax.default_matmul_precision(precision):
        input_gradient, kernel_gradient, (bias_gradient,) = backward(
            inputs, kernel, stride, formulation, arrays, prologue, dx
        )
    if dx is not None:
        buffers = buffers._replace(input_gradient=input_gradient)
    return input_gradient, kernel_gradient, bias_gradient, buffers


_activated.defvjp(_activated_fwd, _activated_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _activations(inputs, kernel, bias, stride, formulation, precision):
    values = activation_epilogue(bias, _elu(formulation)).values
    epilogue = Epilogue(values, lambda values: ())
    if not in_blocks(inputs.shape, inputs.dtype, kernel.shape, stride, formulation):
        inputs = computed(inputs)
    return forward(inputs, kernel, stride, formulation, epilogue)[0]


def _activations_fwd(inputs, kernel, bias, stride, formulation, precision):
    residuals = inputs, kernel, bias
    return _activations(*residuals, stride, formulation, precision), residuals


def _activations_bwd(stride, formulation, precision, residuals, cotangent):
    stored = functools.partial(_stored, stride=stride, formulation=formulation)
    with jax.default_matmul_precision(precision):
        return jax.vjp(stored, *residuals)[1](cotangent)


_activations.defvjp(_activations_fwd, _activations_bwd)
