"""EfficientAT's MobileNetV3 on a log-mel spectrogram: mn04 and mn10.

Schmid et al., "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation"
(2023), after Howard et al., "Searching for MobileNetV3" (2019), Table 1; code:
https://github.com/fschmid56/EfficientAT. `BLOCKS` is the table. Between the blocks and the head are
a 1 x 1 convolution to six times the channels, and the mean over frequency and time.

Parameters for 527 classes: 4,876,831 for mn10, 983,599 for mn04. The arrays of the front end are
constants and do not count.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
from flax import linen as nn

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Outputs
from relabel_jax.models.front_ends import (
    EFFICIENTAT_RATE_HZ,
    check_options,
    efficientat_log_mel,
    uses_cpu_forms,
)
from relabel_jax.models.spec_augment import (
    STREAM,
    check_masks,
    random_streams,
    spec_augment,
)
from relabel_jax.ops import depthwise, same_convolution
from relabel_jax.ops.batch_norm import BatchNorm


class BlockSizes(NamedTuple):
    """The sizes of an inverted residual block at width 1.

    Attributes:
      kernel_size: extent of the depthwise convolution.
      expanded: channels of the depthwise convolution.
      features: channels of the outputs.
      squeezes: whether the channels are scaled by a squeeze-and-excitation.
      hard_swish: whether the activation is hard swish, else ReLU.
      stride: of the depthwise convolution.
    """

    kernel_size: int
    expanded: int
    features: int
    squeezes: bool
    hard_swish: bool
    stride: int


STEM_FEATURES = 16
HIDDEN_UNITS = 1280
BLOCKS = (
    BlockSizes(3, 16, 16, False, False, 1),
    BlockSizes(3, 64, 24, False, False, 2),
    BlockSizes(3, 72, 24, False, False, 1),
    BlockSizes(5, 72, 40, True, False, 2),
    BlockSizes(5, 120, 40, True, False, 1),
    BlockSizes(5, 120, 40, True, False, 1),
    BlockSizes(3, 240, 80, False, True, 2),
    BlockSizes(3, 200, 80, False, True, 1),
    BlockSizes(3, 184, 80, False, True, 1),
    BlockSizes(3, 184, 80, False, True, 1),
    BlockSizes(3, 480, 112, True, True, 1),
    BlockSizes(3, 672, 112, True, True, 1),
    BlockSizes(5, 672, 160, True, True, 2),
    BlockSizes(5, 960, 160, True, True, 1),
    BlockSizes(5, 960, 160, True, True, 1),
)


def divisible_by_8(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, at least 8 and at least 90% of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class ConvNorm(nn.Module):
    """Convolution, batch normalization and activation.

    Attributes:
      features: channels of the outputs.
      kernel_size, stride: of the convolution, along both axes.
      activation: "relu", "hard_swish" or "" for none.
      depthwise: whether each channel has its own kernel.
      on_cpu: whether the convolution has the form that is fast on a CPU.
      axis_name: see `MobileNetV3`.
    """

    features: int
    kernel_size: int
    stride: int
    activation: str
    depthwise: bool = False
    on_cpu: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """float32[batch, bands, frames, channels] -> [batch, bands', frames', features]."""
        form = depthwise.convolve if self.depthwise else same_convolution.convolve
        # "SAME" would pad an even axis at its end alone if the stride is 2.
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.stride,
            padding=self.kernel_size // 2,
            feature_group_count=self.features if self.depthwise else 1,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2, "fan_out", "normal"),
            conv_general_dilated=form if self.on_cpu else None,
            name="conv",
        )(x)
        x = BatchNorm(epsilon=1e-3, axis_name=self.axis_name, name="norm")(x, not train)
        return getattr(nn, self.activation)(x) if self.activation else x


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor in 0 to 1 that follows from the means of all channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32[batch, bands, frames, channels] -> the same shape."""
        channels = x.shape[-1]
        squeezed = nn.relu(_dense(divisible_by_8(channels // 4), name="fc1")(x.mean(axis=(1, 2))))
        return x * nn.sigmoid(_dense(channels, name="fc2")(squeezed))[:, None, None]


class InvertedResidual(nn.Module):
    """Expansion to more channels, depthwise convolution, and projection to fewer channels.

    Attributes:
      sizes: the sizes at the network's width.
      on_cpu: see `ConvNorm`.
      axis_name: see `MobileNetV3`.
    """

    sizes: BlockSizes
    on_cpu: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        """float32[batch, bands, frames, channels] -> [batch, bands', frames', features]."""
        sizes, channels, x = self.sizes, inputs.shape[-1], inputs
        activation = "hard_swish" if sizes.hard_swish else "relu"
        layer = functools.partial(ConvNorm, on_cpu=self.on_cpu, axis_name=self.axis_name)
        if sizes.expanded != channels:
            x = layer(sizes.expanded, 1, 1, activation, name="expand")(x, train)
        x = layer(
            sizes.expanded,
            sizes.kernel_size,
            sizes.stride,
            activation,
            depthwise=True,
            name="depthwise",
        )(x, train)
        if sizes.squeezes:
            x = SqueezeExcitation(name="squeeze")(x)
        x = layer(sizes.features, 1, 1, "", name="project")(x, train)
        return x + inputs if sizes.stride == 1 and sizes.features == channels else x


class MobileNetV3(nn.Module):
    """The part that mn04 and mn10 share. A subclass implements `backbone.Backbone`.

    The waveforms have 32 kHz.

    Attributes:
      num_classes: outputs, one sigmoid each.
      width: factor of all numbers of channels, which are then rounded to multiples of 8.
      duration_s: length of the input waveforms.
      dropout: share of the hidden layer that is dropped in training.
      spec_augment: the masks of `spec_augment` in training, such as (1, 192, 1, 48); () for none.
      formulation: how the front end is computed, one of `front_ends.FORMULATIONS`. On a CPU, `auto`
        also computes the depthwise convolutions as sums of shifted arrays (`ops/depthwise.py`).
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
    """

    num_classes: int
    width: float = 1.0
    duration_s: float = 10.0
    dropout: float = 0.2
    spec_augment: Sequence[int] = ()
    formulation: str = "auto"
    axis_name: str | None = None

    pytorch_example: ClassVar[str] = "mobilenet_pytorch.txt"

    def __post_init__(self):
        if not 0 < self.width <= 16:
            raise InputError(
                f"config.model.width: expected a number from 0 to 16, got {self.width}"
            )
        check_options(self.formulation, self.waveform_format, 1024)
        check_masks(self.spec_augment)
        super().__post_init__()

    @property
    def waveform_format(self) -> WaveformFormat:
        """Sample rate and length of the input waveforms."""
        return WaveformFormat(EFFICIENTAT_RATE_HZ, self.duration_s)

    @property
    def random_streams(self) -> tuple[str, ...]:
        """The random streams that training needs."""
        return ("dropout", *random_streams(self.spec_augment))

    @property
    def embedding_size(self) -> int:
        """The number of values in an embedding."""
        return 6 * self._channels(BLOCKS[-1].features)

    def for_export(self) -> "MobileNetV3":
        """The network without an FFT, which ONNX's runtimes do not all have."""
        return self.clone(formulation="matmul")

    def export_facts(self) -> dict[str, Any]:
        """The facts of the blocks that the weights do not tell."""
        return {
            "strides": [sizes.stride for sizes in BLOCKS],
            "hard_swish": [sizes.hard_swish for sizes in BLOCKS],
        }

    def _channels(self, at_width_1: int) -> int:
        return divisible_by_8(at_width_1 * self.width)

    def setup(self):
        on_cpu = uses_cpu_forms(self.formulation)
        layer = functools.partial(ConvNorm, on_cpu=on_cpu, axis_name=self.axis_name)
        self.stem = layer(self._channels(STEM_FEATURES), 3, 2, "hard_swish")
        self.blocks = [
            InvertedResidual(
                sizes._replace(
                    expanded=self._channels(sizes.expanded), features=self._channels(sizes.features)
                ),
                on_cpu,
                self.axis_name,
            )
            for sizes in BLOCKS
        ]
        self.last = layer(self.embedding_size, 1, 1, "hard_swish")
        self.hidden = _dense(self._channels(HIDDEN_UNITS))
        self.drop = nn.Dropout(self.dropout)
        self.output = _dense(self.num_classes)

    def published_name(self, *path: str) -> str:
        """The name of a module in the authors' state dict (`published.py`)."""
        first, *rest = path
        if first in ("hidden", "output"):
            return {"hidden": "classifier.2", "output": "classifier.5"}[first]
        if first in ("stem", "last"):
            part = f"features.{0 if first == 'stem' else len(BLOCKS) + 1}"
        else:
            number = int(first.removeprefix("blocks_"))
            sizes = BLOCKS[number]
            inputs = BLOCKS[number - 1].features if number else STEM_FEATURES
            expands = self._channels(inputs) != self._channels(sizes.expanded)
            layers = ["expand"] * expands + ["depthwise"] + ["squeeze"] * sizes.squeezes
            layers.append("project")
            part = f"features.{number + 1}.block.{layers.index(rest.pop(0))}"
        inner = {"conv": "0", "norm": "1"}
        return ".".join([part, inner.get(rest[0], f"conc_se_layers.0.{rest[0]}")])

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for int16[batch, samples], or a float array in int16's scale."""
        return self.head(self.embed(waveforms, train), train)

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The means of the last convolution's outputs, float32[batch, embedding_size]."""
        x = efficientat_log_mel(waveforms, self.formulation)
        if train and self.spec_augment:  # the authors mask with 0 before the normalization
            x = spec_augment(x, self.make_rng(STREAM), self.spec_augment, fill=4.5 / 5)
        x = x.swapaxes(1, 2)[..., None]
        x = self.stem(x, train)
        for block in self.blocks:
            x = block(x, train)
        return self.last(x, train).mean(axis=(1, 2))

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size]."""
        hidden = self.drop(nn.hard_swish(self.hidden(embeddings)), deterministic=not train)
        return Outputs.of_logits(self.output(hidden))


_dense = functools.partial(nn.Dense, kernel_init=nn.initializers.normal(0.01))


class MN04(MobileNetV3):
    """EfficientAT's mn04: MobileNetV3 with 0.4 times the channels."""

    width: float = 0.4
    description: ClassVar[str] = (
        'mn04 of "Efficient large-scale audio tagging via transformer-to-CNN knowledge '
        'distillation" (Schmid et al.): MobileNetV3 of width 0.4 on a log-mel spectrogram.'
    )


class MN10(MobileNetV3):
    """EfficientAT's mn10: MobileNetV3."""

    description: ClassVar[str] = (
        'mn10 of "Efficient large-scale audio tagging via transformer-to-CNN knowledge '
        'distillation" (Schmid et al.): MobileNetV3 on a log-mel spectrogram.'
    )
