"""A network of somebody else's own, from its run folder to embeddings and exports.

It has another sample rate and length than the paper's network, no batch normalization and no
options in common with it. Its classes are those of AudioSet's ontology.
"""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import soundfile

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.folder import embed
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.inference.nearest import Clips
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import classes_digest, side_columns
from relabel_jax.models.backbone import Outputs
from relabel_jax.models.variables import waveform_batch
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.schema import RunResult, Scores
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

RATE_HZ = 22_050
MIDS = ["/m/09x0r", "/m/01j3sz"]  # Speech and Laughter, the classes that were trained


class EnergyNet(nn.Module):
    """Energies of frames, a layer normalization and a dropout."""

    num_classes: int
    frame_size: int = 441
    widths: tuple[int, ...] = (8, 6)

    random_streams = ("dropout",)

    @property
    def waveform_format(self) -> WaveformFormat:
        return WaveformFormat(RATE_HZ, 1.5)

    @property
    def embedding_size(self) -> int:
        return self.widths[-1]

    def setup(self):
        self.layers = [nn.Dense(width) for width in self.widths]
        self.norm = nn.LayerNorm()
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Dense(self.num_classes)

    def __call__(self, waveforms, train):
        return self.head(self.embed(waveforms, train), train)

    def embed(self, waveforms, train=False):
        batch_size = waveforms.shape[0]
        frames = waveforms.astype(jnp.float32).reshape(batch_size, -1, self.frame_size) / 32768
        hidden = self.layers[0](jnp.log(1e-4 + jnp.square(frames).mean(axis=2)))
        for layer in self.layers[1:]:
            hidden = layer(nn.relu(hidden))
        return hidden

    def head(self, embeddings, train=False):
        hidden = self.dropout(self.norm(embeddings), deterministic=not train)
        return Outputs.of_logits(self.classifier(hidden))


