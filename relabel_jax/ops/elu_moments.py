"""Bias, ELU, and the moments that batch normalization needs, with a gradient in one pass.

A layer's outputs are y, its activations are e = ELU(y + b). The function `elu_and_moments` returns

    v = e - c,    c = ELU(b),

and, for each channel, the means of v and of v^2 over batch and time. Batch normalization gives the
same result for v and for e, because a constant that is added to e is also added to its mean. The
function stores v instead of e because of rounding: on a quiet clip y is close to 0, so e is close
to c. If b is not 0, rounding e to bfloat16 or TF32 would lose the small difference.

The gradient: let d, d1 and d2 be the cotangents of v, of its mean and of its mean square, and let
each channel have n values. Then

    dy = (d + d1 / n + 2 v d2 / n) ELU'(y + b),    ELU'(z) = min(v + c, 0) + 1,

which depends only on v and takes one pass. The two reductions of batch normalization's own
backward pass are part of the next layer's gradient (`normalization.py`).

The sum over batch and time of the term in brackets is zero, because a constant that is added to v
changes nothing. So for any constant k for each channel

    db = sum of (d + d1 / n + 2 v d2 / n) (min(e, 0) - k).

With rounding the brackets do not add up to exactly zero, because d1 and d are computed separately.
k = -1 gives db as the sum of dy, and adds the whole rounding error to db. Where ELU is nearly
linear, db itself is hardly larger than this error. The mean of min(e, 0) as k removes nearly all of
the error. It is estimated from a sample of the rows.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from relabel_jax.ops import batch_axis, grouped_time
from relabel_jax.ops.elementwise import (
    Elu,
    Epilogue,
    Prologue,
    Summands,
    along_channels,
    channel_sums,
)

# The mean of min(e, 0) is estimated from this number of rows of each clip.
_SAMPLED_ROWS = 256


def add_bias(outputs: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds a bias by channel, in at least float32.

    Folding a normalization can make the bias and the outputs large numbers that nearly cancel.
    """
    dtype = jnp.promote_types(outputs.dtype, jnp.float32)
    return outputs.astype(dtype) + along_channels(bias, outputs)


def _of_channels(sums: Summands, channels: int) -> Summands:
    """Adds up the sums of the steps in a group, [group * channels] -> [channels]."""
    return tuple(s if s.size == channels else s.reshape(-1, channels).sum(0) for s in sums)


def _count(values: jax.Array, axis_name: str | None, length: int | None) -> int:
    """The number of values of a channel in the whole batch."""
    rows = batch_axis.num_rows(values, axis_name)
    return rows if length is None else rows // values.shape[1] * length


def elu_of_bias(bias: jax.Array) -> jax.Array:
    """c = ELU(bias), float32[channels], as a constant.

    It has no gradient: the gradients through the two uses of c cancel.
    """
    # The barrier keeps a fusion from computing it once for each value.
    return lax.optimization_barrier(lax.stop_gradient(nn.elu(bias)))


def activation_epilogue(bias: jax.Array, elu: Elu = nn.elu) -> Epilogue:
    """Maps a layer's outputs to v, and v to the summands of its moments.

    Args:
      bias: float32[channels].
      elu: an implementation of ELU.
    """
    center = elu_of_bias(bias)

    def summands(values):
        exact = values.astype(bias.dtype)
        return exact, exact * exact

    def values(outputs):
        return add_bias(elu(add_bias(outputs, bias)), -center).astype(outputs.dtype)

    return Epilogue(values, summands)


def activate(outputs: jax.Array, bias: jax.Array, elu: Elu = nn.elu) -> jax.Array:
    """v = ELU(outputs + bias) - ELU(bias), in the dtype of `outputs`."""
    return activation_epilogue(bias, elu).values(outputs)


