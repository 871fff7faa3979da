"""What version 0.1 wrote is still read: a data set, a finished run, its checkpoint, an export.

`version_0_1.tar.xz` was made by version 0.1 from 96 recordings of 25 ms, with a network of two
features a layer. `expected.npz` in it has what that version made of one second of noise.
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments.config import paper_config
from relabel_jax.experiments.run import run
from relabel_jax.inference.embedder import Embedder
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

ARCHIVE = pathlib.Path(__file__).with_name("version_0_1.tar.xz")


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The folder with `data`, `base`, `export` and `expected.npz`; the current folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(method, **fields):
    """The config that the old run was begun with, in today's form."""
    config = paper_config("Human sounds", method)
    config.update({"data_dir": "data", "batch_size": 8, "num_epochs": 1, "steps_per_call": 4})
    config.model.update({"features": (2,) * 9, "dense_units": (4, 4)})
    config.update({"resident": "never", "labeling": "pe_cml", **fields})
    return config


def test_a_data_set(old):
    data_set = open_data_set("data")
    assert data_set.waveform_format == PAPER_FORMAT
    assert (
        data_set.fingerprint == json.loads((old / "base" / "config.json").read_text())["data_set"]
    )
    waveforms = data_set.read_waveforms(np.arange(len(data_set.clip_ids)))
    assert waveforms.shape == (96, 80_000)
    assert (waveforms[:, :200] != 0).any(axis=1).all()
    assert not waveforms[:, 200:].any()


def test_a_finished_run_is_read_prolonged_and_tuned(old):
    before = json.loads((old / "base" / "result.json").read_text())
    result = run(config_of("base"), old / "base")
    assert result.test == before["test"]
    assert (result.model["name"], result.model["features"]) == ("waveform_cnn", [2] * 9)
    assert json.loads((old / "base" / "result.json").read_text()) == before  # not written again

    tuned = run(config_of("finetune", base="base", labeling="ol"), old / "tuned")
    assert tuned.base_labeling == "pe_cml"
    prolonged = run(config_of("base", num_epochs=2), old / "base")
    assert prolonged.config["num_epochs"] == 2
    assert len(Workdir(old / "base").read_curve()) == 2
    other = config_of("base", num_epochs=2)
    other.model.norm_order = "bn_elu"
    with pytest.raises(InputError, match=r"was begun with config.model.norm_order 'elu_bn', not"):
        run(other, old / "base")


@pytest.mark.parametrize("folder", ["base", "export"])
def test_a_network_embeds_as_before(old, folder):
    embedder = Embedder.load(folder)
    noise = (np.random.default_rng(0).standard_normal(80_000) * 0.1).astype(np.float32)
    with np.load("expected.npz") as expected:
        assert embedder.fingerprint == str(expected["fingerprint"])
        assert [each.mid for each in embedder.classes] == expected["mids"].tolist()
        got = embedder.embed([noise], 8_000), embedder.scores([noise], 8_000)
        np.testing.assert_allclose(got[0], expected["embeddings"], atol=1e-5)
        np.testing.assert_allclose(got[1], expected["scores"], atol=1e-5)
