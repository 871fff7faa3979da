"""Runs from config to results: the chain of base training and transfers, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest
import small_network
from sklearn.metrics import average_precision_score

from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments.base import read_base
from relabel_jax.experiments.config import TUNED, paper_config
from relabel_jax.experiments.experiment import Experiment
from relabel_jax.experiments.run import _start, run
from relabel_jax.report.write import write_report
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train import resident

pytestmark = pytest.mark.slow

SMALL = {
    "batch_size": 8,
    "num_epochs": 2,
}


def small_config(data_dir, method, **fields):
    config = paper_config("Human sounds", method)
    small_network.use_in(config)
    config.update_from_flattened_dict({"data_dir": str(data_dir), **SMALL, **fields})
    return config


def waveform_config(data_dir, method, base=""):
    """Of the paper's network."""
    config = paper_config("Human sounds", method)
    config.update({"data_dir": str(data_dir), "base": str(base), "batch_size": 8, "num_epochs": 1})
    config.model.update({"features": (4,) * 9, "dense_units": (8, 8)})
    return config


@pytest.fixture(scope="module")
def base_dir(miniature_data, tmp_path_factory):
    """A finished base training."""
    workdir = tmp_path_factory.mktemp("base")
    run(small_config(miniature_data, "base", labeling="pe_cml"), workdir)
    return workdir


def read_scores(workdir):
    with np.load(workdir / "test_scores.npz") as file:
        return {name: file[name] for name in file.files}


def recomputed_map(scores):
    """Mean average precision by scikit-learn, from the file alone."""
    values = []
    for column in range(len(scores["mids"])):
        known = ~scores["masked"][:, column]
        labels = scores["labels"][known, column]
        if labels.any():
            values.append(average_precision_score(labels, scores["scores"][known, column]))
    return np.mean(values)


@pytest.mark.parametrize(
    ("method", "labeling"), [("features", "pe_cml"), ("finetune", "ol"), ("scratch", "pe_cml")]
)
def test_transfer(miniature_data, base_dir, tmp_path, method, labeling):
    base = "" if method == "scratch" else str(base_dir)
    config = small_config(miniature_data, method, labeling=labeling, base=base)
    result = run(config, tmp_path)

    assert json.loads((tmp_path / "result.json").read_text()) == result.as_json()
    data_set = open_data_set(miniature_data)
    base_result = json.loads((base_dir / "result.json").read_text())
    num_clips = sum(result.num_clips.values()) + sum(base_result["num_clips"].values())
    assert num_clips == len(data_set.clip_ids)
    assert (result.side, result.method, result.labeling) == ("target", method, labeling)
    assert (result.root, result.seed) == ("Human sounds", 0)
    assert result.config["learning_rate_decay"] == 0.987

    scores = read_scores(tmp_path)
    assert result.test["mAP"] == pytest.approx(recomputed_map(scores), abs=1e-6)
    assert scores["scores"].shape == (result.num_clips["test"], result.num_labels)
    assert labeling == "pe_cml" or not scores["masked"].any()
    in_index = set(data_set.clip_ids[data_set.clip_splits == 2])
    assert set(scores["clip_id"]) <= in_index

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    steps = result.num_clips["train"] // 8
    assert [line["step"] for line in lines] == [steps, 2 * steps]
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.001, 0.001 * 0.987])
    assert all(line["clips_per_s"] > 0 and line["seconds"] > 0 for line in lines)
    assert result.best_epoch == 1 + np.argmax([line["validation_mAP"] for line in lines])

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(config, tmp_path) == result  # finished: read, not done again
    assert {path: path.read_bytes() for path in before} == before
    assert f"{result.test['mAP']:.4f}" in result.summary


def test_the_papers_network_transfers(miniature_data, small_base, tmp_path):
    for method in TUNED:
        config = waveform_config(miniature_data, method, base=small_base)
        result = run(config, tmp_path / "W" / "human_sounds" / method)
        assert result.model["name"] == "waveform_cnn"
        assert 0 < result.test["mAP"] <= 1
    report = write_report(tmp_path / "W")
    assert len(report["runs"]) == 2
    assert not report["problems"]


def test_a_finished_run_can_be_prolonged(miniature_data, tmp_path):
    fields = {"labeling": "ol", "num_epochs": 1}
    run(small_config(miniature_data, "scratch", **fields), tmp_path / "short")
    fields["num_epochs"] = 3
    prolonged = run(small_config(miniature_data, "scratch", **fields), tmp_path / "short")
    assert prolonged == run(small_config(miniature_data, "scratch", **fields), tmp_path / "long")
    with pytest.raises(InputError, match="can grow but not shrink to 2"):
        run(small_config(miniature_data, "scratch", num_epochs=2), tmp_path / "short")


