"""The paper's network (Table II) and the small one on top of its embeddings."""

from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from relabel_jax.ops import convolution, space_to_depth
from relabel_jax.ops.convolution import Buffers, Deferred
from relabel_jax.ops.normalization import ActivationAndNorm, Activations, Linear

TAPS = (17, 16, 15, 14, 13, 12, 9, 9, 9)
STRIDES = (3, 3, 3, 3, 3, 3, 3, 3, 1)
FILTERS = (64, 64, 96, 96, 128, 128, 192, 192, 256)
DENSE_UNITS = (256, 128)

PRECISIONS = {
    "f32": (jnp.float32, "highest"),
    "tf32": (jnp.float32, "high"),
    "bf16": (jnp.bfloat16, "default"),
}
"""Name -> dtype of the convolutions and what they hand on, and their matmul precision in JAX.

Weights, statistics, dense layers and scores are float32 throughout. `tf32` lets products of float32
be rounded to 11 bits where the device has such units (NVIDIA since Ampere; on a TPU it is three
passes of bfloat16); a CPU has none, so there it is `f32`.
"""


def _compute(precision: str) -> tuple[jax.typing.DTypeLike, str]:
    """The entry of `PRECISIONS`; ValueError if there is none."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def default_precision() -> str:
    """`f32` on a CPU, where bf16 is faster only with units for it (AMX); `tf32` elsewhere."""
    return "f32" if jax.default_backend() == "cpu" else "tf32"


@flax.struct.dataclass
class Convolved(Linear):
    """A convolution of `values` that is not computed yet, so that it can be with what follows.

    Attributes:
      kernel, stride, formulation: as of `convolution`.
    """

    kernel: jax.Array
    stride: int = flax.struct.field(pytree_node=False)
    formulation: str = flax.struct.field(pytree_node=False)

    def outputs(self) -> jax.Array:
        return convolution.convolution(self.values, self.kernel, self.stride, self.formulation)

    def activations(self) -> jax.Array | Deferred:
        return convolution.activations(
            self.values, self.kernel, self.bias, self.stride, self.formulation
        )

    def elu_and_moments(
        self, axis_name: str | None, buffers: Buffers | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        arguments = self.values, self.kernel, self.bias, self.stride, self.formulation
        return convolution.activated_convolution(*arguments, axis_name, buffers)


class Convolution(nn.Module):
    """A VALID 1-D convolution: [batch, time, channels] -> [batch, out, filters]."""

    taps: int
    filters: int
    stride: int
    formulation: str

    @nn.compact
    def __call__(self, inputs: Activations) -> Convolved:
        shape = (self.taps, inputs.values.shape[-1], self.filters)
        kernel, bias = inputs.fold_into(*_weights(self, shape))
        kernel = kernel.astype(inputs.values.dtype)
        return Convolved(inputs.values, bias, kernel, self.stride, self.formulation)


class Dense(nn.Module):
    """A dense layer, in float32: [batch, channels] -> [batch, units]."""

    units: int

    @nn.compact
    def __call__(self, inputs: Activations) -> Linear:
        shape = (inputs.values.shape[-1], self.units)
        kernel, bias = inputs.fold_into(*_weights(self, shape))
        values = inputs.values.astype(kernel.dtype)
        return Linear(jnp.matmul(values, kernel, precision="highest"), bias)


def _weights(layer: nn.Module, shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Kernel and bias of a layer. Glorot uniform, Keras's default; Flax's own is LeCun normal."""
    kernel = layer.param("kernel", nn.initializers.glorot_uniform(), shape)
    return kernel, layer.param("bias", nn.initializers.zeros_init(), shape[-1:])


