"""HEAR 2021's common API: `hear-validator relabel_jax.hear -m W/base`, and HEAR's evaluation kit.

https://hearbenchmark.com/hear-api.html. The model is JAX inside and a `torch.nn.Module` outside,
as the API asks; tensors come back on the device that they came from. Needs PyTorch:
pip install '.[torch]'.
"""

import numpy as np
import torch

from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder

SAMPLE_RATES_HZ = (16_000, 22_050, 32_000, 44_100, 48_000)  # the rates that HEAR allows
TIMESTAMP_HOP_S = 0.05  # HEAR asks for 50 ms at most
TIMESTAMP_WINDOW_S = 1.0


class HearModel(torch.nn.Module):
    """An `Embedder` with the attributes that HEAR asks for; it has no PyTorch parameters.

    Attributes:
      sample_rate: the lowest of HEAR's rates that keeps all that the network hears. The embedder
        resamples from it to the network's rate.
    """

    def __init__(self, embedder: Embedder):
        super().__init__()
        self.embedder = embedder
        self.sample_rate = next(
            (each for each in SAMPLE_RATES_HZ if each >= embedder.sample_rate_hz),
            SAMPLE_RATES_HZ[-1],
        )
        self.scene_embedding_size = embedder.embedding_size
        self.timestamp_embedding_size = embedder.embedding_size


def load_model(model_file_path: str = "") -> HearModel:
    """Loads the workdir of a finished training, or an exported folder.

    Args:
      model_file_path: the folder. There is no default model.

    Raises:
      InputError: the folder does not exist or cannot be loaded.
    """
    return HearModel(Embedder.load(model_file_path))


def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """One embedding a sound.

    Args:
      audio: float[sounds, samples] at `model.sample_rate`, in -1 to 1.
      model: of `load_model`.

    Returns:
      float32[sounds, embedding_size].

    Raises:
      InputError: the audio does not have that form.
    """
    embeddings = model.embedder.embed(_numpy(audio), model.sample_rate)
    return torch.from_numpy(embeddings).to(audio.device)


def get_timestamp_embeddings(
    audio: torch.Tensor, model: HearModel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings along the time, each of 1 s of sound, or less if the network takes less.

    Args:
      audio, model: as in `get_scene_embeddings`.

    Returns:
      `(embeddings, timestamps)`: float32[sounds, frames, embedding_size], and
      float32[sounds, frames], the centres in ms, one every 50 ms.

    Raises:
      InputError: the audio does not have that form.
    """
    embeddings, centers_ms = model.embedder.embed_timestamps(
        _numpy(audio),
        model.sample_rate,
        hop_s=TIMESTAMP_HOP_S,
        window_s=min(TIMESTAMP_WINDOW_S, model.embedder.waveform_format.duration_s),
    )
    timestamps = np.tile(centers_ms.astype(np.float32), (len(embeddings), 1))
    return torch.from_numpy(embeddings).to(audio.device), torch.from_numpy(timestamps).to(
        audio.device
    )


def _numpy(audio: torch.Tensor) -> np.ndarray:
    if audio.ndim != 2:
        raise InputError(f"audio: expected [sounds, samples], got the shape {tuple(audio.shape)}")
    return audio.detach().cpu().numpy()
