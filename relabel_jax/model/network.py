"""The paper's network (Table II) and the small one on top of its embeddings."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from relabel_jax.model.convolution import convolution

TAPS = (17, 16, 15, 14, 13, 12, 9, 9, 9)
STRIDES = (3, 3, 3, 3, 3, 3, 3, 3, 1)
FILTERS = (64, 64, 96, 96, 128, 128, 192, 192, 256)
DENSE_UNITS = (256, 128)
NORM_ORDERS = ("elu_bn", "bn_elu")


class ActivationAndNorm(nn.Module):
    """ELU and batch normalization with Keras's constants, in the order of `norm_order`.

    The paper leaves the order open; `elu_bn` is the order in which its text names them.
    """

    norm_order: str

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.99, epsilon=1e-3)
        if self.norm_order == "elu_bn":
            return norm(nn.elu(inputs))
        return nn.elu(norm(inputs))


class Convolution(nn.Module):
    """A VALID 1-D convolution with bias: [batch, time, channels] -> [batch, out, filters]."""

    taps: int
    filters: int
    stride: int
    formulation: str

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel",
            nn.initializers.glorot_uniform(),
            (self.taps, inputs.shape[-1], self.filters),
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.filters,))
        outputs = convolution(inputs, kernel, self.stride, self.formulation)
        return outputs + bias[None, None, :]


class AudioNetwork(nn.Module):
    """Nine convolutions on the raw waveform, two dense layers, and one sigmoid per class.

    Attributes:
      num_classes: outputs of the last layer.
      filters: channels of the nine convolutions; the paper's by default.
      dense_units: units of the two dense layers; the last is the embedding's size.
      norm_order: `elu_bn` or `bn_elu`.
      formulation: how convolutions are computed, one of `convolution.FORMULATIONS`.
    """

    num_classes: int
    formulation: str
    filters: Sequence[int] = FILTERS
    dense_units: Sequence[int] = DENSE_UNITS
    norm_order: str = "elu_bn"

    def setup(self):
        self.convolutions = [
            Convolution(taps, filters, stride, self.formulation)
            for taps, filters, stride in zip(TAPS, self.filters, STRIDES, strict=True)
        ]
        # Glorot uniform, Keras's default, throughout; Flax's own default is LeCun normal.
        glorot = nn.initializers.glorot_uniform()
        self.dense = [nn.Dense(units, kernel_init=glorot) for units in self.dense_units]
        self.norms = [
            ActivationAndNorm(self.norm_order) for _ in range(len(TAPS) + len(self.dense_units))
        ]
        self.output = nn.Dense(self.num_classes, kernel_init=glorot)

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The embedding: the last hidden dense layer's outputs before ELU and normalization.

        Args:
          waveforms: int16[batch, 80000] at 8 kHz.
          train: normalize by the batch's statistics, not by the running ones.

        Returns:
          float32[batch, 128].
        """
        # On the device, so that what crosses the bus is int16.
        hidden = waveforms.astype(jnp.float32)[:, :, None] / 32768
        for layer, norm in zip(self.convolutions, self.norms, strict=False):
            hidden = norm(layer(hidden), train)
        hidden = hidden.reshape(hidden.shape[0], -1)
        for layer, norm in zip(self.dense[:-1], self.norms[len(TAPS) :], strict=False):
            hidden = norm(layer(hidden), train)
        return self.dense[-1](hidden)

    def __call__(self, waveforms: jax.Array, train: bool) -> jax.Array:
        """The scores, after the sigmoid: float32[batch, num_classes]."""
        hidden = self.norms[-1](self.embed(waveforms, train), train)
        return nn.sigmoid(self.output(hidden))


class FeatureNetwork(nn.Module):
    """The classifier on frozen embeddings: dense 256 + ELU + BN, dense N sigmoid."""

    num_classes: int
    norm_order: str = "elu_bn"
    hidden_units: int = 256

    @nn.compact
    def __call__(self, embeddings: jax.Array, train: bool) -> jax.Array:
        """float32[batch, 128] -> scores, float32[batch, num_classes]."""
        glorot = nn.initializers.glorot_uniform()
        hidden = nn.Dense(self.hidden_units, kernel_init=glorot)(embeddings)
        hidden = ActivationAndNorm(self.norm_order)(hidden, train)
        return nn.sigmoid(nn.Dense(self.num_classes, kernel_init=glorot, name="output")(hidden))
