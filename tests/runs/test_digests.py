"""The files of a finished run belong together: none of another run is taken for it."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.report.results import FinishedRun
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.step import Recipe, init_state

pytestmark = pytest.mark.slow  # the fixture trains


def copy(small_base, tmp_path):
    shutil.copytree(small_base, tmp_path / "run")
    return Workdir(tmp_path / "run")


def change_number(path: pathlib.Path):
    """Adds a clip, a second or another decimal to a JSON file: the last digit becomes another."""
    text = path.read_text()
    position = max(i for i, letter in enumerate(text) if letter.isdecimal())
    digit = "1" if text[position] != "1" else "2"
    path.write_text(text[:position] + digit + text[position + 1 :])


def change_scores(path: pathlib.Path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez_compressed(path, **arrays | {"clip_id": arrays["clip_id"][::-1]})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("result.json", change_number),
        ("config.json", change_number),
        ("outputs.json", change_number),
        ("metrics.jsonl", change_number),
        ("test_scores.npz", change_scores),
    ],
)
def test_a_file_that_was_exchanged(small_base, tmp_path, name, change):
    workdir = copy(small_base, tmp_path)
    change(workdir.path / name)
    for read in (lambda: FinishedRun.read(workdir), lambda: load_pretrained(workdir.path)):
        message = rf"{name}: is damaged or was exchanged: .*; put the file of this run back, or del"
        with pytest.raises(InputError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_weights_of_another_run(small_base, tmp_path):
    """The other checkpoint is in order, and of the same network."""
    workdir = copy(small_base, tmp_path)
    best = workdir.checkpoint_path(workdir.read_result().best_epoch)
    metadata = best / "_CHECKPOINT_METADATA"
    content = json.loads(metadata.read_text())
    content["custom_metadata"] = {}  # as if an older version had written it
    metadata.write_text(json.dumps(content))
    load_pretrained(workdir.path)
    recorded = json.loads((workdir.path / digests.LIST_NAME).read_text())
    recorded["sha256"][f"checkpoints/{best.name}"] = "0" * 64
    (workdir.path / digests.LIST_NAME).write_text(json.dumps(recorded))
    with pytest.raises(InputError, match=r"was exchanged \(its digest is not that of the state te"):
        load_pretrained(workdir.path)


def test_a_run_without_its_scores_is_not_finished(small_base, tmp_path):
    workdir = copy(small_base, tmp_path)
    assert workdir.is_finished
    workdir.scores_path.unlink()
    assert not workdir.is_finished
    with pytest.raises(InputError, match=r"is not finished \(no test_scores.npz\)"):
        workdir.read_result()


def test_a_finished_run_of_an_older_version(small_base, tmp_path):
    workdir = copy(small_base, tmp_path)
    (workdir.path / digests.LIST_NAME).unlink()
    with pytest.raises(InputError, match=r"sha256.json: does not exist, so nothing tells what res"):
        workdir.read_result()
    config = json.loads(workdir.config_path.read_text())
    del config["run"]
    workdir.config_path.write_text(json.dumps(config))
    change_number(workdir.metrics_path)
    assert FinishedRun.read(workdir).result == Workdir(small_base).read_result()
    (workdir.path / digests.LIST_NAME).write_text('{"format_version": 2, "sha256": {}}')
    with pytest.raises(InputError, match=r"sha256.json: is damaged or of a newer version"):
        workdir.read_result()


def test_the_digest_of_a_state():
    """It is that of its arrays, whether they are in a `TrainState` or in nested dicts."""
    variables = {"params": {"b": np.ones(3, np.float32), "a": np.zeros((2, 1), np.float32)}}

    def named(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return [(jax.tree_util.keystr(p, simple=True, separator="/"), leaf) for p, leaf in leaves]

    state = jax.device_get(init_state(variables, Recipe(0.001, 0.9, 3)))
    known = digests.of_arrays(named(state))
    assert digests.of_arrays(reversed(named(state))) == known
    w = np.arange(6, dtype=np.float32)
    others = [w, w.reshape(2, 3), w.reshape(3, 2), w.astype(np.float64), w.view(np.int32), -w]
    found = {digests.of_arrays([("w", each)]) for each in others}
    assert len(found | {digests.of_arrays([("v", w)]), known}) == len(others) + 2
    assert digests.of_arrays([("w", w.reshape(2, 3).T)]) == digests.of_arrays(
        [("w", np.ascontiguousarray(w.reshape(2, 3).T))]
    )
