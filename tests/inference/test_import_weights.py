"""Published weights as run folders: what they compute, the order of classes, what is refused."""

import json
import pathlib
import pickle

import jax
import numpy as np
import pytest
import safetensors.numpy

from relabel_jax import import_weights, score
from relabel_jax.errors import InputError
from relabel_jax.experiments.config import model_config, paper_config
from relabel_jax.experiments.run import run
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.importing import import_weights as make_run_folder
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.labels.class_indices import class_indices_text
from relabel_jax.labels.ontology import Ontology
from relabel_jax.models import front_ends, published, registry
from relabel_jax.models.variables import shapes
from relabel_jax.report.results import FinishedRun
from relabel_jax.runs.workdir import Workdir

# As the files of the authors are: the format, the network, and its options.
SMALL = {
    "panns": ("cnn6", {"features": [4, 4, 8, 8], "sample_rate_hz": 8_000}),
    "efficientat": ("mn10", {"width": 0.1}),
    "ast": ("ast_base", {"width": 64, "num_heads": 1, "num_layers": 1, "num_frames": 46}),
}
CLASSES = 527


def random_tensors(network, rng):
    def fill(path, leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 0.2
        low = path[-1].key in ("scale", "var")
        array = rng.uniform(0.5, 1.5, leaf.shape) if low else rng.normal(0, scale, leaf.shape)
        return array.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes(network))


@pytest.fixture(scope="module")
def state_dicts():
    """By format: the network, its variables, and the state dict as the authors' code writes it."""
    made = {}
    for form, (name, options) in SMALL.items():
        network = registry.build({"name": name, **options, "duration_s": 0.5}, CLASSES)
        variables = random_tensors(network, np.random.default_rng(0))
        tensors = published.to_state_dict(network, variables)
        if form == "panns":
            filters = front_ends.slaney_filters(8_000, 256, 64, 50, 4_000)
            tensors["logmel_extractor.melW"] = filters
            for part in ("real", "imag"):
                name = f"spectrogram_extractor.stft.conv_{part}.weight"
                tensors[name] = np.zeros((129, 1, 256), np.float32)
            tensors["bn0.num_batches_tracked"] = np.array(7)
        if form == "ast":
            for head in ("head", "head_dist"):
                tensors[f"v.{head}.weight"] = np.zeros((1000, 64), np.float32)
                tensors[f"v.{head}.bias"] = np.zeros(1000, np.float32)
            tensors = {f"module.{name}": array for name, array in tensors.items()}
        made[form] = network, variables, tensors
    return made


def write(path, tensors):
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, path
    )
    return path


