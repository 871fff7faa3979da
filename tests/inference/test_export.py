"""Exported networks against the training's own forward, in the frameworks that they are for."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import flax
import jax
import numpy as np
import pytest
import safetensors.numpy

from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export, main
from relabel_jax.inference.pretrained import load_pretrained

TRAINED = {
    **{"root": "Music", "root_mid": "/m/04rlf", "side": "base", "labeling": "pel"},
    **{"method": "base", "seed": 3, "best_epoch": 7, "num_labels": 30},
    **{"num_clips": {"train": 10, "validation": 2, "test": 1}},
    **{"test": {"mAP": 0.25, "mean_auc": 0.75, "d_prime": None}},
}


@pytest.fixture(scope="module")
def waveforms(recordings):
    """float32[50, 80000] with the full scale 1."""
    return np.stack(
        [read_waveform(str(path), PAPER_FORMAT)[0] for path in recordings]
    ) / np.float32(32_768)


@pytest.fixture(scope="module")
def expected(paper_network, waveforms):
    """Embeddings and scores of the network as the training evaluates it."""
    network, variables = paper_network.network, paper_network.variables
    outputs = jax.jit(
        lambda batch: (
            network.apply(variables, batch, method="embed"),
            network.apply(variables, batch, train=False),
        )
    )(np.round(waveforms * 32_768).astype(np.int16))
    assert np.std(outputs[0], axis=0).mean() > 0.1  # or the tolerance would say nothing
    return outputs


@pytest.fixture(scope="module")
def folder(paper_network, tmp_path_factory):
    formats = ["huggingface", "stablehlo"]
    if importlib.util.find_spec("jax2onnx"):
        formats.append("onnx")
    path = tmp_path_factory.mktemp("export") / "network"
    pretrained = type(paper_network)(
        paper_network.network, paper_network.variables, paper_network.classes, TRAINED
    )
    names = export(pretrained, path, formats, license_name="cc-by-4.0")
    assert {"config.json", "classes.json", "model.safetensors", "README.md"} <= set(names)
    return path


def check(found, expected):
    for values, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(values), wanted, atol=1e-5, rtol=0)


def test_safetensors_in_the_embedder(folder, waveforms, expected):
    embedder = Embedder.load(folder)
    check((embedder.embed(waveforms, 8_000), embedder.scores(waveforms, 8_000)), expected)
    assert embedder.classes[7].mid == "/m/07"
    assert embedder.trained == TRAINED


def test_safetensors_in_pytorch(folder, waveforms, expected):
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("example", folder / "example_pytorch.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    check(example.run(torch.from_numpy(waveforms)), expected)
    run = subprocess.run(
        [sys.executable, folder / "example_pytorch.py"], capture_output=True, text=True, check=True
    )
    assert len(run.stdout.splitlines()) == 5
    code = [
        line
        for line in (folder / "example_pytorch.py").read_text().splitlines()
        if line and not line.startswith(("import", "from", '"""'))
    ]
    assert len(code) <= 32


def test_stablehlo(folder, waveforms, expected):
    exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    check(exported.call(waveforms), expected)
    for batch in (1, 3):  # any batch
        check(exported.call(waveforms[:batch]), [each[:batch] for each in expected])


def test_onnx(folder, waveforms, expected):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    check(session.run(["embeddings", "scores"], {"waveforms": waveforms}), expected)
    check(
        session.run(["embeddings", "scores"], {"waveforms": waveforms[:1]}),
        [each[:1] for each in expected],
    )


def test_the_model_card_is_hugging_faces(folder):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "relabel_jax"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("mAP", 0.25)
    for text in ("outside *Music* (/m/04rlf)", "parent-expanded labels (PEL)", "| d-prime | und"):
        assert text in card.text
    assert "## Licence" in card.text
    assert "## Limits" in card.text


