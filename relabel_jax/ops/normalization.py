"""ELU and batch normalization; and the normalization folded into the layer behind it.

A layer gives y, its activation is e = ELU(y + b), and normalization in training mode maps it,
channel by channel, to

    a e + s,    a = gamma / sqrt(var + epsilon),    s = beta - mean a,

with mean and var of e over batch and time. The next layer is linear and, as its convolution is
VALID and so reads nothing but rows of e, sees s in full under every tap:

    conv(a e + s, W) + b = conv(e, a W) + (b + sum over taps and channels of s W).

So e alone is stored, and normalized activations exist nowhere: they are a few thousand
multiplications on W. A constant added to e is added to its mean too and leaves a e + s as it was;
so what is stored is in fact v = e - c, with c = ELU(b), what e is where y is 0. Of a quiet clip e
is c and little more: rounded to bfloat16, or TF32, nothing but c would be left once b is not 0.

What is needed of v is its mean and the mean of its square. Let d, d1, d2 be the cotangents of v, of
its mean and of its mean square, over n values a channel. The gradient is

    dy = (d + d1 / n + 2 v d2 / n) ELU'(y + b),    ELU'(z) = min(v + c, 0) + 1,

of v alone, in one pass; the two reductions of batch normalization's own backward pass have become
the products of dW and W that autodiff finds behind a and s.

The bracket's sum over batch and time is zero, by what a constant does. So for any constant k of a
channel

    db = sum of (d + d1 / n + 2 v d2 / n) (min(e, 0) - k).

Rounding leaves some of the bracket's sum, as d1 comes another way than d. With k = -1, where db is
the sum of dy, all of this would be db's error; and where ELU is nearly linear, db itself is hardly
more. With the mean of min(e, 0), of a sample of the rows, next to nothing of it is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from relabel_jax.ops import batch_axis
from relabel_jax.ops.elementwise import Addends, After, Before, row_sums

NORM_ORDERS = ("elu_bn", "bn_elu")
# Keras's defaults of the paper's time.
_MOMENTUM = 0.99
EPSILON = 1e-3
# Of each clip, to estimate the mean of min(e, 0).
_SAMPLED_ROWS = 256


class Activations(NamedTuple):
    """What a layer hands on: `values * scale + shift`, of which the next layer takes care.

    Attributes:
      values: float[batch, ..., channels], or what stands for it (`convolution.Deferred`).
      scale, shift: float32[channels], or None where nothing is left to do.
    """

    values: jax.Array
    scale: jax.Array | None = None
    shift: jax.Array | None = None

    def fold_into(self, kernel: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The kernel [..., channels, features] and bias [features] that map `values` directly."""
        if self.scale is None or self.shift is None:
            return kernel, bias
        by_channel = (1,) * (kernel.ndim - 2) + (-1, 1)
        # Sums, not products of matrices, which accelerators would round.
        shifted = jnp.sum(kernel * self.shift.reshape(by_channel), range(kernel.ndim - 1))
        return kernel * self.scale.reshape(by_channel), bias + shifted


