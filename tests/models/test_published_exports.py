"""Every export of a published network computes what the network does, also in PyTorch and HEAR."""

import importlib.util

import jax
import numpy as np
import onnxruntime
import pytest
from test_published_networks import random_batch, random_variables

from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export, network_function
from relabel_jax.inference.pretrained import TRAINED_FACTS, Pretrained, SoundClass
from relabel_jax.models import registry

pytestmark = pytest.mark.slow

CLASSES = 5
NETWORKS = {
    "cnn6": {"features": (4, 4, 8, 8), "sample_rate_hz": 8_000},
    "cnn10": {"features": (4, 4, 8, 8), "sample_rate_hz": 32_000},
    "cnn14": {"features": (4, 4, 4, 4, 8, 8), "sample_rate_hz": 16_000},
    "mn04": {"width": 0.1},
    "mn10": {"width": 0.2, "formulation": "matmul"},
    "ast_tiny": {"width": 16, "num_heads": 2, "num_layers": 2, "num_frames": 60},
    "ast_small": {"width": 12, "num_heads": 3, "num_layers": 1, "num_frames": 46},
    "ast_base": {"width": 8, "num_heads": 1, "num_layers": 1, "num_frames": 26},
}
LARGER = ("cnn10", "mn10", "ast_small", "ast_base")  # than another with the same layers
SECONDS = 0.8


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.release if name in LARGER else ()) for name in NETWORKS
    ]
)
def pretrained(request):
    """A network with random weights, normalized by the statistics of the waveforms."""
    dropouts = {"block_dropout", "dropout"} & registry.default_options(request.param).keys()
    options = NETWORKS[request.param] | dict.fromkeys(dropouts, 0.0) | {"duration_s": SECONDS}
    network = registry.build({"name": request.param, **options}, CLASSES)
    variables = jax.device_get(random_variables(network, random_batch(network)[0]))
    classes = tuple(SoundClass(f"/m/{i}", f"Sound {i}", ((f"Sound {i}",),)) for i in range(CLASSES))
    return Pretrained(network, variables, classes, dict.fromkeys(TRAINED_FACTS, 0))


@pytest.fixture
def waveforms(pretrained):
    """float32[clips, samples] of full scale 1, which int16 can hold."""
    return random_batch(pretrained.network)[0].astype(np.float32) / 32768


def check(found, expected):
    assert np.ptp(expected[1], axis=0).mean() > 2e-3  # the clips differ
    for got, want, scale in zip(found, expected, (np.ptp(expected[0]), 1), strict=True):
        np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=1e-4 * scale)


def test_stablehlo_and_onnx(pretrained, waveforms, tmp_path):
    export(pretrained, tmp_path / "out", ["safetensors", "stablehlo", "onnx"])
    expected = jax.jit(network_function(pretrained))(waveforms)
    program = jax.export.deserialize((tmp_path / "out" / "model.stablehlo").read_bytes())
    check(program.call(waveforms), expected)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    check(session.run(["embeddings", "scores"], {"waveforms": waveforms}), expected)

    embedder = Embedder.load(tmp_path / "out")
    rate_hz = embedder.sample_rate_hz
    assert rate_hz == pretrained.network.waveform_format.sample_rate_hz
    found = embedder.embed(waveforms, rate_hz), embedder.scores(waveforms, rate_hz)
    check(found, expected)


@pytest.mark.extra
def test_pytorch_and_hear(pretrained, waveforms, tmp_path):
    torch = pytest.importorskip("torch")
    from relabel_jax import hear

    export(pretrained, tmp_path / "out", ["safetensors"])
    spec = importlib.util.spec_from_file_location(
        "example", tmp_path / "out" / "example_pytorch.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    found = example.run(torch.from_numpy(waveforms))
    check(found, jax.jit(network_function(pretrained))(waveforms))

    model = hear.load_model(str(tmp_path / "out"))
    rate_hz = pretrained.network.waveform_format.sample_rate_hz
    assert model.sample_rate == max(rate_hz, 16_000)
    scenes = hear.get_scene_embeddings(torch.from_numpy(waveforms), model)
    expected = Embedder.load(tmp_path / "out").embed(waveforms, model.sample_rate)
    np.testing.assert_allclose(scenes, expected, rtol=0, atol=1e-5 * np.ptp(expected))
