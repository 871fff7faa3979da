"""HEAR 2021's API: its own validator where that is installed, and what it asks for by hand."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder

pytestmark = [pytest.mark.slow, pytest.mark.extra]

torch = pytest.importorskip("torch")
hear = pytest.importorskip("relabel_jax.hear")


@pytest.fixture(scope="module")
def model(small_base):
    return hear.load_model(str(small_base))


def test_the_api(model, small_base):
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in (16_000, 22_050, 32_000, 44_100, 48_000)
    assert (model.scene_embedding_size, model.timestamp_embedding_size) == (8, 8)
    audio = torch.rand(3, 2 * model.sample_rate) - 0.5
    embedder = Embedder.load(small_base)

    scenes = hear.get_scene_embeddings(audio, model)
    assert (scenes.dtype, scenes.shape) == (torch.float32, (3, 8))
    np.testing.assert_allclose(scenes, embedder.embed(audio.numpy(), 16_000), atol=1e-6)

    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model)
    assert (embeddings.dtype, embeddings.shape) == (torch.float32, (3, 40, 8))
    assert timestamps.shape == (3, 40)
    np.testing.assert_allclose(np.diff(timestamps), 50, atol=1e-3)
    expected, _ = embedder.embed_timestamps(audio.numpy(), 16_000, hop_s=0.05)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)


def test_refused(model):
    with pytest.raises(InputError, match=r"expected \[sounds, samples\], got the shape \(160,\)"):
        hear.get_scene_embeddings(torch.zeros(160), model)
    with pytest.raises(InputError, match="NaN or inf"):
        hear.get_timestamp_embeddings(torch.full((1, 1600), torch.nan), model)
    with pytest.raises(InputError, match=r"\.: is not finished"):
        hear.load_model()


def test_the_official_validator(small_base):
    for name in ("hearvalidator", "tensorflow"):  # the validator imports TensorFlow
        if not importlib.util.find_spec(name):
            pytest.skip(f"needs {name}: pip install hearvalidator")
    run = subprocess.run(
        [sys.executable, "-m", "hearvalidator.validate", "relabel_jax.hear", "-m", small_base],
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.endswith("Looks good!\n"), run.stderr
    assert "We suggest" not in run.stderr
