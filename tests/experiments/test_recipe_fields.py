"""The recipe's fields: what is refused, the published configs, a teacher, killed and resumed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_network

from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments.config import check, model_config, paper_config, plain
from relabel_jax.experiments.flags import read_config
from relabel_jax.experiments.recipe import of_training
from relabel_jax.experiments.run import run
from relabel_jax.experiments.teacher import read_teacher
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import View
from relabel_jax.models import registry
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.old_configs import flat, upgraded
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.mixup import Mixup
from relabel_jax.train.step import Recipe

ALL = ("cnn6", "cnn10", "cnn14", "mn04", "mn10", "ast_tiny", "ast_small", "ast_base")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("schedule.decay=step", "'step' is none of exponential, linear, cosine"),
        ("schedule.decay=cosine", "decay_epochs: a cosine decay needs the number of its epochs"),
        ("schedule.decay_epochs=3", "a exponential decay needs none, got 3"),
        ("schedule.warmup_steps=-1", "expected 0 or more, at most 2147483648, got -1"),
        ("schedule.final=1.5", "expected 0 or more, at most 1, got 1.5"),
        ("mixup.alpha=-0.1", "expected 0 or more, got -0.1"),
        ("mixup.alpha=nan", "expected 0 or more, got nan"),
        ("mixup.rule=mean", "'mean' is none of strict, known"),
        ("sampling=random", "'random' is none of shuffled, balanced"),
        ("weight_decay=-1", "expected 0 or more, got -1.0"),
        ("ema_decay=1", "expected a number below 1, got 1.0"),
        ("beta1=1", "expected a number below 1, got 1.0"),
        ("teacher_weight=2", "expected 0 or more, at most 1, got 2.0"),
        ("epoch_clips=-3", "expected 0 or more, at most 2147483648, got -3"),
    ],
)
def test_a_wrong_value_is_refused(flag, message):
    config = read_config("base_human", ["--config.data_dir=D", f"--config.{flag}"])
    field = flag.partition("=")[0].removesuffix(".decay").removesuffix(".decay_epochs")
    with pytest.raises(InputError, match=rf"^config\.{field}.*{message}"):
        check(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["mixup.alpha=1", "batch_size=1"], "batch_size: mixup needs two clips or more, got 1"),
        (["optimizer=rmsprop", "beta1=0.8"], "beta1: rmsprop has no mean of gradients"),
        (["schedule.warmup_steps=1", "schedule.warmup_epochs=1"], "set one of them"),
    ],
)
def test_fields_that_do_not_fit_each_other(flags, message):
    config = read_config("base_human", ["--config.data_dir=D", *(f"--config.{f}" for f in flags)])
    with pytest.raises(InputError, match=message):
        check(config)


def test_the_defaults_are_the_recipe_of_before():
    config = paper_config("Human sounds", "base")
    further = of_training(config)["further"]
    assert Recipe(0.001, 0.987, 7, **further) == Recipe(0.001, 0.987, 7)
    # A run folder without the fields is that of a run with their defaults.
    now = plain(config)
    before = {name: value for name, value in now.items() if name in OLD_FIELDS}
    assert flat(upgraded(before)) == flat(now)
    published = {"name": "cnn6", "dropout": 0.5}
    assert upgraded({"model": published})["model"] == {**published, "spec_augment": []}
    logmel = {"name": "logmel_cnn", "num_mels": 64}
    assert upgraded({"model": logmel})["model"] == {**logmel, "formulation": "auto"}


OLD_FIELDS = (
    *("root", "method", "labeling", "data_dir", "labelings", "labeling_files", "seeds", "base"),
    *("seed", "num_epochs", "batch_size", "loss", "optimizer", "learning_rate"),
    *("learning_rate_decay", "model", "classifier", "steps_per_call", "resident", "members_by"),
)


@pytest.mark.parametrize("name", ALL)
def test_the_published_configs(name):
    config = read_config(f"published:{name}", ["--config.data_dir=D"])
    check(config)
    assert config.model.name == name
    network = registry.build(plain(config.model), 527)
    rate = 16_000 if name.startswith("ast") else 32_000
    assert network.waveform_format.sample_rate_hz == rate
    recipe = Recipe(
        config.learning_rate,
        config.learning_rate_decay,
        1_000,
        **of_training(config)["further"],
    )
    # At the end of each epoch.
    epochs = [float(recipe.schedule(1_000 * epoch + 999)) for epoch in range(config.num_epochs)]
    if name.startswith("cnn"):
        assert config.num_epochs * config.epoch_clips // config.batch_size == 1_000_000
        assert epochs == pytest.approx([0.001] * 320)
        assert recipe.mixup == Mixup(1.0)
    elif name.startswith("mn"):
        assert epochs[7] == pytest.approx(0.0008)
        assert epochs[79] == pytest.approx(0.0008)
        assert epochs[180] == pytest.approx(0.000008)
    else:
        assert epochs == pytest.approx([1e-5, 1e-5, 1e-5 / 2, 1e-5 / 4, 1e-5 / 8])


def test_a_network_without_a_recipe_is_refused():
    with pytest.raises(InputError, match=r"published.py:cnn5: expected one of cnn6, cnn10"):
        read_config("published:cnn5", [])


ONTOLOGY = Ontology.audioset()
CLIPS = np.array([f"clip-{i}" for i in range(30)])
COLUMNS = np.array([3, 5, 8, 13])
VIEW = View({"train": np.arange(30)}, COLUMNS, {}, {}, np.ones(4, bool))


def scores_of(path, ids=CLIPS, columns=(5, 3, 13, 2), scores=None):
    """Writes a file of scores; returns its path and the scores."""
    if scores is None:
        scores = np.random.default_rng(0).random((len(ids), len(columns))).astype(np.float32)
    np.savez(path, clip_id=ids, scores=scores, mids=[ONTOLOGY.mids[c] for c in columns])
    return str(path), scores


def test_a_teacher_is_found_by_clip_id(tmp_path):
    path, scores = scores_of(tmp_path / "in_order.npz")
    teacher = read_teacher(path, CLIPS, VIEW, ONTOLOGY)
    clips = np.array([7, 0, 29, 7])
    expected = np.full((4, 4), np.nan, np.float32)  # the file lacks class 8
    expected[:, [1, 0, 3]] = scores[clips, :3]
    np.testing.assert_array_equal(teacher.scores(clips), expected)
    order = np.random.default_rng(1).permutation(30)
    names = np.array([f"audio/Y{clip_id}.wav" for clip_id in CLIPS])
    for ids in (CLIPS[order], names[order]):
        path, _ = scores_of(tmp_path / "other.npz", ids, scores=scores[order])
        other = read_teacher(path, CLIPS, VIEW, ONTOLOGY)
        np.testing.assert_array_equal(other.scores(clips), expected)
        assert other.digest == teacher.digest
    path, _ = scores_of(tmp_path / "changed.npz", scores=1 - scores)
    assert read_teacher(path, CLIPS, VIEW, ONTOLOGY).digest != teacher.digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"ids": CLIPS[2:]},
            r"has no scores for 2 of the 30 training clips \(clip-0, clip-1\); expected a row",
        ),
        ({"columns": (1, 2)}, "has no class of this side"),
        ({"scores": np.full((30, 4), -2.0)}, "scores from -2 to -2, expected probabilities in 0"),
        ({"scores": np.full((30, 4), np.nan)}, "NaN or infinite; expected finite numbers"),
    ],
)
def test_scores_that_are_no_teacher(fields, message, tmp_path):
    path, _ = scores_of(tmp_path / "scores.npz", **fields)
    with pytest.raises(InputError, match=message) as caught:
        read_teacher(path, CLIPS, VIEW, ONTOLOGY)
    assert str(caught.value).startswith("config.teacher")


@pytest.mark.slow
def test_a_run_with_a_teacher(miniature_data, tmp_path):
    def train(name, **fields):
        config = paper_config("Human sounds", "base")
        config.update(data_dir=str(miniature_data), labeling="pe_cml", batch_size=8, num_epochs=1)
        small_network.use_in(config)
        config.mixup.alpha = 0.5
        config.update(resident="never", **fields)
        run(config, tmp_path / name)
        return json.loads((tmp_path / name / "config.json").read_text())

    data_set = open_data_set(miniature_data)
    scores = np.random.default_rng(0).random((len(data_set.clip_ids), len(data_set.ontology.mids)))
    for name, content in (("1", scores), ("2", 1 - scores)):
        path = tmp_path / f"{name}.npz"
        np.savez(path, clip_id=data_set.clip_ids, scores=content, mids=data_set.ontology.mids)
    assert "teacher" not in train("plain")
    assert train("taught", teacher=str(tmp_path / "1.npz"))["teacher"]
    states = [state(tmp_path / name)["params"] for name in ("plain", "taught")]
    assert not jax.tree.all(jax.tree.map(np.array_equal, *states))
    # The file may move; its scores may not change.
    (tmp_path / "1.npz").rename(tmp_path / "moved.npz")
    train("taught", teacher=str(tmp_path / "moved.npz"), num_epochs=2)
    with pytest.raises(InputError, match="was begun with other scores of the teacher than"):
        train("taught", teacher=str(tmp_path / "2.npz"), num_epochs=3)


def state(workdir, epoch=1):
    with Checkpoints(Workdir(workdir), read_only=True) as checkpoints:
        return jax.tree.map(np.asarray, checkpoints.restore_arrays(epoch))


REPOSITORY = pathlib.Path(__file__).parents[2]
SECONDS = 0.5
SMALL = {
    "cnn6": {"model.features": (4, 4, 8, 8)},
    "mn04": {"model.width": 0.1, "model.formulation": "matmul"},  # which compiles quickly
    "ast_tiny": {"model.width": 16, "model.num_heads": 2, "model.num_layers": 2},
}


def start(name, data_dir, workdir):
    fields = {
        **{"data_dir": data_dir, "labeling": "pe_cml", "batch_size": 8, "num_epochs": 2},
        **{"epoch_clips": 64, "ema_decay": 0.9, "steps_per_call": 2},
        **{"model.duration_s": SECONDS, **SMALL[name]},
    }
    if name.startswith("ast"):
        fields["model.num_frames"] = 46
    command = [sys.executable, "-m", "relabel_jax.main", f"--config=published:{name}"]
    command += [f"--workdir={workdir}"]
    command += [f"--config.{field}={value}".replace(" ", "") for field, value in fields.items()]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    with open(f"{workdir}.log", "w") as log:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | cache, stdout=log, stderr=log
        )


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("name", SMALL)
def test_a_published_recipe_killed_and_started_again(name, miniature_at, tmp_path):
    """On two devices, with mixup, averages, balanced sampling and masks: the same bits."""
    folder = miniature_at(16_000 if name.startswith("ast") else 32_000, SECONDS)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run_of = start(name, folder, undisturbed)
    assert run_of.wait() == 0, (tmp_path / "undisturbed.log").read_text()
    run_of = start(name, folder, killed)
    lines = killed / "metrics.jsonl"
    while run_of.poll() is None and not (lines.exists() and lines.read_text().count("\n")):
        time.sleep(0.001)
    run_of.kill()
    assert run_of.wait() == -signal.SIGKILL, (tmp_path / "killed.log").read_text()
    assert not (killed / "result.json").exists()
    assert start(name, folder, killed).wait() == 0, (tmp_path / "killed.log").read_text()
    got, expected = (state(workdir, 2) for workdir in (killed, undisturbed))
    assert {"params", "opt_state"} <= set(got["opt_state"])  # not averaged
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    results = [Workdir(workdir).read_result() for workdir in (killed, undisturbed)]
    assert results[0] == results[1]
    assert results[0].config["mixup"]["alpha"] > 0
    assert results[0].config["model"]["name"] == name


def test_options_of_the_masks():
    for wrong in ((1, 2, 3), (1, -2, 3, 4), (1.5, 2, 3, 4)):
        with pytest.raises(InputError, match=r"spec_augment: expected nothing, or four numbers"):
            registry.build({"name": "cnn6", "spec_augment": wrong}, 3)
    assert model_config("cnn6").spec_augment == ()