def sound(duration_s, seed=0):
    """Noise whose level changes every 0.1 s."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.uniform(0.01, 0.5, round(duration_s * 10)), RATE_HZ // 10)
    return (levels * rng.uniform(-1, 1, len(levels))).astype(np.float32)


@pytest.fixture(scope="module")
def network_and_variables():
    """The network over all classes of its side."""
    ontology = Ontology.audioset()
    columns = side_columns(ontology, ontology.index["/m/0dgw9r"], "target")
    network = EnergyNet(num_classes=len(columns), frame_size=1_575)
    variables = jax.device_get(network.lazy_init(jax.random.key(0), waveform_batch(network), False))
    return network, variables


@pytest.fixture(scope="module")
def workdir(network_and_variables, tmp_path_factory):
    """Its run folder; the data set is gone."""
    ontology = Ontology.audioset()
    columns = side_columns(ontology, ontology.index["/m/0dgw9r"], "target")
    _, variables = network_and_variables
    folder = tmp_path_factory.mktemp("own") / "run"
    with Checkpoints(Workdir(folder), read_only=False) as checkpoints:
        checkpoints.save(3, variables | {"step": 12}, 0.25)
    labels = np.eye(2, dtype=bool)
    scores = Scores(
        np.array(["a", "b"]), np.array(MIDS), np.zeros((2, 2), np.float32), labels, labels & False
    )
    Workdir(folder).write_scores(scores)
    Workdir(folder).write_result(
        RunResult(
            test={"mAP": 0.5, "mean_auc": 0.5, "d_prime": 0.0},
            best_epoch=3,
            root="Human sounds",
            root_mid="/m/0dgw9r",
            side="target",
            labeling="pel",
            method="scratch",
            precision=None,
            backend="cpu",
            base_labeling="",
            seed=0,
            num_clips={"train": 4, "validation": 1, "test": 2},
            num_labels=2,
            classes=classes_digest(ontology, columns),
            data_set="",
            config={
                "model": {"name": f"{__name__}:EnergyNet", "frame_size": 1_575},
                "num_epochs": 3,
                "data_dir": str(folder / "gone"),
            },
        )
    )
    return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own_export") / "network"
    names = export(load_pretrained(workdir), folder, ["huggingface", "stablehlo"])
    assert names == [
        "README.md",
        "classes.json",
        "config.json",
        "model.safetensors",
        "model.stablehlo",
    ]
    return folder


@pytest.mark.parametrize("kind", ["workdir", "exported"])
def test_it_embeds(request, network_and_variables, kind):
    network, variables = network_and_variables
    embedder = Embedder.load(request.getfixturevalue(kind), batch_size=4)
    assert (embedder.sample_rate_hz, embedder.embedding_size) == (RATE_HZ, 6)
    assert [each.display_name for each in embedder.classes] == ["Speech", "Laughter"]
    assert embedder.classes[1].paths[0][0] == "Human sounds"
    windows = np.round(np.stack([sound(1.5, i) for i in range(5)]) * 32768).astype(np.int16)
    ontology = Ontology.audioset()
    columns = side_columns(ontology, ontology.index["/m/0dgw9r"], "target").tolist()
    kept = [columns.index(ontology.index[mid]) for mid in MIDS]
    expected = network.apply(variables, windows, method="embed")
    scores = network.apply(variables, windows, train=False).scores[:, kept]
    assert np.std(expected, axis=0).min() > 0.01  # or the tolerance would prove nothing
    np.testing.assert_allclose(embedder.embed(windows, RATE_HZ), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.scores(windows, RATE_HZ), scores, atol=1e-6)
    # 4 s are windows of 1.5, 1.5 and 1 s; the last is zero-padded.
    clip = np.concatenate([*windows[:2], windows[2, :RATE_HZ]])
    padded = np.pad(windows[2, :RATE_HZ], (0, RATE_HZ // 2))
    each = network.apply(variables, np.stack([*windows[:2], padded]), method="embed")
    mean = np.average(each, axis=0, weights=[1.5, 1.5, 1])
    np.testing.assert_allclose(embedder.embed(clip, RATE_HZ)[0], mean, atol=1e-5)
    for hop_s in (0, 1.6):
        with pytest.raises(InputError, match=r"hop_s: expected more than 0 and at most 1\.5 s"):
            embedder.embed(clip, RATE_HZ, hop_s=hop_s)


def test_its_fingerprint_leaves_out_the_output_layer(workdir, network_and_variables):
    pretrained = load_pretrained(workdir)
    _, variables = network_and_variables
    fingerprint = Embedder(pretrained).fingerprint
    full = dataclasses.replace(pretrained, network=network_and_variables[0], variables=variables)
    assert Embedder(full).fingerprint == fingerprint
    changed = jax.tree.map(lambda leaf: leaf + 1, variables["params"]["layers_0"])
    other = {"params": variables["params"] | {"layers_0": changed}}
    assert Embedder(dataclasses.replace(full, variables=other)).fingerprint != fingerprint


def test_its_export(exported, workdir):
    before, after = load_pretrained(workdir), load_pretrained(exported)
    assert before.network == after.network
    assert before.classes == after.classes
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)
    config = json.loads((exported / "config.json").read_text())
    assert config["model"] == {
        "name": f"{__name__}:EnergyNet",
        "frame_size": 1_575,
        "widths": [8, 6],
    }
    assert (config["sample_rate_hz"], config["num_samples"]) == (RATE_HZ, 33_075)
    card = (exported / "README.md").read_text()
    for text in (
        f"The network `{__name__}:EnergyNet`.",
        "It takes 1.5 s of mono at 22.05 kHz",
        "Nothing above 11.025 kHz is heard",
    ):
        assert text in card
    assert "PyTorch" not in card
    program = jax.export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    waveforms = np.round(np.stack([sound(1.5, i) for i in range(3)]) * 32768) / np.float32(32768)
    embeddings, scores = program.call(waveforms)
    embedder = Embedder(before)
    np.testing.assert_allclose(embeddings, embedder.embed(waveforms, RATE_HZ), atol=1e-5)
    np.testing.assert_allclose(scores, embedder.scores(waveforms, RATE_HZ), atol=1e-6)


def test_its_onnx(workdir, tmp_path):
    pretrained = load_pretrained(workdir)
    export(pretrained, tmp_path / "onnx", ["onnx"])
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    waveforms = np.round(np.stack([sound(1.5, i) for i in range(3)]) * 32768) / np.float32(32768)
    embeddings, scores = session.run(["embeddings", "scores"], {"waveforms": waveforms})
    embedder = Embedder(pretrained)
    np.testing.assert_allclose(embeddings, embedder.embed(waveforms, RATE_HZ), atol=1e-5)
    np.testing.assert_allclose(scores, embedder.scores(waveforms, RATE_HZ), atol=1e-6)


def test_its_folder_and_nearest_clips(workdir, tmp_path):
    (tmp_path / "audio").mkdir()
    for i in range(3):
        soundfile.write(tmp_path / "audio" / f"{i}.wav", sound(1 + 1.5 * i, i), RATE_HZ)
    output = tmp_path / "e.parquet"
    summary = embed(workdir, tmp_path / "audio", output, num_scores=1)
    assert summary == {"recordings": 3, "rejects": 0, "windows": 6}
    rows = pq.read_table(output).to_pylist()
    assert [row["start_s"] for row in rows] == [0, 0, 1.5, 0, 1.5, 3]
    assert {len(row["embedding"]) for row in rows} == {6}
    clips = Clips.read(output, Embedder.load(workdir))
    ((path, start_s, similarity),) = clips.nearest(clips.directions[4:5], 1)
    assert (path, start_s) == (str(tmp_path / "audio" / "2.wav"), 1.5)
    assert similarity == pytest.approx(1, abs=1e-5)


@pytest.mark.extra
def test_its_rate_in_hear(workdir):
    torch = pytest.importorskip("torch")
    from relabel_jax import hear

    model = hear.load_model(str(workdir))
    assert model.sample_rate == 22_050
    embeddings, timestamps = hear.get_timestamp_embeddings(torch.zeros(2, RATE_HZ), model)
    assert embeddings.shape == (2, 21, 6)  # every 1,102 samples, which are just under 50 ms
    np.testing.assert_allclose(timestamps, np.tile(np.arange(21) * 1_102 / 22.05, (2, 1)))
