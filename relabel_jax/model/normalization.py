"""ELU and batch normalization; and the normalization folded into the layer behind it.

A layer gives y, its activation is e = ELU(y + b), and normalization in training mode maps it,
channel by channel, to

    a e + s,    a = gamma / sqrt(var + epsilon),    s = beta - mean a,

with mean and var of e over batch and time. The next layer is linear and, as its convolution is
VALID and so reads nothing but rows of e, sees s in full under every tap:

    conv(a e + s, W) + b = conv(e, a W) + (b + sum over taps and channels of s W).

So only e is ever stored, and normalized activations exist nowhere: they are a few thousand
multiplications on W. What is needed of e is its mean and the mean of its square. Let d, d1, d2 be
the cotangents of e, of its mean and of its mean square, over n values a channel. The gradient is

    dy = (d + d1 / n + 2 e d2 / n) ELU'(y + b),    ELU'(z) = min(e, 0) + 1,

of e alone, in one pass; the two reductions of batch normalization's own backward pass have become
the products of dW and W that autodiff finds behind a and s.

The bracket's sum over batch and time is zero, as a constant added to e leaves a e + s as it was. So
for any constant c of a channel

    db = sum of (d + d1 / n + 2 e d2 / n) (min(e, 0) - c).

Rounding leaves some of the bracket's sum, as d1 comes another way than d. With c = -1, where db is
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

from relabel_jax.model import batch_axis
from relabel_jax.model.elementwise import Addends, After, Before, row_sums

NORM_ORDERS = ("elu_bn", "bn_elu")
# Keras's defaults of the paper's time.
_MOMENTUM = 0.99
_EPSILON = 1e-3
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
        """ELU of the sums, of the outputs' dtype; what the next layer of the kind takes for it."""
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
            return Activations(values, *Affine(name="BatchNorm_0")(layer.bias.shape, moments))
        outputs = layer.outputs()
        norm = nn.BatchNorm(
            not train,
            momentum=_MOMENTUM,
            epsilon=_EPSILON,
            dtype=outputs.dtype,
            axis_name=self.axis_name,
        )
        if self.norm_order == "elu_bn":
            return Activations(norm(activate(outputs, layer.bias)))
        return Activations(nn.elu(norm(add_bias(outputs, layer.bias).astype(outputs.dtype))))


class Affine(nn.Module):
    """Batch normalization as (scale, shift); its variables are those of `nn.BatchNorm`."""

    @nn.compact
    def __call__(
        self, shape: tuple[int, ...], moments: Sequence[jax.Array] | None
    ) -> tuple[jax.Array, jax.Array]:
        """From the means of e and of its square, twice float32[channels]; without, the running."""
        gamma = self.param("scale", nn.initializers.ones_init(), shape)
        beta = self.param("bias", nn.initializers.zeros_init(), shape)
        running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape, jnp.float32))
        running_var = self.variable("batch_stats", "var", lambda: jnp.ones(shape, jnp.float32))
        if moments is not None:
            mean, mean_square = moments
            var = jnp.maximum(mean_square - mean * mean, 0)
            if not self.is_initializing():
                for running, now in ((running_mean, mean), (running_var, var)):
                    running.value = _MOMENTUM * running.value + (1 - _MOMENTUM) * now
        else:
            mean, var = running_mean.value, running_var.value
        scale = gamma * jax.lax.rsqrt(var + jnp.asarray(_EPSILON, var.dtype))
        return scale, beta - mean * scale


def add_bias(outputs: jax.Array, bias: jax.Array) -> jax.Array:
    """In at least float32: a folded bias is as large as what it takes out."""
    dtype = jnp.promote_types(outputs.dtype, jnp.float32)
    return outputs.astype(dtype) + bias.reshape((1,) * (outputs.ndim - 1) + (-1,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def elu_and_moments(
    outputs: jax.Array, bias: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """e = ELU(outputs + bias), and by channel the means of e and of its square.

    Its gradient is right only where the three serve to normalize e by these moments and nothing
    else, as the module's docstring has it.

    Args:
      outputs: float[..., channels].
      bias: float32[channels].
      axis_name: of the devices that share the batch (`batch_axis.py`).

    Returns:
      e of the dtype of `outputs`, and twice float32[channels].
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
    """e of `elu_and_moments`, and the addends that its moments are made of."""

    def addends(values):
        exact = values.astype(bias.dtype)
        return exact, exact * exact

    return After(lambda outputs: activate(outputs, bias, elu), addends)


def activate(
    outputs: jax.Array, bias: jax.Array, elu: Callable[[jax.Array], jax.Array] = nn.elu
) -> jax.Array:
    """ELU(outputs + bias), of the dtype of `outputs`."""
    return elu(add_bias(outputs, bias)).astype(outputs.dtype)


def before_activation(
    values: jax.Array, of_mean: jax.Array, of_mean_square: jax.Array, axis_name: str | None
) -> Before:
    """The gradient of `elu_and_moments`.

    Args:
      values: e, float[batch, ..., channels].
      of_mean, of_mean_square: float32[channels], the moments' cotangents from a device's clips.
      axis_name: as of `elu_and_moments`.

    Returns:
      A function of e's cotangent and e, whole or a part: the outputs' cotangent, and the addends of
      the bias's, float32.
    """
    sample = values[:, :: max(1, values.shape[1] // _SAMPLED_ROWS)] if values.ndim > 2 else values
    sample = jnp.minimum(sample, 0).astype(of_mean.dtype)
    center = sample.sum(range(values.ndim - 1)) / batch_axis.num_rows(sample, axis_name)
    of_mean, of_mean_square, center = (
        total.reshape((1,) * (values.ndim - 1) + (-1,))
        for total in batch_axis.total((of_mean, of_mean_square, center), axis_name)
    )
    count = batch_axis.num_rows(values, axis_name)
    constant, slope = of_mean / count, of_mean_square * (2 / count)

    def before(of_values, values):
        e = values.astype(of_mean.dtype)
        total = of_values.astype(of_mean.dtype) + constant + e * slope
        # Not a product at last: XLA would take both factors into the sum, each from memory.
        addends = jnp.where(e < 0, total * (e - center), total * -center)
        return (total * (jnp.minimum(e, 0) + 1)).astype(values.dtype), (addends,)

    return before


def _forward(outputs, bias, axis_name):
    values, mean, mean_square = elu_and_moments(outputs, bias, axis_name)
    return (values, mean, mean_square), values


def _backward(axis_name, values, cotangents):
    of_values, *of_moments = cotangents
    gradient, addends = before_activation(values, *of_moments, axis_name)(of_values, values)
    (of_bias,) = row_sums(addends)
    return gradient, of_bias


elu_and_moments.defvjp(_forward, _backward)