@pytest.mark.parametrize(
    "form", ["panns", "ast", pytest.param("efficientat", marks=pytest.mark.slow)]
)
def test_the_run_folder_computes_what_the_weights_do(form, state_dicts, tmp_path, capsys):
    network, variables, tensors = state_dicts[form]
    weights = write(tmp_path / "weights.safetensors", tensors)
    flags = [f"--format={form}", f"--weights={weights}", "--duration_s=0.5"]
    assert import_weights.main([*flags, f"--output_dir={tmp_path / 'W'}"]) == 0
    assert f"{tmp_path / 'W'}: " in (out := capsys.readouterr().out)
    assert "527 classes" in out

    loaded = load_pretrained(tmp_path / "W")
    assert loaded.network == network
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 3_000, (2, network.waveform_format.num_samples)).astype(np.int16)
    embedder = Embedder.load(tmp_path / "W")
    rate_hz = network.waveform_format.sample_rate_hz
    found = embedder.embed(noise, rate_hz), embedder.scores(noise, rate_hz)
    expected = (
        jax.jit(lambda x: network.apply(variables, x, method="embed"))(noise),
        jax.jit(lambda x: network.apply(variables, x, train=False).scores)(noise),
    )
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1, np.ptp(want)))
    audioset = Ontology.audioset()
    assert [each.mid for each in embedder.classes] == [
        mid for mid, used in zip(audioset.mids, audioset.is_used, strict=True) if used
    ]

    export(loaded, tmp_path / "out", ["huggingface"])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Its weights were published by others and imported by" in card
    assert "It was trained" not in card
    exported = load_pretrained(tmp_path / "out")
    for got, want in zip(
        jax.tree.leaves(exported.variables), jax.tree.leaves(loaded.variables), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(InputError, match="W: has imported weights, no training, and is left out"):
        FinishedRun.read(Workdir(tmp_path / "W"))


def test_outputs_are_ordered_by_the_ontology(state_dicts, tmp_path):
    _, _, tensors = state_dicts["panns"]
    weights = write(tmp_path / "weights.safetensors", tensors)
    audioset = Ontology.audioset()
    reverse = audioset.restricted_to(audioset.mids[::-1])
    (tmp_path / "reverse.json").write_text(reverse.text)
    used = np.flatnonzero(audioset.is_used)
    shuffled = np.random.default_rng(2).permutation(used)
    lines = class_indices_text(audioset, used).splitlines()
    rows = dict(zip(used.tolist(), (line.split(",", 1)[1] for line in lines[1:]), strict=True))
    text = "".join(f"{i},{rows[number]}\n" for i, number in enumerate(shuffled.tolist()))
    (tmp_path / "classes.csv").write_text(f"{lines[0]}\n{text}")

    make_run_folder(
        weights,
        tmp_path / "W",
        "panns",
        duration_s=0.5,
        classes=tmp_path / "classes.csv",
        ontology=tmp_path / "reverse.json",
    )
    loaded = load_pretrained(tmp_path / "W")
    mids = [each.mid for each in loaded.classes]
    assert mids == [reverse.mids[i] for i in np.flatnonzero(reverse.is_used)]
    biases = dict(zip(mids, loaded.variables["params"]["fc_audioset"]["bias"], strict=True))
    for number, bias in zip(shuffled.tolist(), tensors["fc_audioset.bias"], strict=True):
        assert biases[audioset.mids[number]] == bias


@pytest.mark.slow
def test_scores_and_transfers(state_dicts, miniature_data, tmp_path, capsys):
    network, _, tensors = state_dicts["panns"]
    used = np.flatnonzero(
        (ontology := Ontology.from_json(miniature_data / "ontology.json")).is_used
    )
    (tmp_path / "classes.csv").write_text(class_indices_text(ontology, used))
    few = {
        name: array[: len(used)] if name.startswith("fc_audioset") else array
        for name, array in tensors.items()
    }
    result = make_run_folder(
        write(tmp_path / "weights.safetensors", few),
        tmp_path / "W",
        "panns",
        classes=tmp_path / "classes.csv",
        data_dir=miniature_data,
    )
    assert result == Workdir(tmp_path / "W").read_result()
    scores = Workdir(tmp_path / "W").read_scores(result.test["mAP"])
    assert scores.scores.shape == (result.num_clips["test"], len(used)) == (6, len(used))
    segments = miniature_data.parent / "mini" / "segments.csv"
    flags = [f"--scores={tmp_path / 'W'}", f"--segments={segments}", "--labelings=ol"]
    assert score.main([*flags, f"--ontology={miniature_data / 'ontology.json'}"]) == 0
    assert f"{result.test['mAP']:.4f}" in capsys.readouterr().out

    for method in ("features", "finetune"):
        config = paper_config("Human sounds", method)
        config.update({"data_dir": str(miniature_data), "base": str(tmp_path / "W")})
        config.update({"labeling": "pe_cml", "batch_size": 8, "num_epochs": 1, "loss": "bce"})
        config.model = model_config("cnn6")
        config.model.features = network.features
        tuned = run(config, tmp_path / method)
        assert (tuned.base_labeling, tuned.num_clips["train"] > 0) == ("published", True)
    config.model.features = (8, 8, 8, 8)
    with pytest.raises(InputError, match=r"config.base=.*has config.model.features \[4, 4, 8, 8\]"):
        run(config, tmp_path / "other")


def test_what_is_refused(state_dicts, tmp_path):
    panns, ast = (state_dicts[form][2] for form in ("panns", "ast"))
    mobilenet = state_dicts["efficientat"][2]
    short = {**panns, "fc_audioset.bias": panns["fc_audioset.bias"][:50]}
    few = {**short, "fc_audioset.weight": panns["fc_audioset.weight"][:50]}
    without = {name: array for name, array in panns.items() if name != "fc1.bias"}
    no_output = {name: array for name, array in panns.items() if name != "fc_audioset.bias"}
    other_filters = {**panns, "logmel_extractor.melW": 2 * panns["logmel_extractor.melW"]}
    no_filters = {name: array for name, array in panns.items() if "melW" not in name}
    strides = {**ast, "module.v.pos_embed": np.zeros((1, 2 + 13, 64), np.float32)}
    Ontology.audioset()
    small = Ontology.audioset().restricted_to(Ontology.audioset().mids[:9])
    (tmp_path / "small.json").write_text(small.text)
    rows = "index,mid,display_name\n0,/m/09x0r,a\n1,/m/09x0r,b\n"
    (tmp_path / "twice.csv").write_text(rows)
    two = {
        **panns,
        **{f"fc_audioset.{n}": panns[f"fc_audioset.{n}"][:2] for n in ("weight", "bias")},
    }
    for form, tensors, options, message in (
        ("panns", mobilenet, {}, "weights of another network: PANNs' CNN6, CNN10 and CNN14 have"),
        ("efficientat", panns, {}, "weights of another network: EfficientAT's mn networks have"),
        ("ast", panns, {}, "weights of another network: AST's sizes have v.pos_embed, found"),
        ("panns", few, {}, "has 50 classes, but AudioSet's class_labels_indices.csv has 527; list"),
        ("panns", short, {}, "has 50 classes"),
        ("panns", without, {}, "the state dict lacks fc1.bias$"),
        ("panns", no_output, {}, "lacks fc_audioset.bias, the output layer of cnn6"),
        ("panns", {**panns, "att.weight": np.ones(3)}, {}, "and the network does not, att.weight"),
        ("panns", {**panns, "fc1.bias": np.ones(3)}, {}, r"fc1.bias: has the shape \(3,\)"),
        ("panns", {**panns, "fc1.weight": np.ones(3)}, {}, r"fc1.weight: .* expected \(8, 8\)"),
        ("panns", {**panns, "conv_block1.conv1.weight": np.ones(3)}, {}, "of another network"),
        ("panns", {**panns, "fc1.bias": np.full(8, np.nan)}, {}, "fc1.bias: has a NaN"),
        ("panns", panns, {"sample_rate_hz": 44_100}, "44100: PANNs' front end is for 8000, 16000"),
        ("panns", panns, {"sample_rate_hz": 16_000}, "16000: the network is of 8000 Hz, as its"),
        ("panns", no_filters, {}, "tells the sample rate; give --sample_rate_hz, one of 8000, 16"),
        ("panns", other_filters, {}, "melW: has the shape .* and is of none of the front ends"),
        ("efficientat", mobilenet, {"sample_rate_hz": 16_000}, "front end is for 32000 Hz"),
        ("ast", ast, {"sample_rate_hz": 8_000}, "8000: AST's front end is for 16000 Hz"),
        ("ast", strides, {}, "has 15 positions, expected 2 and 12 for each"),
        ("panns", panns, {"ontology": "small.json"}, "its class /m/.* is not in the ontology"),
        ("panns", two, {"classes": "twice.csv"}, "has /m/09x0r more than once"),
        ("panns", panns, {"duration_s": 0.001}, "are too short, the network needs"),
        ("esc", panns, {}, "--format=esc: is none of panns, efficientat, ast"),
        ("panns", panns, {"ontology": "small.json", "data_dir": "D"}, "give one of the two"),
    ):
        weights = write(tmp_path / "weights.safetensors", tensors)
        paths = {
            name: tmp_path / value if isinstance(value, str) else value
            for name, value in options.items()
        }
        with pytest.raises(InputError, match=message):
            make_run_folder(weights, tmp_path / "W", form, **paths)
        assert not any(
            path.name.endswith("W") or "unfinished" in path.name for path in tmp_path.iterdir()
        )
    (tmp_path / "W").mkdir()
    (tmp_path / "W" / "mine").touch()
    with pytest.raises(InputError, match="W: exists already"):
        make_run_folder(weights, tmp_path / "W", "panns")


class Evil:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("touched"),)


