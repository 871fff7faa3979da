"""The paper's network (Table II): nine convolutions on the raw waveform and two dense layers."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Outputs
from relabel_jax.ops import space_to_depth
from relabel_jax.ops.formulation import FORMULATIONS, Formulation
from relabel_jax.ops.layers import (
    Hidden,
    KernelAndBias,
    conv_buffers,
    conv_elu_norm,
    dense,
    dense_elu_norm,
    elu_norm,
)
from relabel_jax.ops.normalization import EPSILON, NORM_ORDERS, Normalization, can_fold

KERNEL_SIZES = (17, 16, 15, 14, 13, 12, 9, 9, 9)
STRIDES = (3, 3, 3, 3, 3, 3, 3, 3, 1)
FEATURES = (64, 64, 96, 96, 128, 128, 192, 192, 256)
DENSE_UNITS = (256, 128)

PRECISIONS = {
    "f32": (jnp.float32, "highest"),
    "tf32": (jnp.float32, "high"),
    "bf16": (jnp.bfloat16, "default"),
}
"""By name: the dtype of the convolutions and their activations, and JAX's matmul precision.

Weights, statistics, dense layers and scores are always float32. `tf32` allows a device to round the
factors of float32 products to 11 bits (NVIDIA GPUs since Ampere; a TPU computes three passes of
bfloat16). On a CPU it is the same as `f32`.
"""


def _compute(precision: str) -> tuple[jax.typing.DTypeLike, str]:
    """Returns the entry of `PRECISIONS`. Raises ValueError if there is none."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]


def default_precision() -> str:
    """`f32` on a CPU, `bf16` on a TPU, `tf32` elsewhere.

    On a CPU, bf16 is faster only with AMX units. A TPU multiplies bfloat16 only, so `tf32` takes
    twice the time and the memory there.
    """
    return {"cpu": "f32", "tpu": "bf16"}.get(jax.default_backend(), "tf32")


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
    """The sizes of the nine convolutions for waveforms of `num_samples` samples."""
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
      fold_norm: with "elu_bn", whether to fold the normalization into the next layer's weights
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
          InputError: an option has an invalid value.
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
        """The number of values in an embedding."""
        return self.dense_units[-1]

    def for_export(self) -> "WaveformCNN":
        """The network with plain convolutions; the other formulations are for JAX on a CPU."""
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
            KernelAndBias(features, kernel_size)
            for features, kernel_size in zip(self.features, KERNEL_SIZES, strict=True)
        ]
        self.dense = [KernelAndBias(units) for units in self.dense_units]
        self.norms = [
            Normalization(self.norm_order, self.fold_norm, self.axis_name)
            for _ in (*self.features, *self.dense_units)
        ]
        self.output = KernelAndBias(self.num_classes)

    def buffers(self, waveforms: Any) -> dict[str, Any]:
        """The collection `buffers` for training on such a batch (`ops/buffers.py`), zero-filled.

        Args:
          waveforms: int16[batch, samples], or their shape and dtype.
        """
        if not (self.fold_norm and can_fold(self.norm_order)):
            return {}
        dtype, _ = _compute(self.precision)
        found = []
        shape = (*waveforms.shape, 1)
        for size in convolution_sizes(waveforms.shape[1], self.features):
            kernel_shape = size.kernel_size, shape[-1], size.features
            found.append(conv_buffers(shape, kernel_shape, dtype, size.stride, self.formulation))
            shape = shape[0], size.time_out, size.features
        return {"convolutions": tuple(found)} if any(found) else {}

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The embeddings: the last hidden layer's outputs before ELU and normalization.

        Args:
          waveforms: int16[batch, samples], or a float array in int16's scale.
          train: normalize by the batch's statistics instead of the running ones.

        Returns:
          float32[batch, embedding_size].
        """
        hidden = self._hidden(waveforms, train)
        return dense(hidden, self.dense[-1](hidden.channels))

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs, float32[batch, num_classes], for waveforms as in `embed`."""
        hidden = self._hidden(waveforms, train)
        weights = self.dense[-1](hidden.channels)
        return self._outputs(dense_elu_norm(hidden, weights, self.norms[-1], train=train))

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size] -> [..., num_classes]."""
        no_bias = jnp.zeros(embeddings.shape[-1])
        return self._outputs(elu_norm(embeddings, no_bias, self.norms[-1], train=train))

    def _outputs(self, hidden: Hidden) -> Outputs:
        return Outputs.of_logits(dense(hidden, self.output(hidden.channels)))

    def _hidden(self, waveforms: jax.Array, train: bool) -> Hidden:
        """The inputs of the last hidden layer, [batch, channels]."""
        dtype, matmul_precision = _compute(self.precision)
        buffers = self.get_variable("buffers", "convolutions", (None,) * len(STRIDES))
        # Scale on the device, so that only int16 is copied to it.
        hidden = Hidden((waveforms.astype(jnp.float32)[:, :, None] / 32768).astype(dtype))
        with jax.default_matmul_precision(matmul_precision):
            for weights, norm, stride, buffer in zip(
                self.convolutions, self.norms, STRIDES, buffers, strict=False
            ):
                hidden = conv_elu_norm(
                    hidden,
                    weights(hidden.channels),
                    norm,
                    stride=stride,
                    formulation=self.formulation,
                    train=train,
                    buffers=buffer,
                )
            hidden = hidden.flatten()
        for weights, norm in zip(self.dense[:-1], self.norms[len(STRIDES) :], strict=False):
            hidden = dense_elu_norm(hidden, weights(hidden.channels), norm, train=train)
        return hidden
