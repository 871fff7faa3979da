"""The adapter for MTEB, in one of its own tasks, on sounds that are at hand."""

import dataclasses

import numpy as np
import pytest

from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.pretrained import TRAINED_FACTS

pytestmark = [pytest.mark.slow, pytest.mark.extra]

mteb = pytest.importorskip("mteb")


@pytest.mark.filterwarnings("ignore")  # of MTEB and what it is made of
def test_mteb(paper_network, tmp_path):
    import datasets

    from relabel_jax.inference.adapters.mteb import MtebModel

    trained = dict.fromkeys(TRAINED_FACTS)
    export(
        dataclasses.replace(paper_network, trained=trained), tmp_path / "network", ["safetensors"]
    )

    rng = np.random.default_rng(0)

    def sound(label):
        return label * rng.uniform(-0.5, 0.5, 80_000)

    labels = [i % 2 for i in range(24)]
    clips = [{"array": sound(label).tolist(), "sampling_rate": 8_000} for label in labels]
    model = MtebModel(tmp_path / "network")
    assert isinstance(model, mteb.models.EncoderProtocol)
    found = model.encode([{"audio": clips[:3]}, {"audio": clips[3:5]}])
    waveforms = np.array([clip["array"] for clip in clips[:5]])
    expected = Embedder(paper_network).embed(waveforms, 8_000)
    np.testing.assert_allclose(found, expected, atol=1e-5)

    task = mteb.get_task("ESC50")
    task.dataset = datasets.DatasetDict(
        {"train": datasets.Dataset.from_dict({"audio": clips, "target": labels})}
    )
    task.data_loaded = True
    result = mteb.evaluate(model, task, cache=mteb.ResultCache(tmp_path / "cache"))
    (scores,) = result.task_results[0].scores["train"]
    assert scores["accuracy"] > 0.7  # of noise and silence, by a few clips each