def test_the_command(small_base, tmp_path, capsys):
    output = tmp_path / "out"
    main([f"--checkpoint={small_base}", f"--output_dir={output}", "--format=safetensors"])
    assert "out: classes.json, config.json, example_pytorch.py, model.s" in capsys.readouterr().out
    before, after = load_pretrained(small_base), load_pretrained(output)
    assert before.classes == after.classes
    assert before.trained == after.trained
    assert before.network == after.network
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)
    # An exported folder can be exported again.
    main([f"--checkpoint={output}", f"--output_dir={tmp_path / 'b'}", "--format=huggingface"])
    weights = [(path / "model.safetensors").read_bytes() for path in (output, tmp_path / "b")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=pickle"], "--format=pickle: is none of safetensors, huggingface, stablehlo"),
        (["--format="], "--format=: is none of"),
        (["--output_dir=HERE"], "exists already; give an empty or a new --output_dir"),
        (["--checkpoint=nowhere"], "nowhere: does not exist"),
        ([f"--output_dir={'n' * 300}"], "cannot read it: File name too long"),
        (["--ontology=nowhere"], "nowhere: cannot read the ontology"),
    ],
)
def test_refused(small_base, tmp_path, capsys, arguments, message):
    (tmp_path / "file").touch()
    given = [f"--checkpoint={small_base}", f"--output_dir={tmp_path / 'out'}"]
    with pytest.raises(SystemExit) as caught:
        main([*given, *[each.replace("HERE", str(tmp_path)) for each in arguments]])
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")


def test_without_the_converter(small_base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(InputError, match=r"pip install 'relabel-jax\[onnx\]'"):
        export(load_pretrained(small_base), tmp_path / "out", ["onnx"])


def rewrite(change):
    """A damage that changes the tensors and leaves a file of the right form."""

    def damage(folder: pathlib.Path):
        path = folder / "model.safetensors"
        flat = safetensors.numpy.load(path.read_bytes())
        change(flat)
        path.write_bytes(safetensors.numpy.save(flat))

    return damage


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def claim(folder):
    """A header of 2^60 bytes."""
    path = folder / "model.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


def config(**fields):
    def damage(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return damage


KERNEL = "params.convolutions_3.kernel"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "model.safetensors: damaged: .*export it again"),
        (claim, "model.safetensors: damaged: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged: "),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04" * 99), "damaged: "),
        (rewrite(lambda flat: flat.pop(KERNEL)), f"{KERNEL}: has no such tensor, expected F32"),
        (rewrite(lambda flat: flat.update(more=np.zeros(3))), "more: has F64.*, expected no such"),
        (
            rewrite(lambda flat: flat.update({KERNEL: flat[KERNEL].astype(np.float16)})),
            r"has F16\[14, 4, 4\], expected F32\[14, 4, 4\]",
        ),
        (
            rewrite(lambda flat: flat.update({KERNEL: flat[KERNEL][:-1]})),
            r"has F32\[13, 4, 4\], expected F32\[14, 4, 4\]",
        ),
        (
            rewrite(lambda flat: flat.update({KERNEL: flat[KERNEL] * np.float32("nan")})),
            "has a NaN",
        ),
        (config(format="bert"), "is of another network: expected 'format': 'relabel_jax'"),
        (config(format_version=2), "has format_version 2, this version of relabel_jax reads 1"),
        (config(filters=[1 << 40] * 9), "filters is .*, expected a list of layer sizes"),
        (config(filters=[5] * 9), "it is of another network than config.json"),
        (config(norm_order=None), "norm_order is None"),
        (config(trained=None), "trained, the facts of the training, has no root;"),
        (config(trained={"root": "Music"}), "trained, the facts of the training, has no root_mid;"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: cannot read it"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: cannot read it"),
        (lambda folder: (folder / "classes.json").write_text("[]"), "has no classes"),
        (lambda folder: (folder / "classes.json").write_text("[{}]"), "expected a list of objects"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
    ],
)
def test_damaged_folders(small_export, tmp_path, damage, message):
    shutil.copytree(small_export, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(InputError, match=message) as caught:
        Embedder.load(tmp_path / "copy")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def small_export(small_base, tmp_path_factory):
    path = tmp_path_factory.mktemp("small_export") / "network"
    export(load_pretrained(small_base), path, ["safetensors"])
    names = safetensors.numpy.load((path / "model.safetensors").read_bytes()).keys()
    flat = flax.traverse_util.flatten_dict(load_pretrained(small_base).variables, sep=".")
    assert names == flat.keys()
    return path
