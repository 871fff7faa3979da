"""A new network: a small dense network on the energies of 10 ms frames."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.models.backbone import Outputs


class EnergyNet(nn.Module):
    """Log energies of frames, one hidden layer, one sigmoid for each class.

    Attributes:
      num_classes: number of outputs; the training sets it.
      frame_size: samples in a frame; an option, `config.model.frame_size`.
      embedding_size: units of the hidden layer; an option.
    """

    num_classes: int
    frame_size: int = 80
    embedding_size: int = 32

    @property
    def waveform_format(self) -> WaveformFormat:
        """The waveforms that the network takes: 10 s at 8 kHz."""
        return PAPER_FORMAT

    def setup(self):
        self.hidden = nn.Dense(self.embedding_size)
        self.norm = nn.LayerNorm()  # not BatchNorm, which would need the field `axis_name`
        self.output = nn.Dense(self.num_classes)

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """Scores and logits for int16[batch, samples]."""
        return self.head(self.embed(waveforms, train), train)

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """Embeddings, float32[batch, embedding_size]."""
        samples = waveforms.astype(jnp.float32) / 32768
        frames = samples.reshape(samples.shape[0], -1, self.frame_size)
        return self.hidden(jnp.log(1e-4 + jnp.square(frames).mean(axis=2)))

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """Scores and logits for float32[..., embedding_size]."""
        return Outputs.of_logits(self.output(nn.relu(self.norm(embeddings))))