def test_a_prolongation_that_is_refused_changes_nothing(miniature_data, tmp_path, monkeypatch):
    config = small_config(miniature_data, "scratch", num_epochs=1)
    result = run(config, tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.glob("run/*.*")}
    monkeypatch.setattr(resident, "free_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"resident=always: .* GB are available"):
        run(small_config(miniature_data, "scratch", resident="always"), tmp_path / "run")
    assert {path: path.read_bytes() for path in before} == before
    assert run(config, tmp_path / "run") == result


def test_a_finished_transfer_does_not_need_its_base(miniature_data, base_dir, tmp_path):
    shutil.copytree(base_dir, tmp_path / "base")
    config = small_config(miniature_data, "features", base=str(tmp_path / "base"))
    result = run(config, tmp_path / "target")
    shutil.rmtree(tmp_path / "base" / "checkpoints")
    assert run(config, tmp_path / "target") == result
    with pytest.raises(InputError, match=r"checkpoints/\d: cannot restore .* it is gone; train"):
        run(config, tmp_path / "another")


def test_what_finetuning_starts_from(miniature_data, base_dir):
    """The best epoch of the base, all of it."""
    config = small_config(miniature_data, "finetune", base=str(base_dir))
    data_set = open_data_set(miniature_data)
    base = read_base(config, data_set.ontology, data_set.ontology.find("Human sounds"))
    best_epoch = json.loads((base_dir / "result.json").read_text())["best_epoch"]
    with Checkpoints(Workdir(base_dir), read_only=True) as checkpoints:
        state = checkpoints.restore_arrays(best_epoch)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, base.variables["params"], dict(state["params"]))
    )
    # The checkpoint's own test scores follow from what was loaded.
    scores = read_scores(base_dir)
    rows = [np.flatnonzero(data_set.clip_ids == clip_id)[0] for clip_id in scores["clip_id"]]
    outputs = base.network.apply(base.variables, data_set.read_waveforms(np.array(rows)), False)
    outputs = outputs.scores
    columns = [
        mid in set(scores["mids"])
        for mid in np.array(data_set.ontology.mids)[side_columns_of(data_set)]
    ]
    np.testing.assert_allclose(outputs[:, np.array(columns)], scores["scores"], atol=1e-5)


def test_finetuning_starts_from_the_base(miniature_data, base_dir, tmp_path):
    """All of it but the output layer, which has other classes."""
    config = small_config(miniature_data, "finetune", base=str(base_dir))
    experiment = Experiment.open([config], [tmp_path])
    base = read_base(config, experiment.ontology, experiment.root)
    _, (start,), *_ = _start(experiment, base, [0])
    output = start["params"].pop("output")
    wanted = {name: dict(base.variables[name]) for name in ("params", "batch_stats")}
    assert output["kernel"].shape != wanted["params"].pop("output")["kernel"].shape
    jax.tree.map(np.testing.assert_array_equal, dict(start), wanted)


def test_a_base_that_has_moved_or_changed(miniature_data, base_dir, tmp_path):
    """A transfer belongs to the weights that it began from, wherever they are."""
    base = tmp_path / "base"
    shutil.copytree(base_dir, base)
    config = small_config(miniature_data, "features", base=str(base))
    result = run(config, tmp_path / "target")
    base.rename(tmp_path / "moved")
    config.base = str(tmp_path / "moved")
    assert run(config, tmp_path / "target") == result

    shutil.rmtree(tmp_path / "moved")
    run(small_config(miniature_data, "base", labeling="pe_cml", seed=1), tmp_path / "moved")
    config.num_epochs = 3
    with pytest.raises(InputError, match=r"was begun from other weights than config.base=.*moved"):
        run(config, tmp_path / "target")
    assert json.loads((tmp_path / "target" / "result.json").read_text()) == result.as_json()


