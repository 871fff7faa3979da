"""The network as an `EmbeddingModel` of perch-hoplite, for its search in collections of sounds.

perch-hoplite 1.0.2 asks for older versions of absl-py and ml-collections than this package, and
works with newer ones: pip install --no-deps perch-hoplite && pip install librosa.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict
from perch_hoplite.zoo import zoo_interface

from relabel_jax.inference.embedder import Embedder


@dataclasses.dataclass
class HopliteModel(zoo_interface.EmbeddingModel):
    """An `Embedder` over windows of the length that its network takes.

    Attributes:
      sample_rate: of the audio, which the embedder resamples.
      embedder: the network.
      hop_size_s: seconds from the start of one window to the start of the next; by default the
        length of a window. hoplite's framing leaves out the end of the audio after the last whole
        window.
    """

    embedder: Embedder
    hop_size_s: float | None = None

    @classmethod
    def from_config(cls, model_config: ConfigDict) -> "HopliteModel":
        """Loads `checkpoint`; `sample_rate` and the optional `hop_size_s` are the attributes."""
        fields = {**model_config}
        return cls(embedder=Embedder.load(fields.pop("checkpoint")), **fields)

    def embed(self, audio_array: np.ndarray) -> zoo_interface.InferenceOutputs:
        """Embeddings float32[windows, 1, embedding_size] of float32[time]."""
        return zoo_interface.embed_from_batch_embed_fn(self.batch_embed, audio_array)

    def batch_embed(self, audio_batch: np.ndarray) -> zoo_interface.InferenceOutputs:
        """Embeddings float32[batch, windows, 1, embedding_size] of float32[batch, time]."""
        duration_s = self.embedder.waveform_format.duration_s
        if audio_batch.shape[-1] > duration_s * self.sample_rate:
            hop_s = duration_s if self.hop_size_s is None else self.hop_size_s
            frames = self.frame_audio(audio_batch, duration_s, hop_s)
        else:
            frames = audio_batch[:, None]  # the embedder pads it as the training did
        embeddings = self.embedder.embed(frames.reshape(-1, frames.shape[-1]), self.sample_rate)
        shape = (*frames.shape[:2], 1, self.embedder.embedding_size)
        return zoo_interface.InferenceOutputs(embeddings.reshape(shape), batched=True)
