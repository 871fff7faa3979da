"""Loading: workdirs whose data set has gone, and folders that are damaged."""

import dataclasses
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

from relabel_jax.data.layout import ONTOLOGY_NAME
from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.export import export
from relabel_jax.inference.loading import load_pretrained

pytestmark = pytest.mark.slow


def as_older_version(workdir: pathlib.Path) -> None:
    """Removes the digests of a run folder. Older versions wrote none."""
    (workdir / "sha256.json").unlink()
    config = json.loads((workdir / "config.json").read_text())
    del config["run"]
    (workdir / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def small(small_base):
    return Embedder.load(small_base)


@pytest.fixture(scope="module")
def small_export(small_base, tmp_path_factory):
    path = tmp_path_factory.mktemp("small_export") / "network"
    export(load_pretrained(small_base), path, ["safetensors"])
    names = safetensors.numpy.load((path / "model.safetensors").read_bytes()).keys()
    flat = flax.traverse_util.flatten_dict(load_pretrained(small_base).variables, sep=".")
    assert names == flat.keys()
    return path


def test_a_workdir_whose_data_set_is_gone(small, small_base, miniature_data, tmp_path):
    shutil.copytree(small_base, tmp_path / "base")
    as_older_version(tmp_path / "base")
    path = tmp_path / "base" / "result.json"
    result = json.loads(path.read_text())
    result["config"]["data_dir"] = str(tmp_path / "gone")
    path.write_text(json.dumps(result))
    assert Embedder.load(tmp_path / "base").classes == small.classes
    (tmp_path / "base" / "outputs.json").unlink()  # as in a workdir of version 0.1
    moved = Embedder.load(tmp_path / "base")
    sound = np.zeros(8_000, np.float32)
    np.testing.assert_allclose(moved.embed(sound, 8_000), small.embed(sound, 8_000), atol=1e-6)
    with pytest.raises(InputError, match=r"the classes are not known.* give it as `ontology`"):
        moved.scores(sound, 8_000)
    named = Embedder.load(tmp_path / "base", ontology=miniature_data / ONTOLOGY_NAME)
    assert named.classes == small.classes
    # What one has embedded is not refused as another network's.
    assert moved.fingerprint == named.fingerprint == small.fingerprint


def test_loading_logs_nothing(small_base, caplog):
    load_pretrained(small_base)
    assert caplog.records == []


def test_a_damaged_file_of_classes(small_base, tmp_path):
    shutil.copytree(small_base, tmp_path / "base")
    as_older_version(tmp_path / "base")
    path = tmp_path / "base" / "outputs.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"classes": content["classes"][:1]}))
    with pytest.raises(InputError, match=r"outputs\.json: has no class /\S+, which was trained"):
        Embedder.load(tmp_path / "base")
    path.write_text(json.dumps(content | {"classes": ["/m/09x0r"]}))
    with pytest.raises(InputError, match=r"outputs\.json: is damaged .* --ontology"):
        Embedder.load(tmp_path / "base")


def test_an_ontology_in_another_order(small_base, miniature_data, tmp_path):
    """The same classes, but the outputs would get one another's names."""
    classes = json.loads((miniature_data / ONTOLOGY_NAME).read_text())
    (tmp_path / "ontology.json").write_text(json.dumps(classes[::-1]))
    with pytest.raises(
        InputError, match=r"ontology\.json: has other classes .* or in another order"
    ):
        Embedder.load(small_base, ontology=tmp_path / "ontology.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "result.json").unlink(), "is not finished"),
        (lambda path: shutil.rmtree(path), "does not exist"),
        (
            lambda path: (path / "test_scores.npz").write_bytes(b"PK\x03\x04"),
            "cannot read the classes",
        ),
        (lambda path: shutil.rmtree(path / "checkpoints"), "cannot restore"),
        (lambda path: (shutil.rmtree(path), path.touch()), "is a file; give its folder"),
        (lambda path: change_model(path, features=[5] * 9), "does not fit the network"),
        (lambda path: change_model(path, features=[5] * 8), "model.features: expected 9 numbers"),
        (lambda path: change_model(path, norm_order="bn"), "norm_order: 'bn' is none of elu_bn"),
        (lambda path: change_model(path, width=3), "model.width: waveform_cnn has no such option"),
        (lambda path: change_model(path, name="no_net"), "'no_net' is none of waveform_cnn, "),
        (lambda path: change_model(path, name="no.net:Net"), "cannot import it: ModuleNotFoundErr"),
    ],
)
def test_a_workdir_that_does_not_do(small_base, tmp_path, damage, message):
    shutil.copytree(small_base, tmp_path / "base")
    as_older_version(tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(InputError, match=message) as caught:
        Embedder.load(tmp_path / "base")
    assert "\n" not in str(caught.value)


def change_model(path: pathlib.Path, **options):
    result = json.loads((path / "result.json").read_text())
    result["config"]["model"] |= options
    (path / "result.json").write_text(json.dumps(result))


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


def model(**options):
    def damage(folder):
        path = folder / "config.json"
        content = json.loads(path.read_text())
        content["model"] |= options
        path.write_text(json.dumps(content))

    return damage


def old_config(**fields):
    """A config without `model`, as version 0.1.0 wrote it."""

    def damage(folder):
        path = folder / "config.json"
        content = json.loads(path.read_text()) | fields
        del content["model"]
        path.write_text(json.dumps(content))

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
        (model(features=[1 << 40] * 9), r"model.features is .*, expected a value like \(64, 64"),
        (model(features=[5] * 9), r"filters is \[4, 4, .*, expected \[5, 5, .* for its model"),
        (config(filters=[5] * 9), r"filters is \[5, 5, .*, expected \[4, 4, .* for its model"),
        (config(sample_rate_hz=16_000), "sample_rate_hz is 16000, expected 8000 for its model"),
        (model(norm_order=None), "model.norm_order is None, expected a value like 'elu_bn'"),
        (model(dense_units=[]), "dense_units: expected at least one layer, the embedding"),
        (model(dense_units=[8, 0]), "dense_units: expected positive numbers"),
        (model(width=3), "config.json: config.model.width: waveform_cnn has no such option"),
        (model(name="resnet"), "config.json: .* 'resnet' is none of waveform_cnn, logmel"),
        (model(name="no.net:Net"), "config.json: .* cannot import it: ModuleNotFoundError: No mod"),
        (model(name="json:dumps"), "config.json: .* is not a flax.linen.Module class"),
        (config(model="waveform_cnn"), "model is 'waveform_cnn', expected an object with a name"),
        (old_config(filters=[1 << 40] * 9), r"features is .*, expected a value like \(64, 64"),
        (old_config(filters=None), r"features is None, expected a value like \(64, 64"),
        (old_config(filters=[5] * 9), "it is of another network than config.json"),
        (old_config(norm_order=None), "norm_order is None"),
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


def test_a_folder_of_an_older_version(small_export, tmp_path):
    shutil.copytree(small_export, tmp_path / "copy")
    (tmp_path / "copy" / "sha256.json").unlink()
    old_config()(tmp_path / "copy")
    before, after = load_pretrained(small_export), load_pretrained(tmp_path / "copy")
    assert before.network == after.network
    jax.tree.map(np.testing.assert_array_equal, before.variables, after.variables)


@pytest.mark.parametrize("name", ["config.json", "classes.json", "model.safetensors"])
def test_an_export_with_a_file_of_another_one(small_export, tmp_path, name):
    """Each file is in order, but they do not belong together."""
    other = load_pretrained(small_export)
    classes = (dataclasses.replace(other.classes[0], display_name="Noise"), *other.classes[1:])
    variables = jax.tree.map(lambda leaf: leaf + np.float32(1), other.variables)
    trained = other.trained | {"seed": 5}
    other = dataclasses.replace(other, classes=classes, variables=variables, trained=trained)
    export(other, tmp_path / "other", ["safetensors"])
    assert load_pretrained(tmp_path / "other").trained["seed"] == 5
    shutil.copytree(small_export, tmp_path / "copy")
    shutil.copy(tmp_path / "other" / name, tmp_path / "copy")
    message = f"{name}: is damaged or was exchanged: .* sha256.json; export it again"
    with pytest.raises(InputError, match=message):
        Embedder.load(tmp_path / "copy")


def test_loading_prints_nothing(small_base):
    """In a program of its own, because pytest catches warnings and log records."""
    program = "import sys, relabel_jax; relabel_jax.Embedder.load(sys.argv[1])"
    command = [sys.executable, "-c", program, small_base]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
