"""Exported networks against the training's own forward, in the frameworks that they are for."""

import dataclasses
import importlib.util
import subprocess
import sys

import jax
import numpy as np
import onnxruntime
import pytest

from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import InputError
from relabel_jax.export import main
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.loading import load_pretrained

pytestmark = pytest.mark.slow

TRAINED = {
    "root": "Music",
    "root_mid": "/m/04rlf",
    "side": "base",
    "labeling": "pel",
    "method": "base",
    "seed": 3,
    "best_epoch": 7,
    "num_labels": 30,
    "num_clips": {"train": 10, "validation": 2, "test": 1},
    "test": {"mAP": 0.25, "mean_auc": 0.75, "d_prime": None},
}


@pytest.fixture(scope="module")
def waveforms(recordings):
    """float32[25, 80000] with the full scale 1."""
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
            network.apply(variables, batch, train=False).scores,
        ),
        compiler_options={"xla_backend_optimization_level": 1},  # sums round less than without
    )(np.round(waveforms * 32_768).astype(np.int16))
    assert np.std(outputs[0], axis=0).mean() > 0.1  # or the tolerance would say nothing
    return outputs


@pytest.fixture(scope="module")
def folder(paper_network, tmp_path_factory):
    formats = ["huggingface", "stablehlo", "onnx"]
    path = tmp_path_factory.mktemp("export") / "network"
    pretrained = dataclasses.replace(paper_network, trained=TRAINED)
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


@pytest.mark.extra
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
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    check(session.run(["embeddings", "scores"], {"waveforms": waveforms}), expected)
    for batch in (1, 3):  # any batch
        found = session.run(["embeddings", "scores"], {"waveforms": waveforms[:batch]})
        check(found, [each[:batch] for each in expected])


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
    arguments = [f"--checkpoint={small_base}", f"--output_dir={output}", "--format=safetensors"]
    assert main(arguments) == 0
    assert "out: classes.json, config.json, example_pytorch.py, model.s" in capsys.readouterr().out
    before, after = load_pretrained(small_base), load_pretrained(output)
    assert before.classes == after.classes
    assert before.trained == after.trained
    assert before.network == after.network
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)
    # An exported folder can be exported again.
    again = [f"--checkpoint={output}", f"--output_dir={tmp_path / 'b'}", "--format=huggingface"]
    assert main(again) == 0
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
    assert main([*given, *[each.replace("HERE", str(tmp_path)) for each in arguments]]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("error: ")


def test_an_export_that_was_killed(small_base, tmp_path, capsys):
    """Killed after any of its files, it is finished by the same command."""
    output = tmp_path / "out"
    arguments = [f"--checkpoint={small_base}", f"--output_dir={output}", "--format=safetensors"]
    program = f"""if True:
        import os, sys, relabel_jax.files
        from relabel_jax.export import main
        replace, left = os.replace, [int(sys.argv[1])]
        def kill_before(source, target):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), 9)
            replace(source, target)
        os.replace = kill_before
        main({arguments})"""
    for number in (1, 4):
        run = subprocess.run([sys.executable, "-c", program, str(number)], capture_output=True)
        assert run.returncode == -9
        assert any(path.name.endswith(".tmp") for path in output.iterdir())
        with pytest.raises(InputError):
            load_pretrained(output)
    (output / "mine.txt").touch()
    assert main(arguments) == 1
    assert "exists already; give an empty" in capsys.readouterr().err
    (output / "mine.txt").unlink()
    assert main(arguments) == 0
    assert load_pretrained(output).trained == load_pretrained(small_base).trained
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_without_onnx(small_base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install '\.\[onnx\]'"):
        export(load_pretrained(small_base), tmp_path / "out", ["onnx"])
    assert not (tmp_path / "out").exists()