class AudioNetwork(nn.Module):
    """Nine convolutions on the raw waveform, two dense layers, and one sigmoid per class.

    Attributes:
      num_classes: outputs of the last layer.
      formulation: how convolutions are computed, one of `convolution.FORMULATIONS`.
      filters: channels of the nine convolutions; the paper's by default.
      dense_units: units of the dense layers; the last is the embedding's size.
      norm_order: `elu_bn` or `bn_elu`.
      precision: one of `PRECISIONS`.
      fold_norm: whether batch normalization is left to the next layer (`normalization.py`), where
        `norm_order` is `elu_bn`; the same function of the same variables.
      axis_name: of the devices that share the batch (`batch_axis.py`).
    """

    num_classes: int
    formulation: str
    filters: Sequence[int] = FILTERS
    dense_units: Sequence[int] = DENSE_UNITS
    norm_order: str = "elu_bn"
    precision: str = "f32"
    fold_norm: bool = True
    axis_name: str | None = None

    def setup(self):
        self.convolutions = [
            Convolution(taps, filters, stride, self.formulation)
            for taps, filters, stride in zip(TAPS, self.filters, STRIDES, strict=True)
        ]
        self.dense = [Dense(units) for units in self.dense_units]
        self.norms = [
            ActivationAndNorm(self.norm_order, self.fold_norm, self.axis_name)
            for _ in range(len(TAPS) + len(self.dense_units))
        ]
        self.output = Dense(self.num_classes)

    def buffers(self, waveforms: Any) -> dict[str, Any]:
        """The collection `buffers` for training on a batch: arrays to write to, here zeros.

        Args:
          waveforms: the batch, or its shape and dtype.
        """
        dtype, _ = _compute(self.precision)
        found: dict[str, Any] = {}
        if self.norm_order != "elu_bn" or not self.fold_norm:
            return found
        shape = (*waveforms.shape, 1)
        for i, (taps, filters, stride) in enumerate(zip(TAPS, self.filters, STRIDES, strict=True)):
            inputs, kernel = (
                jax.ShapeDtypeStruct(of, dtype) for of in (shape, (taps, shape[-1], filters))
            )
            of_layer = convolution.buffers(inputs, kernel, stride, self.formulation)
            if of_layer is not None:
                found[f"norms_{i}"] = {"of_layer": of_layer}
            shape = (shape[0], space_to_depth.time_out(shape[1], taps, stride), filters)
        return found

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The embedding: the last hidden dense layer's outputs before ELU and normalization.

        Args:
          waveforms: int16[batch, 80000] at 8 kHz.
          train: normalize by the batch's statistics, not by the running ones.

        Returns:
          float32[batch, 128].
        """
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            return self._last_hidden(waveforms, train).sums()

    def __call__(self, waveforms: jax.Array, train: bool) -> jax.Array:
        """The scores, after the sigmoid: float32[batch, num_classes]."""
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            return self._score(self._last_hidden(waveforms, train), train)

    def score(self, embeddings: jax.Array) -> jax.Array:
        """The scores of what `embed` gives, by the running statistics.

        Args:
          embeddings: float32[..., 128].

        Returns:
          float32[..., num_classes].
        """
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            return self._score(Linear(embeddings, jnp.zeros(embeddings.shape[-1])), False)

    def _score(self, last_hidden: Linear, train: bool) -> jax.Array:
        return nn.sigmoid(self.output(self.norms[-1](last_hidden, train)).sums())

    def _last_hidden(self, waveforms: jax.Array, train: bool) -> Linear:
        # On the device, so that what crosses the bus is int16.
        dtype, _ = _compute(self.precision)
        hidden = Activations((waveforms.astype(jnp.float32)[:, :, None] / 32768).astype(dtype))
        for layer, norm in zip(self.convolutions, self.norms, strict=False):
            hidden = norm(layer(hidden), train)
        hidden = hidden._replace(
            values=convolution.whole(hidden.values).reshape(waveforms.shape[0], -1)
        )
        for layer, norm in zip(self.dense[:-1], self.norms[len(TAPS) :], strict=False):
            hidden = norm(layer(hidden), train)
        return self.dense[-1](hidden)


class FeatureNetwork(nn.Module):
    """The classifier on frozen embeddings: dense 256 + ELU + BN, dense N sigmoid."""

    num_classes: int
    norm_order: str = "elu_bn"
    hidden_units: int = 256
    precision: str = "f32"
    axis_name: str | None = None

    def buffers(self, embeddings: Any) -> dict[str, Any]:
        """As of `AudioNetwork`: none."""
        return {}

    @nn.compact
    def __call__(self, embeddings: jax.Array, train: bool) -> jax.Array:
        """float32[batch, 128] -> scores, float32[batch, num_classes]."""
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            layer = Dense(self.hidden_units)(Activations(embeddings))
            norm = ActivationAndNorm(self.norm_order, axis_name=self.axis_name)
            hidden = norm(layer, train)
            return nn.sigmoid(Dense(self.num_classes, name="output")(hidden).sums())
