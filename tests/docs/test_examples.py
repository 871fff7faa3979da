"""The worked examples of the page "Extending" do what the page says."""

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from documents import CHECKOUT, DOCS, EXAMPLES
from sklearn.metrics import label_ranking_average_precision_score

from data_prep.sources import Recording
from relabel_jax.errors import InputError, Rejected
from relabel_jax.inference.embedder import Embedder
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.main import main


@pytest.fixture(autouse=True)
def _examples_are_found(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


def test_they_are_short_and_on_the_page():
    examples = sorted(EXAMPLES.glob("*.py"))
    page = (DOCS / "extending.md").read_text()
    assert re.findall(r"\{literalinclude\} examples/(\w+\.py)", page) == [
        "energy_net.py",
        "npz_source.py",
        "below_masked.py",
        "lwlrap.py",
    ]
    assert len(examples) == 4
    for example in examples:
        assert len(example.read_text().splitlines()) < 60, example


@pytest.mark.slow
def test_the_network_trains_and_embeds(miniature_data, tmp_path, monkeypatch):
    flags = [f"--config.data_dir={miniature_data}", "--config.model.name=energy_net:EnergyNet"]
    flags += ["--config.model.frame_size=160", "--config.num_epochs=2", "--config.loss=bce"]
    flags += ["--config.batch_size=8"]
    flags += [f"--workdir={tmp_path / 'base'}"]
    # Other tests in this process use JAX. Commands then cannot choose the number of devices.
    one_device = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    monkeypatch.setenv("XLA_FLAGS", one_device)
    assert main(["--config=base_human", *flags]) == 0
    first, second = (tmp_path / "base" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(second)["train_loss"] < json.loads(first)["train_loss"]
    embedder = Embedder.load(tmp_path / "base")
    sounds = np.random.default_rng(0).uniform(-1, 1, (2, 80_000)).astype(np.float32)
    sounds[1] *= 0.01
    embeddings = embedder.embed(sounds, rate_hz=8_000)
    assert embeddings.shape == (2, 32)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 0.1


def test_the_source_reads_what_was_written(tmp_path):
    from npz_source import NpzSource

    path = tmp_path / "clips.npz"
    rng = np.random.default_rng(0)
    clips = {name: rng.uniform(-1, 1, 16_000).astype(np.float32) for name in ("a", "b-1", "c")}
    np.savez(path, rate_hz=16_000, **clips)
    source = NpzSource(str(path))
    entries = list(source.entries(with_labels=False))
    assert [entry.clip_id for entry in entries] == list(clips)
    assert entries[1].recording == Recording(str(path), entries[1].name)
    samples, rate_hz = source.read(entries[1].name, duration_s=0.5)
    assert rate_hz == 16_000
    np.testing.assert_array_equal(samples, clips[entries[1].name][:8_000])
    with pytest.raises(Rejected, match="no longer in the file"):
        source.read("other")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Rejected, match="damaged"):
        NpzSource(str(path))
    np.savez(tmp_path / "no_rate.npz", a=samples)
    with pytest.raises(InputError, match="has no array 'rate_hz'"):
        NpzSource(str(tmp_path / "no_rate.npz"))


@pytest.mark.slow
def test_the_source_builds_when_it_is_added_as_the_page_says(miniature_data, tmp_path):
    for package in ("data_prep", "relabel_jax"):
        shutil.copytree(CHECKOUT / package, tmp_path / package)
    sources = tmp_path / "data_prep" / "sources"
    shutil.copy(EXAMPLES / "npz_source.py", sources)
    (line,) = re.findall(r'^    "\.npz": .*$', (DOCS / "extending.md").read_text(), re.MULTILINE)
    kinds = (sources / "__init__.py").read_text().replace("_KINDS = {\n", f"_KINDS = {{\n{line}\n")
    (sources / "__init__.py").write_text(kinds)

    mini = miniature_data.parent / "mini"
    clips = {
        path.stem: soundfile.read(path, dtype="float32", always_2d=True)[0][:, 0]
        for path in itertools.islice(sorted((mini / "audio").iterdir()), 5)
    }
    np.savez(tmp_path / "clips.npz", rate_hz=16_000, **clips)
    build = [sys.executable, "-m", "data_prep.build", "--audio=clips.npz", "--num_workers=1"]
    build += [f"--segments={mini / 'segments.csv'}", f"--ontology={mini / 'ontology.json'}"]
    subprocess.run([*build, "--output_dir=data"], cwd=tmp_path, check=True, capture_output=True)
    index = pq.read_table(tmp_path / "data" / "clips.parquet")
    assert set(index["clip_id"].to_pylist()) == set(clips)


def test_the_labeling_masks_what_the_raters_did_not_choose():
    from below_masked import below_masked

    ontology = Ontology.audioset()
    guitar, electric, acoustic, music = map(
        ontology.find, ("Guitar", "Electric guitar", "Acoustic guitar", "Music")
    )
    labels = np.zeros((1, len(ontology)), bool)
    labels[0, [guitar, electric]] = True
    everything = np.arange(len(ontology))
    positive, masked = below_masked(labels, ontology, everything)
    assert positive[0, [guitar, electric, music]].all()
    assert masked[0, acoustic]
    assert not masked[0, music]
    assert not (positive & masked).any()
    # It masks all that PE-CML masks.
    rng = np.random.default_rng(0)
    labels = rng.random((200, len(ontology))) < 0.004
    positive, masked = below_masked(labels, ontology, everything)
    expanded, children_masked = relabel(labels, ontology, "pe_cml")
    np.testing.assert_array_equal(positive, expanded)
    assert (masked >= children_masked).all()
    assert masked.sum() > children_masked.sum()


@pytest.mark.slow
def test_the_labeling_trains(miniature_data, tmp_path):
    from below_masked import train_base

    recipe = {"batch_size": 8, "num_epochs": 1, "steps_per_call": 4}
    recipe |= {"learning_rate": 0.001, "learning_rate_decay": 1.0}
    recipe |= {"resident": "never", "members_by": "auto"}
    model = {"name": "energy_net:EnergyNet"}
    trained = train_base(miniature_data, tmp_path / "run", "Human sounds", model, **recipe)
    assert trained.best_epoch == 1
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert 0 < json.loads(line)["validation_mAP"] <= 1


def test_the_metric_is_scikit_learns():
    from lwlrap import lwlrap

    rng = np.random.default_rng(0)
    scores = rng.random((50, 12)).round(1).astype(np.float32)  # with ties
    labels = rng.random((50, 12)) < 0.3
    labels[:5] = False
    nothing = np.zeros_like(labels)
    of_clips = functools.partial(label_ranking_average_precision_score, sample_weight=None)
    some = labels.any(axis=1)
    weights = labels[some].sum(axis=1)
    each = [of_clips(labels[i : i + 1], scores[i : i + 1]) for i in np.flatnonzero(some)]
    assert lwlrap(scores, labels, nothing) == pytest.approx(np.average(each, weights=weights))
    # A masked entry is as good as absent.
    masked = np.zeros_like(labels)
    masked[:, 3] = True
    rest = np.delete(np.arange(12), 3)
    without = lwlrap(scores[:, rest], labels[:, rest], nothing[:, rest])
    assert lwlrap(scores, labels, masked) == pytest.approx(without)
    assert np.isnan(lwlrap(scores, nothing, nothing))


@pytest.mark.slow
def test_the_metric_of_a_run(small_base):
    from lwlrap import of_run

    assert 0 < of_run(str(small_base)) <= 1
