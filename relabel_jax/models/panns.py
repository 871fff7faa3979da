"""PANNs' CNN6, CNN10 and CNN14: convolutions on a log-mel spectrogram.

Kong et al., "PANNs: large-scale pretrained audio neural networks for audio pattern recognition"
(2020), Table I; code: https://github.com/qiuqiangkong/audioset_tagging_cnn.

                CNN6         CNN10              CNN14
    blocks      5 x 5, 64    (3 x 3, 64) x 2    (3 x 3, 64) x 2
                5 x 5, 128   (3 x 3, 128) x 2   (3 x 3, 128) x 2
                5 x 5, 256   (3 x 3, 256) x 2   (3 x 3, 256) x 2
                5 x 5, 512   (3 x 3, 512) x 2   (3 x 3, 512) x 2
                                                (3 x 3, 1024) x 2
                                                (3 x 3, 2048) x 2
    dense       512          512                2048
                classes      classes            classes
    parameters  4,837,455    5,219,279          80,753,615

Batch normalization and ReLU follow each convolution, 2 x 2 mean pooling each block, except the last
block of CNN14. The mean over frequency, and the maximum plus the mean over time, are the inputs of
the dense layers. The parameters are those that are trained for 527 classes; the arrays of the front
end are constants.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
from flax import linen as nn

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Outputs
from relabel_jax.models.front_ends import (
    PANNS_BANDS,
    PANNS_LOWEST_HZ,
    PANNS_SIZES,
    check_options,
    panns_log_mel,
    uses_cpu_forms,
)
from relabel_jax.models.spec_augment import (
    STREAM,
    check_masks,
    random_streams,
    spec_augment,
)
from relabel_jax.ops.batch_norm import BatchNorm
from relabel_jax.ops.same_convolution import convolve

_glorot = nn.initializers.glorot_uniform()


class ConvBlock(nn.Module):
    """Convolutions, each with batch normalization and ReLU, and 2 x 2 mean pooling.

    Attributes:
      features: channels of the convolutions.
      kernel_size: their extent in time and in frequency.
      num_convolutions: how many.
      pool: whether to pool.
      on_cpu: whether the kernels' gradients are computed in the form that is fast on a CPU.
      axis_name: see `PANN`.
    """

    features: int
    kernel_size: int
    num_convolutions: int
    pool: bool
    on_cpu: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """float32[batch, frames, bands, channels] -> [batch, frames', bands', features]."""
        for number in range(1, self.num_convolutions + 1):
            shape = (self.kernel_size, self.kernel_size)
            padding = self.kernel_size // 2
            convolution = nn.Conv(
                self.features,
                shape,
                padding=padding,
                use_bias=False,
                kernel_init=_glorot,
                conv_general_dilated=convolve if self.on_cpu else None,
                name=f"conv{number}",
            )
            norm = _norm(axis_name=self.axis_name, name=f"bn{number}")
            x = nn.relu(norm(convolution(x), use_running_average=not train))
        return nn.avg_pool(x, (2, 2), (2, 2)) if self.pool else x


class PANN(nn.Module):
    """The part that CNN6, CNN10 and CNN14 share. A subclass implements `backbone.Backbone`.

    Attributes:
      num_classes: outputs, one sigmoid each.
      features: channels of each block. The last number is the size of an embedding.
      sample_rate_hz: a key of `front_ends.PANNS_SIZES`, which has the sizes of the spectrogram.
      duration_s: length of the input waveforms.
      block_dropout: share of a block's outputs that is dropped in training.
      dropout: share of the dense layers' inputs that is dropped in training.
      spec_augment: the masks of `spec_augment` in training, such as (2, 64, 2, 8); () for none.
      formulation: how the front end is computed, one of `front_ends.FORMULATIONS`. On a CPU, `auto`
        also chooses how the gradients of convolutions are computed (`ops/same_convolution.py`).
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
    """

    num_classes: int
    features: Sequence[int] = (64, 128, 256, 512)
    sample_rate_hz: int = 8_000
    duration_s: float = 10.0
    block_dropout: float = 0.2
    dropout: float = 0.5
    spec_augment: Sequence[int] = ()
    formulation: str = "auto"
    axis_name: str | None = None

    kernel_size: ClassVar[int] = 3
    convolutions_per_block: ClassVar[int] = 2
    pools_last: ClassVar[bool] = True
    pytorch_example: ClassVar[str] = "panns_pytorch.txt"

    def __post_init__(self):
        if self.sample_rate_hz not in PANNS_SIZES:
            raise InputError(
                f"config.model.sample_rate_hz: PANNs' front end is for "
                f"{', '.join(map(str, PANNS_SIZES))} Hz, got {self.sample_rate_hz}"
            )
        if not self.features or min(self.features) < 1:
            raise InputError(
                f"config.model.features: expected positive numbers, got {self.features}"
            )
        sizes = PANNS_SIZES[self.sample_rate_hz]
        num_pools = len(self.features) - (not self.pools_last)
        # The front end reflects half a frame, and each pooling needs two frames or more.
        fewest = max(sizes.fft_size // 2 + 1, ((1 << num_pools) - 1) * sizes.hop)
        check_options(self.formulation, self.waveform_format, fewest)
        check_masks(self.spec_augment)
        super().__post_init__()

    @property
    def waveform_format(self) -> WaveformFormat:
        """Sample rate and length of the input waveforms."""
        return WaveformFormat(self.sample_rate_hz, self.duration_s)

    @property
    def random_streams(self) -> tuple[str, ...]:
        """The random streams that training needs."""
        return ("dropout", *random_streams(self.spec_augment))

    @property
    def embedding_size(self) -> int:
        """The number of values in an embedding."""
        return self.features[-1]

    def for_export(self) -> "PANN":
        """The network without an FFT, which ONNX's runtimes do not all have."""
        return self.clone(formulation="matmul")

    def export_facts(self) -> dict[str, Any]:
        """The sizes of the front end, and whether the last block pools."""
        sizes = PANNS_SIZES[self.sample_rate_hz]
        bands = {"bands": PANNS_BANDS, "lowest_hz": PANNS_LOWEST_HZ}
        return {**sizes._asdict(), **bands, "pools_last": self.pools_last}

    def setup(self):
        self.bn0 = _norm(axis_name=self.axis_name)
        last = len(self.features) - 1
        on_cpu = uses_cpu_forms(self.formulation)
        self.conv_block = [
            ConvBlock(
                features,
                self.kernel_size,
                self.convolutions_per_block,
                number < last or self.pools_last,
                on_cpu,
                self.axis_name,
            )
            for number, features in enumerate(self.features)
        ]
        self.drop_block = nn.Dropout(self.block_dropout)
        self.drop = nn.Dropout(self.dropout)
        self.fc1 = nn.Dense(self.embedding_size, kernel_init=_glorot)
        self.fc_audioset = nn.Dense(self.num_classes, kernel_init=_glorot)

    def published_name(self, *path: str) -> str:
        """The name of a module in the authors' state dict (`published.py`)."""
        first, *rest = path
        if first.startswith("conv_block_"):
            first = f"conv_block{int(first.removeprefix('conv_block_')) + 1}"
        return ".".join([first, *rest])

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for int16[batch, samples], or a float array in int16's scale."""
        return self.head(self.embed(waveforms, train), train)

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The outputs of the hidden dense layer after ReLU, float32[batch, embedding_size]."""
        x = panns_log_mel(waveforms, self.sample_rate_hz, self.formulation)
        x = self.bn0(x, use_running_average=not train)
        if train and self.spec_augment:
            x = spec_augment(x, self.make_rng(STREAM), self.spec_augment)
        x = x[..., None]
        for block in self.conv_block:
            x = self.drop_block(block(x, train), deterministic=not train)
        x = x.mean(axis=2)
        x = self.drop(x.max(axis=1) + x.mean(axis=1), deterministic=not train)
        return nn.relu(self.fc1(x))

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size].

        The authors' code drops no part of the inputs of the output layer, although it defines such
        a dropout: only what it returns as embedding went through it.
        """
        return Outputs.of_logits(self.fc_audioset(embeddings))


