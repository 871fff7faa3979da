"""The adapter for perch-hoplite, with the real package."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from relabel_jax.inference.embedder import Embedder

pytestmark = [pytest.mark.slow, pytest.mark.extra]

zoo_interface = pytest.importorskip("perch_hoplite.zoo.zoo_interface")


def test_hoplite(small_base):
    from relabel_jax.inference.adapters.hoplite import HopliteModel

    config = ConfigDict({"checkpoint": str(small_base), "sample_rate": 16_000, "hop_size_s": 5.0})
    model = HopliteModel.from_config(config)
    assert isinstance(model, zoo_interface.EmbeddingModel)
    embedder = Embedder.load(small_base)
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 26 * 16_000).astype(np.float32)
    outputs = model.embed(audio)
    assert not outputs.batched
    assert outputs.embeddings.shape == (4, 1, 8)  # [frames, channels, features]
    for frame in range(4):
        window = audio[frame * 80_000 :][:160_000]
        expected = embedder.embed(window, 16_000)[0]
        np.testing.assert_allclose(outputs.embeddings[frame, 0], expected, atol=1e-5)
    assert outputs.pooled_embeddings("mean", "squeeze").shape == (8,)
    short = model.batch_embed(np.stack([audio[:8_000], audio[8_000:16_000]]))
    assert short.batched
    expected = embedder.embed(audio[:16_000].reshape(2, 8_000), 16_000)
    np.testing.assert_allclose(short.embeddings[:, 0, 0], expected, atol=1e-5)