def moments(
    sums: Summands, values: jax.Array, axis_name: str | None, length: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The means of v and v^2 over the whole batch.

    Args:
      sums: the sums by channel of the summands of `activation_epilogue`, on this device.
      values: v for this device's part of the batch.
      axis_name: see `batch_axis.py`.
      length: see `elu_and_moments`.
    """
    total, total_square = batch_axis.total(sums, axis_name)
    count = _count(values, axis_name, length)
    return total / count, total_square / count


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def elu_and_moments(
    outputs: jax.Array, bias: jax.Array, axis_name: str | None = None, length: int | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """v = ELU(outputs + bias) - ELU(bias), and the means of v and v^2 by channel.

    Use the results only to normalize v by these moments; the gradient is wrong for any other use.
    See the module's docstring.

    Args:
      outputs: float[..., channels], or the array of `grouped_time.Grouped`.
      bias: float32[channels].
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
      length: the length of grouped outputs, None if they are not grouped.

    Returns:
      v, in the shape and dtype of `outputs`, and both means, float32[channels] each.
    """
    epilogue = activation_epilogue(bias)
    values = _without_surplus(_stored(epilogue.values(outputs)), bias, length)
    sums = _of_channels(channel_sums(epilogue.summands(values)), bias.size)
    return values, *moments(sums, values, axis_name, length)


def _without_surplus(x: jax.Array, bias: jax.Array, length: int | None) -> jax.Array:
    return x if length is None else grouped_time.without_surplus(x, bias.size, length)


def _stored(values: jax.Array) -> jax.Array:
    """The values as the moments and the backward pass read them.

    XLA drops a conversion from float32 to bfloat16 and back, so on a GPU it would store the float32
    values as well. The barrier prevents this. Other backends do not need it.
    """
    if values.dtype == jnp.float32:
        return values
    return lax.platform_dependent(values, cuda=lax.optimization_barrier, default=lambda x: x)


def activation_prologue(
    values: jax.Array,
    bias: jax.Array,
    mean_cotangent: jax.Array,
    mean_square_cotangent: jax.Array,
    axis_name: str | None,
    length: int | None = None,
) -> Prologue:
    """The gradient of `elu_and_moments`.

    Args:
      values: v, float[batch, ..., channels].
      bias: float32[channels].
      mean_cotangent, mean_square_cotangent: float32[channels], from this device's clips.
      axis_name, length: see `elu_and_moments`.

    Returns:
      A function that maps the cotangent of v and v itself, or the same part of both, to the
      cotangent of the outputs and to the float32 summands of the bias's cotangent.
    """
    center = elu_of_bias(bias)
    sample = values[:, :: max(1, values.shape[1] // _SAMPLED_ROWS)] if values.ndim > 2 else values
    sample = jnp.minimum(add_bias(sample, center), 0)
    (k,) = _of_channels(channel_sums((sample,)), bias.size)
    k /= batch_axis.num_rows(sample, axis_name) * (values.shape[-1] // bias.size)
    totals = batch_axis.total((mean_cotangent, mean_square_cotangent, k), axis_name)
    d1, d2, k, c = (along_channels(by_channel, values) for by_channel in (*totals, center))
    count = _count(values, axis_name, length)
    constant, slope = d1 / count, d2 * (2 / count)

    def prologue(cotangent, values):
        v = values.astype(d1.dtype)
        e = v + c
        total = cotangent.astype(d1.dtype) + constant + v * slope
        total = _without_surplus(total, bias, length)
        # The last operation is not a product: XLA would move a product into the sum that follows,
        # which would then read both factors from memory.
        summands = jnp.where(e < 0, total * (e - k), total * -k)
        return (total * (jnp.minimum(e, 0) + 1)).astype(values.dtype), (summands,)

    return prologue


def _forward(outputs, bias, axis_name, length):
    values, mean, mean_square = elu_and_moments(outputs, bias, axis_name, length)
    return (values, mean, mean_square), (values, bias)


def _backward(axis_name, length, residuals, cotangents):
    values, bias = residuals
    values_cotangent, *moment_cotangents = cotangents
    prologue = activation_prologue(values, bias, *moment_cotangents, axis_name, length)
    outputs_cotangent, summands = prologue(values_cotangent, values)
    if length is not None:
        # A TPU then computes it once, and not in each of the two convolutions that read it.
        outputs_cotangent = lax.optimization_barrier(outputs_cotangent)
    (bias_cotangent,) = _of_channels(channel_sums(summands), bias.size)
    return outputs_cotangent, bias_cotangent


elu_and_moments.defvjp(_forward, _backward)
