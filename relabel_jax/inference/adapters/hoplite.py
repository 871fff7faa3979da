"""The network as an `EmbeddingModel` of perch-hoplite, for its search in collections of sounds.

perch-hoplite 1.0.2 asks for older versions of absl-py and ml-collections than this package, and
works with newer ones: pip install --no-deps perch-hoplite && pip install librosa.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict
from perch_hoplite.zoo import zoo_interface

from relabel_jax.data.schema import DURATION_S
from relabel_jax.inference.embedder import Embedder


@dataclasses.dataclass
class HopliteModel(zoo_interface.EmbeddingModel):
    """An `Embedder` over windows of 10 s.

    Attributes:
      sample_rate: of the audio that it is given; it is resampled inside.
      embedder: the network.
      hop_size_s: seconds from one window to the next; as hoplite frames audio, what is left over
        after the last whole window is not embedded.
    """

    embedder: Embedder
    hop_size_s: float = float(DURATION_S)

    @classmethod
    def from_config(cls, model_config: ConfigDict) -> "HopliteModel":
        """From `checkpoint`, `sample_rate` and, if not 10, `hop_size_s`."""
        fields = {**model_config}
        return cls(embedder=Embedder.load(fields.pop("checkpoint")), **fields)

    def embed(self, audio_array: np.ndarray) -> zoo_interface.InferenceOutputs:
        """float32[time] -> embeddings, float32[windows, 1, 128]."""
        return zoo_interface.embed_from_batch_embed_fn(self.batch_embed, audio_array)

    def batch_embed(self, audio_batch: np.ndarray) -> zoo_interface.InferenceOutputs:
        """float32[batch, time] -> embeddings, float32[batch, windows, 1, 128]."""
        if audio_batch.shape[-1] > DURATION_S * self.sample_rate:
            frames = self.frame_audio(audio_batch, DURATION_S, self.hop_size_s)
        else:
            frames = audio_batch[:, None]  # the embedder pads it as the network learned it
        embeddings = self.embedder.embed(frames.reshape(-1, frames.shape[-1]), self.sample_rate)
        shape = (*frames.shape[:2], 1, self.embedder.embedding_size)
        return zoo_interface.InferenceOutputs(embeddings.reshape(shape), batched=True)
