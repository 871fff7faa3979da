"""Batch normalization whose gradient takes two passes over the activations.

XLA for CPUs computes the derivative of `nn.BatchNorm` in many passes. Written out (S. Ioffe and
C. Szegedy, Batch normalization, 2015, section 3), it needs two sums over the activations, then one
pass for the gradient. docs/performance.md has the times.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from relabel_jax.ops import batch_axis
from relabel_jax.ops.elementwise import along_channels


class BatchNorm(nn.Module):
    """`nn.BatchNorm` over all axes except the last, with the same variables.

    Attributes:
      momentum: the share of the running statistics that a step keeps.
      epsilon: added to the variance.
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
    """

    momentum: float = 0.99
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, use_running_average: bool) -> jax.Array:
        """float32[..., channels] -> the same shape."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), shape)
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape, jnp.float32))
        var = self.variable("batch_stats", "var", lambda: jnp.ones(shape, jnp.float32))
        if use_running_average:
            factor = jax.lax.rsqrt(var.value + self.epsilon) * scale
            center, factor, shift = (along_channels(each, x) for each in (mean.value, factor, bias))
            return (x - center) * factor + shift
        axis_name = None if self.is_initializing() else self.axis_name
        normalized, *statistics = normalize(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            for running, now in zip((mean, var), statistics, strict=True):
                running.value = self.momentum * running.value + (1 - self.momentum) * now
        return normalized


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes each channel by its mean and variance over the whole batch.

    The variance is the mean of (x - mean)^2, which is exact also where the mean is far from 0.

    Args:
      x: float32[..., channels], the clips of this device.
      scale, bias: float32[channels].
      epsilon: added to the variance.
      axis_name: see `BatchNorm`.

    Returns:
      (x - mean) / sqrt(var + epsilon) * scale + bias; then the mean and the variance, float32
      [channels], for running statistics: no gradient flows through them. NaN in each channel whose
      variance overflows float32.
    """
    return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x, scale, bias, epsilon, axis_name):
    mean = _mean(x, axis_name)
    centered = x - along_channels(mean, x)
    var = _mean(jnp.square(centered), axis_name)
    # A variance that overflows would turn all activations into the bias, and the loss would stay
    # finite. NaN, which `nn.BatchNorm` gives as well, shows that the training has diverged.
    var = jnp.where(jnp.isinf(var), jnp.nan, var)
    inverse = jax.lax.rsqrt(var + epsilon)
    factor, shift = (along_channels(each, x) for each in (inverse * scale, bias))
    normalized = centered * factor + shift
    return (normalized, mean, var), (x, mean, inverse, scale)


def _backward(epsilon, axis_name, residuals, cotangents):
    x, mean, inverse, scale = residuals
    gradient = cotangents[0]
    centered = x - along_channels(mean, x)
    by_bias = _sum(gradient)
    by_scale = _sum(gradient * centered) * inverse
    num_rows = batch_axis.num_rows(x, axis_name)
    of_batch = batch_axis.total((by_bias, by_scale), axis_name)
    mean_gradient, slope = (each / num_rows for each in of_batch)
    factor, constant, slope = (
        along_channels(each, x) for each in (inverse * scale, mean_gradient, inverse * slope)
    )
    return factor * (gradient - constant - centered * slope), by_scale, by_bias


normalize.defvjp(_forward, _backward)


def _sum(values: jax.Array) -> jax.Array:
    return values.sum(axis=tuple(range(values.ndim - 1)))


def _mean(values: jax.Array, axis_name: str | None) -> jax.Array:
    return batch_axis.total(_sum(values), axis_name) / batch_axis.num_rows(values, axis_name)