_norm = functools.partial(BatchNorm, momentum=0.9)  # PyTorch's default


class CNN6(PANN):
    """PANNs' CNN6: four blocks of one 5 x 5 convolution."""

    kernel_size: ClassVar[int] = 5
    convolutions_per_block: ClassVar[int] = 1
    description: ClassVar[str] = (
        'CNN6 of "PANNs: large-scale pretrained audio neural networks for audio pattern '
        'recognition" (Kong et al.): four 5 x 5 convolutions on a log-mel spectrogram.'
    )


class CNN10(PANN):
    """PANNs' CNN10: four blocks of two 3 x 3 convolutions."""

    description: ClassVar[str] = (
        'CNN10 of "PANNs: large-scale pretrained audio neural networks for audio pattern '
        'recognition" (Kong et al.): eight 3 x 3 convolutions on a log-mel spectrogram.'
    )


class CNN14(PANN):
    """PANNs' CNN14: six blocks of two 3 x 3 convolutions."""

    features: Sequence[int] = (64, 128, 256, 512, 1024, 2048)
    pools_last: ClassVar[bool] = False
    description: ClassVar[str] = (
        'CNN14 of "PANNs: large-scale pretrained audio neural networks for audio pattern '
        'recognition" (Kong et al.): twelve 3 x 3 convolutions on a log-mel spectrogram.'
    )
