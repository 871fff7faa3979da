"""The paper's network (Table II): nine convolutions on the raw waveform and two dense layers."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn

from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Outputs
from relabel_jax.ops import convolution, space_to_depth
from relabel_jax.ops.convolution import Buffers, Deferred
from relabel_jax.ops.formulation import FORMULATIONS, Formulation
from relabel_jax.ops.normalization import (
    EPSILON,
    NORM_ORDERS,
    ActivationAndNorm,
    Activations,
    Linear,
)

KERNEL_SIZES = (17, 16, 15, 14, 13, 12, 9, 9, 9)
STRIDES = (3, 3, 3, 3, 3, 3, 3, 3, 1)
FEATURES = (64, 64, 96, 96, 128, 128, 192, 192, 256)
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
    formulation: Formulation = flax.struct.field(pytree_node=False)

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
    formulation: Formulation

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


class ConvolutionSize(NamedTuple):
    """The sizes of one convolution of the network.

    Attributes:
      kernel_size, stride: in samples of its inputs.
      features: channels of its outputs.
      time_out: length of its outputs.
    """

    kernel_size: int
    stride: int
    features: int
    time_out: int


def convolution_sizes(
    num_samples: int, features: Sequence[int] = FEATURES
) -> Iterator[ConvolutionSize]:
    """The sizes of the nine convolutions for waveforms of so many samples."""
    time = num_samples
    for kernel_size, stride, channels in zip(KERNEL_SIZES, STRIDES, features, strict=True):
        time = space_to_depth.time_out(time, kernel_size, stride)
        yield ConvolutionSize(kernel_size, stride, channels, time)


class WaveformCNN(nn.Module):
    """Nine convolutions on the raw waveform, two dense layers, and one sigmoid per class.

    It implements `backbone.Backbone`.

    Attributes:
      num_classes: outputs, one sigmoid each.
      features: channels of the nine convolutions.
      dense_units: units of the dense layers. The last number is the size of an embedding.
      norm_order: "elu_bn" or "bn_elu".
      fold_norm: with "elu_bn", whether the next layer's weights take over the normalization
        (`normalization.py`). The network is the same function of the same variables either way.
      precision: one of `PRECISIONS`.
      formulation: how the convolutions are computed.
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
    """

    num_classes: int
    features: Sequence[int] = FEATURES
    dense_units: Sequence[int] = DENSE_UNITS
    norm_order: str = "elu_bn"
    fold_norm: bool = True
    precision: str = "f32"
    formulation: Formulation = Formulation()
    axis_name: str | None = None

    description: ClassVar[str] = (
        'The network of "Automatic re-labeling of Google AudioSet for improved quality of learned '
        'features and pre-training" (Grzywalski and Botteldooren): nine convolutions on the raw '
        "waveform and two dense layers."
    )
    pytorch_example: ClassVar[str] = "waveform_cnn_pytorch.txt"

    @classmethod
    def from_config(
        cls,
        num_classes: int,
        *,
        features: Sequence[int] = FEATURES,
        dense_units: Sequence[int] = DENSE_UNITS,
        norm_order: str = "elu_bn",
        fold_norm: bool = True,
        precision: str = "auto",
        formulation: str = "auto",
    ) -> "WaveformCNN":
        """The network that `config.model` describes, for JAX's default backend.

        Args:
          num_classes, features, dense_units, norm_order, fold_norm: see the class.
          precision: one of `PRECISIONS`, or "auto" for `default_precision`.
          formulation: one of `FORMULATIONS`, or "auto" for the fastest on the backend.

        Raises:
          InputError: an option has no such value.
        """
        for field, value, choices in (
            ("norm_order", norm_order, NORM_ORDERS),
            ("formulation", formulation, ("auto", *FORMULATIONS)),
            ("precision", precision, ("auto", *PRECISIONS)),
        ):
            if value not in choices:
                raise InputError(f"config.model.{field}: {value!r} is none of {', '.join(choices)}")
        if len(features) != len(KERNEL_SIZES):
            raise InputError(
                f"config.model.features: expected {len(KERNEL_SIZES)} numbers, one a convolution, "
                f"got {features}"
            )
        if not dense_units:
            raise InputError("config.model.dense_units: expected at least one layer, the embedding")
        for field, sizes in (("features", features), ("dense_units", dense_units)):
            if min(sizes) < 1:
                raise InputError(f"config.model.{field}: expected positive numbers, got {sizes}")
        return cls(
            num_classes,
            tuple(features),
            tuple(dense_units),
            norm_order,
            fold_norm,
            default_precision() if precision == "auto" else precision,
            Formulation.resolve(formulation),
        )

    @property
    def waveform_format(self) -> WaveformFormat:
        """10 s at 8 kHz."""
        return PAPER_FORMAT

    @property
    def embedding_size(self) -> int:
        """Values of an embedding."""
        return self.dense_units[-1]

    def for_export(self) -> "WaveformCNN":
        """The network with plain convolutions. The other formulations are for JAX on a CPU."""
        return self.clone(formulation=Formulation("lax"))

    def export_facts(self) -> dict[str, Any]:
        """The sizes that a reader in another framework needs, by the names of the file format."""
        return {
            "taps": list(KERNEL_SIZES),
            "strides": list(STRIDES),
            "filters": list(self.features),
            "dense_units": list(self.dense_units),
            "norm_order": self.norm_order,
            "batch_norm_epsilon": EPSILON,
        }

    def setup(self):
        self.convolutions = [
            Convolution(kernel_size, features, stride, self.formulation)
            for kernel_size, features, stride in zip(
                KERNEL_SIZES, self.features, STRIDES, strict=True
            )
        ]
        self.dense = [Dense(units) for units in self.dense_units]
        self.norms = [
            ActivationAndNorm(self.norm_order, self.fold_norm, self.axis_name)
            for _ in range(len(KERNEL_SIZES) + len(self.dense_units))
        ]
        self.output = Dense(self.num_classes)

    def buffers(self, waveforms: Any) -> dict[str, Any]:
        """The collection `buffers` for training on such a batch (`ops/buffers.py`), zero-filled.

        Args:
          waveforms: the batch, or its shape and dtype.
        """
        dtype, _ = _compute(self.precision)
        found: dict[str, Any] = {}
        if self.norm_order != "elu_bn" or not self.fold_norm:
            return found
        shape = (*waveforms.shape, 1)
        sizes = convolution_sizes(waveforms.shape[1], self.features)
        for i, (kernel_size, stride, features, time_out) in enumerate(sizes):
            inputs, kernel = (
                jax.ShapeDtypeStruct(of, dtype)
                for of in (shape, (kernel_size, shape[-1], features))
            )
            of_layer = convolution.buffers(inputs, kernel, stride, self.formulation)
            if of_layer is not None:
                found[f"norms_{i}"] = {"of_layer": of_layer}
            shape = (shape[0], time_out, features)
        return found

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The embeddings: the last hidden layer's outputs before ELU and normalization.

        Args:
          waveforms: int16[batch, samples], or float arrays of int16's scale.
          train: normalize by the batch's statistics instead of the running ones.

        Returns:
          float32[batch, embedding_size].
        """
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            return self._last_hidden(waveforms, train).sums()

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for waveforms as `embed` takes them, float32[batch, num_classes]."""
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            return self._head(self._last_hidden(waveforms, train), train)

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size] -> [..., num_classes]."""
        with jax.default_matmul_precision(_compute(self.precision)[1]):
            return self._head(Linear(embeddings, jnp.zeros(embeddings.shape[-1])), train)

    def _head(self, last_hidden: Linear, train: bool) -> Outputs:
        return Outputs.of_logits(self.output(self.norms[-1](last_hidden, train)).sums())

    def _last_hidden(self, waveforms: jax.Array, train: bool) -> Linear:
        # Scaled on the device: only int16 is copied to it.
        dtype, _ = _compute(self.precision)
        hidden = Activations((waveforms.astype(jnp.float32)[:, :, None] / 32768).astype(dtype))
        for layer, norm in zip(self.convolutions, self.norms, strict=False):
            hidden = norm(layer(hidden), train)
        hidden = hidden._replace(
            values=convolution.whole(hidden.values).reshape(waveforms.shape[0], -1)
        )
        for layer, norm in zip(self.dense[:-1], self.norms[len(KERNEL_SIZES) :], strict=False):
            hidden = norm(layer(hidden), train)
        return self.dense[-1](hidden)