@pytest.mark.extra
def test_files_of_pytorch(state_dicts, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    _, variables, tensors = state_dicts["panns"]
    state = {f"module.{name}": torch.tensor(array) for name, array in tensors.items()}
    torch.save({"iteration": 3, "model": state}, "checkpoint.pth")
    make_run_folder("checkpoint.pth", "W", "panns", duration_s=0.5)
    for got, want in zip(
        jax.tree.leaves(load_pretrained("W").variables), jax.tree.leaves(variables), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    assert json.loads(pathlib.Path("W/config.json").read_text())["config"]["imported"] == {
        "format": "panns",
        "file": "checkpoint.pth",
        "sha256": Workdir(pathlib.Path("W")).read_result().config["imported"]["sha256"],
    }

    torch.save({**state, "hook": Evil()}, "evil.pth")
    torch.save({"model": {**state, "epoch": 3}}, "number.pth")
    torch.save([1], "list.pth")
    pathlib.Path("pickle.pth").write_bytes(pickle.dumps(Evil()))
    pathlib.Path("noise.pth").write_bytes(bytes(range(256)))
    for name, message in (
        ("evil.pth", r"has more than tensors, which is not unpickled \(getattr\)"),
        ("pickle.pth", "pickle.pth: cannot read the tensors: Unsupported operand"),
        ("noise.pth", "noise.pth: cannot read the tensors: "),
        ("number.pth", "'epoch' is of the type int, expected a tensor"),
        ("list.pth", "has a list, expected a state dict"),
        ("none.pth", "none.pth: cannot read it: No such file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            make_run_folder(name, "other", "panns")
        assert "\n" not in str(caught.value)
    assert not pathlib.Path("touched").exists()
