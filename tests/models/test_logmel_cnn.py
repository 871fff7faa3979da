"""The second network: its front end against SciPy, and the whole chain from training to export."""

import json

import jax
import numpy as np
import pytest
import scipy.signal
import small_network

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import paper_config
from relabel_jax.experiments.run import run
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.models import variables as network_variables
from relabel_jax.models.logmel_cnn import LogMelCNN
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.step import Recipe, init_state, train_step

pytestmark = pytest.mark.slow


def config_of(data_dir, method, **fields):
    config = paper_config("Human sounds", method)
    config.update({"data_dir": str(data_dir), "batch_size": 8, "num_epochs": 2, "loss": "bce"})
    small_network.use_in(config)
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def base_dir(miniature_data, tmp_path_factory):
    """A finished base training."""
    workdir = tmp_path_factory.mktemp("logmel") / "base"
    run(config_of(miniature_data, "base", labeling="pe_cml"), workdir)
    return workdir


def test_the_front_end_is_a_power_spectrogram():
    network = LogMelCNN(2, sample_rate_hz=16_000, duration_s=0.5, num_mels=32)
    rng = np.random.default_rng(0)
    waveforms = rng.normal(0, 0.1, (2, 8_000)).astype(np.float32)
    got = network._log_mel(waveforms)
    _, _, spectrum = scipy.signal.stft(
        waveforms, 16_000, "hann", 512, 512 - 160, boundary=None, padded=False, scaling="spectrum"
    )
    window_sum = scipy.signal.get_window("hann", 512).sum()
    power = np.abs(spectrum.swapaxes(1, 2) * window_sum) ** 2
    assert got.shape == (2, power.shape[1], 32)
    # The bands add up to the spectrum between the first and the last band's centre.
    energy = (10 ** (np.asarray(got) / 10)).sum(axis=2)
    bins_hz = np.linspace(0, 8_000, power.shape[2])
    low, high = (power[..., (bins_hz >= f) & (bins_hz <= 8_000 - 10 * f)] for f in (100, 0))
    assert (energy <= high.sum(axis=2) * 1.01).all()
    assert (energy >= 0.8 * low.sum(axis=2)).all()


def test_a_tone_is_in_its_band():
    network = LogMelCNN(2, duration_s=1.0, num_mels=64)
    corners_hz = 700 * (10 ** (np.linspace(*mel_of([50, 4_000]), 66) / 2595) - 1)
    for band in (5, 30, 60):
        tone = np.sin(2 * np.pi * corners_hz[band + 1] * np.arange(8_000) / 8_000)
        levels = np.asarray(network._log_mel(tone[None].astype(np.float32)))[0].mean(axis=0)
        assert abs(int(levels.argmax()) - band) <= 1


def mel_of(frequencies_hz):
    return 2595 * np.log10(1 + np.array(frequencies_hz) / 700)


def test_dropout_follows_from_seed_and_step():
    network = LogMelCNN(3, duration_s=0.5, dropout=0.5, **small_network.OPTIONS)
    batch = network_variables.waveform_batch(network)
    variables = network_variables.random_variables(network, batch, 0)
    rng = np.random.default_rng(0)
    inputs = rng.integers(-9999, 9999, (4, *batch.shape[1:]), np.int16)
    labels, masked = rng.random((2, 4, 3)) < 0.5
    recipe = Recipe(0.01, 0.9, 5)
    step = jax.jit(train_step, static_argnums=(0, 1))
    start = init_state(variables, recipe)

    def loss(state, seed):
        return float(step(network, recipe, state, inputs, labels, masked, seed=seed)[0].loss_sum)

    assert loss(start, 0) == loss(start, 0)
    assert loss(start, 0) != loss(start, 1)
    assert loss(start, 0) != loss(start.replace(step=start.step + 1), 0)
    still = network.clone(dropout=0.0)
    assert float(step(still, recipe, start, inputs, labels, masked)[0].loss_sum) != loss(start, 0)


def test_it_resumes_bit_for_bit(miniature_data, base_dir, tmp_path):
    run(config_of(miniature_data, "base", labeling="pe_cml", num_epochs=1), tmp_path)
    result = run(config_of(miniature_data, "base", labeling="pe_cml"), tmp_path)
    assert result == Workdir(base_dir).read_result()
    for name in ("scores", "labels", "masked"):
        got, expected = (np.load(each / "test_scores.npz")[name] for each in (tmp_path, base_dir))
        np.testing.assert_array_equal(got, expected)


def test_it_embeds_and_exports(base_dir, tmp_path):
    embedder = Embedder.load(base_dir)
    sound = np.random.default_rng(0).normal(0, 0.1, 44_100).astype(np.float32)
    embeddings, scores = embedder.embed([sound], 44_100), embedder.scores([sound], 44_100)
    assert embeddings.shape == (1, 6)
    export(load_pretrained(base_dir), tmp_path / "out", ["safetensors", "stablehlo"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"]["name"] == "logmel_cnn"
    again = Embedder.load(tmp_path / "out")
    np.testing.assert_allclose(again.embed([sound], 44_100), embeddings, atol=1e-5)
    np.testing.assert_allclose(again.scores([sound], 44_100), scores, atol=1e-5)


def test_another_rate_or_network_is_refused(miniature_data, base_dir, tmp_path):
    config = config_of(miniature_data, "base", **{"model.sample_rate_hz": 16_000})
    with pytest.raises(InputError, match=r"10 s at 8000 Hz.*logmel_cnn.*10 s at 16000 Hz.*build"):
        run(config, tmp_path / "run")
    config = paper_config("Human sounds", "finetune")
    config.update({"data_dir": str(miniature_data), "base": str(base_dir)})
    with pytest.raises(InputError, match=r"has config.model.name logmel_cnn, this config has wave"):
        run(config, tmp_path / "run")
