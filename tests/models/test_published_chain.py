"""The published networks from training to export, on short clips at their own rates.

`test_published_exports.py` tests the other formats of an export.
"""

import jax
import numpy as np
import pytest
from small_network import shorten_mobilenet

from relabel_jax import score
from relabel_jax.errors import InputError
from relabel_jax.experiments.config import model_config, paper_config
from relabel_jax.experiments.run import run
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.folder import embed
from relabel_jax.inference.listen import listen
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.inference.nearest import Clips
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

SMALL = {
    "cnn6": {"features": (4, 4, 8, 8), "sample_rate_hz": 8_000},
    "mn04": {"width": 0.1, "formulation": "matmul"},  # that for CPUs takes long to compile
    "ast_tiny": {"width": 16, "num_heads": 2, "num_layers": 2, "num_frames": 46},
}
RATES = {"mn04": 32_000, "ast_tiny": 16_000}
SECONDS = 0.5


@pytest.mark.parametrize(
    "name", ["cnn6", pytest.param("mn04", marks=pytest.mark.release), "ast_tiny"]
)
def test_from_training_to_export(name, miniature_at, miniature_data, tmp_path, monkeypatch):
    shorten_mobilenet(monkeypatch)
    rate = SMALL[name].get("sample_rate_hz", RATES.get(name))

    def train(workdir, num_epochs):
        config = paper_config("Human sounds", "base")
        data_dir = miniature_at(rate, SECONDS)
        config.update({"data_dir": str(data_dir), "labeling": "pe_cml", "loss": "bce"})
        config.update({"batch_size": 16, "num_epochs": num_epochs, "resident": "never"})
        config.model = model_config(name)
        config.model.update(SMALL[name] | {"duration_s": SECONDS})
        return run(config, workdir)

    result = train(tmp_path / "whole", 2)
    train(tmp_path / "resumed", 1)
    assert train(tmp_path / "resumed", 2) == result == Workdir(tmp_path / "whole").read_result()
    states = [
        jax.tree.leaves(load_pretrained(tmp_path / each).variables) for each in ("whole", "resumed")
    ]
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)

    sounds = [np.random.default_rng(i).normal(0, 0.1 * (i + 1), 22_050) for i in range(3)]
    sounds = [each.astype(np.float32) for each in sounds]
    embedder = Embedder.load(tmp_path / "whole")
    embeddings, scores = embedder.embed(sounds, 44_100), embedder.scores(sounds, 44_100)
    pretrained = load_pretrained(tmp_path / "whole")
    assert embeddings.shape == (3, pretrained.network.embedding_size)
    export(pretrained, tmp_path / "out", ["safetensors"])
    again = Embedder.load(tmp_path / "out")
    np.testing.assert_allclose(again.embed(sounds, 44_100), embeddings, atol=1e-5)
    np.testing.assert_allclose(again.scores(sounds, 44_100), scores, atol=1e-5)

    check_commands(tmp_path / "whole", embedder, miniature_data.parent / "mini", tmp_path)


def check_commands(workdir, embedder, mini, tmp_path):
    """Embeds, searches, listens and scores on recordings of 10 s at another rate."""
    recordings = sorted((mini / "audio").iterdir())[:3]
    output = tmp_path / "embeddings.parquet"
    done = embed(workdir, ",".join(map(str, recordings)), output)
    assert done == {"recordings": 3, "rejects": 0, "windows": 3 * 10 / SECONDS}
    duration_s, _, scores = listen(embedder, str(recordings[0]))
    assert duration_s == pytest.approx(10, abs=0.01)
    assert scores.shape == (len(embedder.classes),)
    nearest = Clips.read(output, embedder).nearest_to(recordings[0], embedder, 2)
    assert {path for path, *_ in nearest} == set(map(str, recordings[1:]))
    flags = [f"--segments={mini / 'segments.csv'}", f"--ontology={mini / 'ontology.json'}"]
    assert score.main([f"--scores={workdir}", "--labelings=ol", *flags]) == 0


@pytest.mark.parametrize(("name", "rate"), [("cnn6", 32_000), ("mn04", 16_000)])
def test_a_data_set_of_another_rate(name, rate, miniature_at, tmp_path):
    config = paper_config("Human sounds", "base")
    config.data_dir = str(miniature_at(rate, SECONDS))
    config.model = model_config(name)
    config.model.duration_s = SECONDS
    with pytest.raises(
        InputError, match=f"has waveforms of 0.5 s at {rate} Hz, but the network {name} takes 0.5"
    ):
        run(config, tmp_path / "W")