def side_columns_of(data_set):
    target = data_set.ontology.find("Human sounds")
    is_target = data_set.ontology.is_ancestor[target].copy()
    is_target[target] = True
    return np.flatnonzero(~is_target)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labeling": "pecml"}, "config.labeling: 'pecml' is none of ol, pel, pe_cml"),
        ({"method": "tune"}, "config.method: 'tune' is none of base, features, finetune, scratch"),
        ({"root": "Human sound"}, "no class 'Human sound'.*did you mean 'Human sounds'"),
        ({"root": "/m/nope"}, "no class '/m/nope'"),
        ({"batch_size": 1000}, "[0-9]+ training clips are fewer than a batch"),
        (
            {"root": "Animal"},
            "root 'Animal': the data set has no validation clip on the target side",
        ),
        ({"batch_size": 0}, "config.batch_size: expected a positive number, got 0"),
        ({"num_epochs": -1}, "config.num_epochs: expected a positive number"),
        ({"learning_rate": float("nan")}, "config.learning_rate: expected a positive number"),
        ({"learning_rate": float("inf")}, "config.learning_rate: expected a positive number"),
        ({"learning_rate_decay": 0.0}, "config.learning_rate_decay: expected a positive number"),
        ({"seed": -1}, "config.seed: expected 0 or more"),
        ({"seed": 2**32}, r"config.seed: expected 0 or more and below 2\*\*32"),
        ({"model.features": (4, 4)}, "config.model.features: expected 9 numbers"),
        ({"model.features": (0,) * 9}, "config.model.features: expected positive numbers"),
        ({"model.dense_units": (8, -1)}, "config.model.dense_units: expected positive numbers"),
        ({"model.dense_units": ()}, "config.model.dense_units: expected at least one layer"),
        ({"model.norm_order": "bn"}, "config.model.norm_order: 'bn' is none of elu_bn, bn_elu"),
        (
            {"model.formulation": "fft"},
            "config.model.formulation: 'fft' is none of auto",
        ),
        (
            {"model.precision": "f16"},
            "config.model.precision: 'f16' is none of auto",
        ),
        ({"model.name": "cnn"}, "config.model.name: 'cnn' is none of waveform_cnn, logmel_cnn"),
        ({"model.name": "no.such:Net"}, "config.model.name=no.such:Net: cannot import it: ModuleN"),
        ({"loss": "hinge"}, "config.loss: 'hinge' is none of mse, bce"),
        ({"optimizer": "adamax"}, "config.optimizer: 'adamax' is none of adam, adamw, amsgrad"),
        ({"classifier.norm_order": "bn"}, "config.classifier.norm_order: 'bn' is none of"),
        ({"data_dir": ""}, "config.data_dir is empty"),
        ({"data_dir": "nowhere"}, "nowhere: not a finished data set"),
        ({"method": "finetune"}, "config.base is empty; method 'finetune' needs"),
        ({"method": "features", "base": "nowhere"}, "config.base=nowhere: does not exist"),
    ],
)
def test_refused(miniature_data, tmp_path, fields, message):
    config = waveform_config(miniature_data, "scratch")
    config.update_from_flattened_dict(fields)
    with pytest.raises(InputError, match=message) as caught:
        run(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "result.json").exists()


def test_a_loss_that_is_not_finite(miniature_data, tmp_path):
    config = small_config(miniature_data, "scratch", learning_rate=1e30)
    with pytest.raises(InputError, match="epoch 1: the training loss is nan"):
        run(config, tmp_path)
    assert not (tmp_path / "result.json").exists()


def change_result(**fields):
    def change(workdir):
        result = json.loads((workdir / "result.json").read_text())
        (workdir / "result.json").write_text(json.dumps(result | fields))
        # Without the digests, as an older version wrote them, or they would tell of the change.
        (workdir / "sha256.json").unlink()
        (workdir / "config.json").unlink()

    return change


@pytest.mark.parametrize(
    ("damage", "fields", "message"),
    [
        (lambda workdir: shutil.rmtree(workdir / "checkpoints"), {}, "cannot restore"),
        (lambda workdir: (workdir / "result.json").unlink(), {}, "is not finished"),
        (lambda workdir: (workdir / "result.json").write_text("{"), {}, "cannot read it"),
        (lambda workdir: (workdir / "result.json").write_text("{}"), {}, "has no field 'test'"),
        (change_result(side="target"), {}, "is a training of the target side"),
        (lambda workdir: None, {"root": "Natural sounds"}, "'Human sounds', so it has seen"),
        (
            lambda workdir: None,
            {"model.features": (5, 5)},
            "has config.model.features .* has",
        ),
        (
            lambda workdir: None,
            {"model.num_mels": 9},
            "config.model.num_mels 8",
        ),
    ],
)
def test_a_base_that_does_not_do(miniature_data, base_dir, tmp_path, damage, fields, message):
    shutil.copytree(base_dir, tmp_path / "base")
    damage(tmp_path / "base")
    config = small_config(miniature_data, "finetune", base=str(tmp_path / "base"), **fields)
    with pytest.raises(InputError, match=message) as caught:
        run(config, tmp_path / "target")
    assert "\n" not in str(caught.value)


def test_a_workdir_of_another_run(miniature_data, base_dir, tmp_path):
    with pytest.raises(InputError, match=r"was begun with config.labeling 'pe_cml', not 'ol'"):
        run(small_config(miniature_data, "base", labeling="ol"), base_dir)
    shutil.copytree(base_dir, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").unlink()
    with pytest.raises(InputError, match=r"has checkpoints but no config.json"):
        run(small_config(miniature_data, "base", labeling="pe_cml"), tmp_path / "copy")
    for damaged in ("{}", "[]", '{"config": {}}', '{"config": 1}'):
        (tmp_path / "copy" / "config.json").write_text(damaged)
        with pytest.raises(InputError, match=r"config.json: is damaged or of an older version"):
            run(small_config(miniature_data, "base", labeling="pe_cml"), tmp_path / "copy")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write there"):
        run(small_config(miniature_data, "base"), tmp_path / "file" / "run")


def test_a_program_has_no_more_steps_than_an_epoch(miniature_data, tmp_path):
    """Otherwise it would need memory for a billion steps."""
    config = small_config(miniature_data, "scratch", steps_per_call=10**9)
    assert run(config, tmp_path).test["mAP"] is not None