@flax.struct.dataclass
class Linear:
    """What a linear layer gives, before its bias.

    Attributes:
      values: float[batch, ..., channels].
      bias: float32[channels].
    """

    values: jax.Array
    bias: jax.Array

    def outputs(self) -> jax.Array:
        """float[batch, ..., channels], without the bias."""
        return self.values

    def sums(self) -> jax.Array:
        """The outputs and the bias, at least float32[batch, ..., channels]."""
        return add_bias(self.outputs(), self.bias)

    def activations(self) -> Any:
        """`activate` of the outputs; what the next layer of the kind takes for it."""
        return activate(self.outputs(), self.bias)

    def elu_and_moments(
        self, axis_name: str | None, buffers: Any = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`elu_and_moments` of the outputs, written to `buffers` if the layer has use for them."""
        return elu_and_moments(self.outputs(), self.bias, axis_name)


class ActivationAndNorm(nn.Module):
    """Bias, ELU and batch normalization with Keras's constants.

    Attributes:
      norm_order: `elu_bn` (the order in which the paper's text names them; it leaves it open) or
        `bn_elu`.
      fold: leave the normalization to the next layer where the order allows it; the same function
        and the same variables.
      axis_name: of the devices that share the batch (`batch_axis.py`).
    """

    norm_order: str
    fold: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, layer: Linear, train: bool) -> Activations:
        """What a layer hands on.

        Raises:
          ValueError: an unknown `norm_order`.
        """
        if self.norm_order not in NORM_ORDERS:
            raise ValueError(f"norm_order {self.norm_order!r} is none of {', '.join(NORM_ORDERS)}")
        if self.norm_order == "elu_bn" and self.fold:
            moments: Sequence[jax.Array] | None = None
            if train:
                buffers: Any = self.get_variable("buffers", "of_layer")
                values, *moments = layer.elu_and_moments(self.axis_name, buffers)
            else:
                values = layer.activations()
            norm = Affine(name="BatchNorm_0")
            return Activations(values, *norm(elu_of_bias(layer.bias), moments))
        outputs = layer.outputs()
        sums = add_bias(outputs, layer.bias)
        flax_norm = nn.BatchNorm(
            not train,
            momentum=_MOMENTUM,
            epsilon=EPSILON,
            dtype=outputs.dtype,
            axis_name=self.axis_name,
        )
        if self.norm_order == "elu_bn":
            return Activations(flax_norm(nn.elu(sums).astype(outputs.dtype)))
        return Activations(nn.elu(flax_norm(sums.astype(outputs.dtype))))


class Affine(nn.Module):
    """Batch normalization as (scale, shift); its variables are those of `nn.BatchNorm`."""

    @nn.compact
    def __call__(
        self, center: jax.Array, moments: Sequence[jax.Array] | None
    ) -> tuple[jax.Array, jax.Array]:
        """For v, from the means of v and of its square, twice float32[channels]; without, from the
        running ones, which are of e.

        Args:
          center: c, float32[channels].
        """
        shape = center.shape
        gamma = self.param("scale", nn.initializers.ones_init(), shape)
        beta = self.param("bias", nn.initializers.zeros_init(), shape)
        running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape, jnp.float32))
        running_var = self.variable("batch_stats", "var", lambda: jnp.ones(shape, jnp.float32))
        if moments is not None:
            mean, mean_square = moments
            var = jnp.maximum(mean_square - mean * mean, 0)
            if not self.is_initializing():
                for running, now in ((running_mean, mean + center), (running_var, var)):
                    running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * now
        else:
            mean, var = running_mean.value - center, running_var.value
        scale = gamma * lax.rsqrt(var + jnp.asarray(EPSILON, var.dtype))
        return scale, beta - mean * scale


def add_bias(outputs: jax.Array, bias: jax.Array) -> jax.Array:
    """In at least float32: a folded bias is as large as what it takes out."""
    dtype = jnp.promote_types(outputs.dtype, jnp.float32)
    return outputs.astype(dtype) + bias.reshape((1,) * (outputs.ndim - 1) + (-1,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def elu_and_moments(
    outputs: jax.Array, bias: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """v = ELU(outputs + bias) - ELU(bias), and by channel the means of v and of its square.

    Its gradient is right only where the three serve to normalize v by these moments and nothing
    else, as the module's docstring has it.

    Args:
      outputs: float[..., channels].
      bias: float32[channels].
      axis_name: of the devices that share the batch (`batch_axis.py`).

    Returns:
      v of the dtype of `outputs`, and twice float32[channels].
    """
    after = after_convolution(bias)
    values = after.values(outputs)
    return values, *moments(row_sums(after.addends(values)), values, axis_name)


def moments(sums: Addends, values: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """The means over the whole batch, from a device's sums of both addends of its `values`."""
    total, total_square = batch_axis.total(sums, axis_name)
    count = batch_axis.num_rows(values, axis_name)
    return total / count, total_square / count


def after_convolution(bias: jax.Array, elu: Callable[[jax.Array], jax.Array] = nn.elu) -> After:
    """v of `elu_and_moments`, and the addends that its moments are made of."""
    center = elu_of_bias(bias)

    def addends(values):
        exact = values.astype(bias.dtype)
        return exact, exact * exact

    def values(outputs):
        return add_bias(elu(add_bias(outputs, bias)), -center).astype(outputs.dtype)

    return After(values, addends)


def activate(
    outputs: jax.Array, bias: jax.Array, elu: Callable[[jax.Array], jax.Array] = nn.elu
) -> jax.Array:
    """ELU(outputs + bias) - ELU(bias), of the dtype of `outputs`."""
    return after_convolution(bias, elu).values(outputs)


def elu_of_bias(bias: jax.Array) -> jax.Array:
    """c, float32[channels]. As a constant: what its gradient adds it takes away elsewhere."""
    # Computed by channel; a fusion might compute it with each value.
    return lax.optimization_barrier(lax.stop_gradient(nn.elu(bias)))


def before_activation(
    values: jax.Array,
    bias: jax.Array,
    of_mean: jax.Array,
    of_mean_square: jax.Array,
    axis_name: str | None,
) -> Before:
    """The gradient of `elu_and_moments`.

    Args:
      values: v, float[batch, ..., channels].
      bias: float32[channels].
      of_mean, of_mean_square: float32[channels], the moments' cotangents from a device's clips.
      axis_name: as of `elu_and_moments`.

    Returns:
      A function of v's cotangent and v, whole or a part: the outputs' cotangent, and the addends of
      the bias's, float32.
    """
    center = elu_of_bias(bias)
    sample = values[:, :: max(1, values.shape[1] // _SAMPLED_ROWS)] if values.ndim > 2 else values
    sample = jnp.minimum(add_bias(sample, center), 0)
    k = sample.sum(range(values.ndim - 1)) / batch_axis.num_rows(sample, axis_name)
    of_mean, of_mean_square, k = batch_axis.total((of_mean, of_mean_square, k), axis_name)
    of_mean, of_mean_square, k, center = (
        of_channel.reshape((1,) * (values.ndim - 1) + (-1,))
        for of_channel in (of_mean, of_mean_square, k, center)
    )
    count = batch_axis.num_rows(values, axis_name)
    constant, slope = of_mean / count, of_mean_square * (2 / count)

    def before(of_values, values):
        v = values.astype(of_mean.dtype)
        e = v + center
        total = of_values.astype(of_mean.dtype) + constant + v * slope
        # Not a product at last: XLA would take both factors into the sum, each from memory.
        addends = jnp.where(e < 0, total * (e - k), total * -k)
        return (total * (jnp.minimum(e, 0) + 1)).astype(values.dtype), (addends,)

    return before


def _forward(outputs, bias, axis_name):
    values, mean, mean_square = elu_and_moments(outputs, bias, axis_name)
    return (values, mean, mean_square), (values, bias)


def _backward(axis_name, residuals, cotangents):
    values, _ = residuals
    of_values, *of_moments = cotangents
    gradient, addends = before_activation(*residuals, *of_moments, axis_name)(of_values, values)
    (of_bias,) = row_sums(addends)
    return gradient, of_bias


elu_and_moments.defvjp(_forward, _backward)
