"""A small CNN on log-mel spectrograms, which are computed inside the program.

Three blocks of 3 x 3 convolution, batch normalization, ReLU and 2 x 2 mean pooling, then the mean
over time and frequency, a dense layer (the embedding), dropout and one sigmoid a class. It follows
CNN6 of PANNs (Kong et al., "PANNs: large-scale pretrained audio neural networks for audio pattern
recognition", 2020) in miniature, and shows how little a network needs to fit into this system.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.models import front_ends
from relabel_jax.models.backbone import Outputs
from relabel_jax.ops.batch_norm import BatchNorm
from relabel_jax.ops.same_convolution import convolve


class LogMelCNN(nn.Module):
    """The network; it implements `backbone.Backbone`.

    Attributes:
      num_classes: outputs, one sigmoid each.
      sample_rate_hz, duration_s: sample rate and length of the input waveforms.
      window_s, hop_s: length and distance of the frames of the spectrogram, in seconds.
      num_mels: bands of the spectrogram, from 50 Hz to half the sample rate.
      features: channels of the convolutions.
      embedding_size: units of the dense layer.
      dropout: share of the embedding that is dropped in training.
      formulation: how the spectrogram is computed, one of `front_ends.FORMULATIONS`. On a CPU,
        `auto` also chooses how convolutions are computed (`ops/same_convolution.py`).
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
    """

    num_classes: int
    sample_rate_hz: int = 8_000
    duration_s: float = 10.0
    window_s: float = 0.032
    hop_s: float = 0.01
    num_mels: int = 64
    features: Sequence[int] = (16, 32, 64)
    embedding_size: int = 128
    dropout: float = 0.2
    formulation: str = "auto"
    axis_name: str | None = None

    random_streams = ("dropout",)

    @property
    def waveform_format(self) -> WaveformFormat:
        """Sample rate and length of the input waveforms."""
        return WaveformFormat(self.sample_rate_hz, self.duration_s)

    def __post_init__(self):
        size = round(self.window_s * self.sample_rate_hz)
        front_ends.check_options(self.formulation, self.waveform_format, size)
        super().__post_init__()

    def for_export(self) -> "LogMelCNN":
        """The network without an FFT, which ONNX's runtimes do not all have."""
        return self.clone(formulation="matmul")

    def setup(self):
        form = convolve if front_ends.uses_cpu_forms(self.formulation) else None
        self.convolutions = [
            nn.Conv(features, (3, 3), padding=1, use_bias=False, conv_general_dilated=form)
            for features in self.features
        ]
        self.norms = [BatchNorm(axis_name=self.axis_name) for _ in self.features]
        self.hidden = nn.Dense(self.embedding_size)
        self.drop = nn.Dropout(self.dropout)
        self.output = nn.Dense(self.num_classes)

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for int16[batch, samples]."""
        return self.head(self.embed(waveforms, train), train)

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The embeddings, float32[batch, embedding_size]."""
        x = self._log_mel(waveforms.astype(jnp.float32) / 32768)[..., None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.relu(norm(convolution(x), use_running_average=not train))
            x = nn.avg_pool(x, (2, 2), (2, 2))
        return self.hidden(x.mean(axis=(1, 2)))

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size]."""
        hidden = self.drop(nn.relu(embeddings), deterministic=not train)
        return Outputs.of_logits(self.output(hidden))

    def _log_mel(self, waveforms: jax.Array) -> jax.Array:
        """float32[batch, samples] of full scale 1 -> decibels, float32[batch, frames, num_mels]."""
        size = round(self.window_s * self.sample_rate_hz)
        hop = round(self.hop_s * self.sample_rate_hz)
        frames = front_ends.whole_frames(waveforms, size, hop)
        filters = _mel_filters(self.num_mels, size // 2 + 1, self.sample_rate_hz)
        mel = front_ends.mel_power(
            frames * front_ends.hann(size, periodic=True), size, filters, self.formulation
        )
        return 10 * jnp.log10(jnp.maximum(mel, 1e-10))


def _mel_filters(num_mels: int, num_bins: int, sample_rate_hz: int) -> np.ndarray:
    """Triangles that overlap by half on the HTK mel scale, float32[num_bins, num_mels]."""
    highest_hz = sample_rate_hz / 2
    mel_ends = 2595 * np.log10(1 + np.array([50, highest_hz]) / 700)
    corners_hz = 700 * (10 ** (np.linspace(mel_ends[0], mel_ends[1], num_mels + 2) / 2595) - 1)
    bins_hz = np.linspace(0, highest_hz, num_bins)[:, None]
    rising = (bins_hz - corners_hz[:-2]) / (corners_hz[1:-1] - corners_hz[:-2])
    falling = (corners_hz[2:] - bins_hz) / (corners_hz[2:] - corners_hz[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
