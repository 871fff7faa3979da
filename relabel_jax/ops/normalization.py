"""Batch normalization, which can be folded into the next layer.

Batch normalization in training mode maps the activations e of a layer, channel by channel, to

    a e + s,    a = gamma / sqrt(var + epsilon),    s = beta - mean a,

with the mean and the variance of e over batch and time. The next layer is linear. A convolution is
VALID, so it reads no padding, and s has the same effect on every output:

    conv(a e + s, W) + b = conv(e, a W) + (b + sum over taps and channels of s W).

So the normalization can be *folded* into the next layer: only e is stored, and a and s change the
next layer's kernel and bias, which takes a few thousand multiplications. The two reductions in the
backward pass of batch normalization become products in the gradients by a and s. The layers store
v = e - ELU(b) instead of e (`elu_moments.py`), which changes the mean but not a e + s.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from relabel_jax.ops.elu_moments import add_bias

NORM_ORDERS = ("elu_bn", "bn_elu")
# The defaults of Keras at the time of the paper.
MOMENTUM = 0.99
EPSILON = 1e-3


def can_fold(norm_order: str) -> bool:
    """Whether the normalization can be folded into the next layer."""
    return norm_order == "elu_bn"


class FoldedBatchNorm(nn.Module):
    """Batch normalization as a scale and a shift, with the variables of `nn.BatchNorm`."""

    @nn.compact
    def __call__(
        self, center: jax.Array, moments: Sequence[jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The scale and the shift of v.

        Args:
          center: ELU(bias), float32[channels], the difference between the activations and v.
          moments: the means of v and v^2 over the batch, float32[channels] each. They update the
            running statistics. Without them the running statistics are used.

        Returns:
          Scale and shift, float32[channels] each.
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
                    running.value = MOMENTUM * running.value + (1 - MOMENTUM) * now
        else:
            mean, var = running_mean.value - center, running_var.value
        scale = gamma * lax.rsqrt(var + jnp.asarray(EPSILON, var.dtype))
        return scale, beta - mean * scale


class Normalization(nn.Module):
    """ELU and batch normalization with Keras's constants.

    Attributes:
      norm_order: "elu_bn" or "bn_elu". The paper's text names ELU first, but leaves the order open.
      fold: whether to fold the normalization into the next layer, if the order allows it. The
        result and the variables are the same either way.
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).

    Raises:
      ValueError: `norm_order` is unknown.
    """

    norm_order: str = "elu_bn"
    fold: bool = True
    axis_name: str | None = None

    @property
    def folds(self) -> bool:
        """Whether the normalization is folded into the next layer."""
        return self.fold and can_fold(self.norm_order)

    def setup(self):
        if self.norm_order not in NORM_ORDERS:
            raise ValueError(f"norm_order {self.norm_order!r} is none of {', '.join(NORM_ORDERS)}")
        # Checkpoints have the variables under this name.
        if self.folds:
            self.BatchNorm_0 = FoldedBatchNorm()
        else:
            self.BatchNorm_0 = nn.BatchNorm(
                momentum=MOMENTUM, epsilon=EPSILON, axis_name=self.axis_name
            )

    def scale_and_shift(
        self, center: jax.Array, moments: Sequence[jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The normalization as scale and shift for the next layer: see `FoldedBatchNorm`."""
        return self.BatchNorm_0(center, moments)

    def activate_and_normalize(self, outputs: jax.Array, bias: jax.Array, train: bool) -> jax.Array:
        """ELU and normalization of `outputs + bias`, in the order of `norm_order`.

        Args:
          outputs: float[..., channels].
          bias: float32[channels].
          train: normalize by the batch's statistics and update the running ones.

        Returns:
          The values, of the shape and dtype of `outputs`.
        """

        def normalize(x):
            x = x.astype(outputs.dtype)
            return self.BatchNorm_0(x, use_running_average=not train).astype(outputs.dtype)

        sums = add_bias(outputs, bias)
        if self.norm_order == "elu_bn":
            return normalize(nn.elu(sums))
        return nn.elu(normalize(sums))
