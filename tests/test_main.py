"""The command line from a user's view."""

import os
import pathlib
import subprocess
import sys

import pytest

from relabel_jax.main import main

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).parents[1]
CONFIG = "--config=configs/target_natural.py"
CASES = {
    "no such field": (
        [CONFIG, "--workdir=W", "--config.num_epoch=3"],
        "error: the config has no field num_epoch; Did you mean num_epochs",
    ),
    "no number": (
        [CONFIG, "--workdir=W", "--config.num_epochs=three"],
        "error: flag --config.num_epochs=three: invalid literal for int()",
    ),
    "no config": (
        ["--config=configs/nope.py", "--workdir=W"],
        "error: --config=configs/nope.py: there is no such file; the configs by name are",
    ),
    "no such size": (
        ["--config=configs/paper.py:tiny", "--workdir=W"],
        "error: --config=configs/paper.py:tiny: expected :small or nothing",
    ),
    "no such part": (
        ["--config=configs/paper.py", "--workdir=W", "--config.only=humans"],
        "error: config.only: 'humans' is neither in a root (Human sounds, Sounds of things",
    ),
    "a field that moved": (
        [CONFIG, "--workdir=W", "--config.filters=(4,4)"],
        "error: config.filters is now config.model.features; see --help",
    ),
    "no such network": (
        [CONFIG, "--workdir=W", "--config.model.name=cnn15"],
        "error: config.model.name: 'cnn15' is none of waveform_cnn, logmel_cnn, cnn6, cnn10,",
    ),
    "no such option": (
        [
            CONFIG,
            "--workdir=W",
            "--config.model.name=logmel_cnn",
            "--config.model.dense_units=(3,)",
        ],
        "error: the config has no field dense_units",
    ),
    "not a flag": ([CONFIG, "--workdir=W", "3"], "error: unexpected '3'"),
    "no data": ([CONFIG, "--workdir=W"], "error: config.data_dir is empty; set it to the"),
}


def run(*flags):
    """Stdout, stderr and exit status of a process."""
    done = subprocess.run(
        [sys.executable, "-m", "relabel_jax.main", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    return done.stdout, done.stderr, done.returncode


@pytest.fixture(scope="module")
def answer_to_help():
    return run("--help")


def check_one_line(stdout, stderr, status, case):
    assert status == 1
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert stderr.startswith(CASES[case][1])


def test_one_line_of_a_process():
    check_one_line(*run(*CASES["no data"][0]), "no data")


@pytest.mark.parametrize("case", CASES)
def test_one_line(case, capsys, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    # Other tests in this process use JAX. Commands then cannot choose the number of devices.
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=1")
    status = main(CASES[case][0])
    check_one_line(*capsys.readouterr(), status, case)


def test_help(answer_to_help):
    stdout, stderr, status = answer_to_help
    assert status == 0
    assert stderr == ""
    for word in ("--workdir", "data_dir", "pe_cml", "finetune", "metrics.jsonl"):
        assert word in stdout


@pytest.mark.parametrize("name", ["human", "things", "ambiguous", "natural"])
@pytest.mark.parametrize("side", ["base", "target"])
def test_configs_have_the_papers_recipe(name, side, audioset_dir):
    from relabel_jax.labels.ontology import Ontology

    path = REPOSITORY / "configs" / f"{side}_{name}.py"
    module = {}
    exec(compile(path.read_text(), path, "exec"), module)
    config = module["get_config"]()
    assert (config.num_epochs, config.batch_size) == (100, 24)
    assert (config.learning_rate, config.learning_rate_decay) == (0.001, 0.987)
    assert (config.method == "base") == (side == "base")
    ontology = Ontology.from_json(audioset_dir / "ontology.json")
    assert not ontology.is_parent[:, ontology.find(config.root)].any()
    assert path.name in module["__doc__"]


def test_help_has_a_line_for_every_field(answer_to_help):
    from relabel_jax.experiments.cells import grid_config
    from relabel_jax.experiments.config import paper_config
    from relabel_jax.runs.old_configs import flat

    stdout, *_ = answer_to_help
    configs = paper_config("", ""), grid_config(roots=(), target_labelings=())
    fields = {name for config in configs for name in flat(config.to_dict())}
    for field in fields:
        assert field in stdout or field.startswith("model."), field
