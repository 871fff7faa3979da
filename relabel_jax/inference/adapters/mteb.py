"""The network as an encoder of MTEB, for its audio tasks: `mteb.evaluate(MtebModel(path), tasks)`.

Needs the extra: pip install '.[mteb]'.
"""

import pathlib
from typing import Any

import numpy as np
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from relabel_jax.inference.embedder import Embedder
from relabel_jax.version import __version__


class MtebModel(AbsEncoder):
    """An `Embedder` of the workdir of a finished training, or of an exported folder."""

    def __init__(self, path: str | pathlib.Path):
        self._embedder = Embedder.load(path)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"relabel_jax/{pathlib.Path(path).resolve().name}",
                "revision": f"{__version__}-{self._embedder.fingerprint}",
                "embed_dim": self._embedder.embedding_size,
                "modalities": ["audio"],
                "framework": ["JAX"],
            }
        )

    def encode(self, inputs: Any, **_: Any) -> np.ndarray:
        """Embeds MTEB's batches.

        Args:
          inputs: batches `{"audio": [{"array": ..., "sampling_rate": ...}, ...]}`. Arrays are
            `[time]` or `[channels, time]`, as `datasets` decodes them.

        Returns:
          float32[clips, embedding_size].
        """
        rows = [
            self._embedder.embed([np.asarray(clip["array"]).T], clip["sampling_rate"])
            for batch in inputs
            for clip in batch["audio"]
        ]
        return np.concatenate(rows)
