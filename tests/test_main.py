"""The command line from a user's view."""

import pathlib
import subprocess
import sys

import pytest

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


@pytest.fixture(scope="module")
def answers():
    """Exit status, stdout and stderr of all cases, which run side by side."""

    def start(flags):
        return subprocess.Popen(
            [sys.executable, "-m", "relabel_jax.main", *flags],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    running = {name: start(flags) for name, (flags, _) in CASES.items()} | {
        "help": start(["--help"])
    }
    return {name: (*run.communicate(), run.returncode) for name, run in running.items()}


@pytest.mark.parametrize("case", CASES)
def test_one_line(answers, case):
    stdout, stderr, status = answers[case]
    assert status == 1
    assert stdout == ""
    assert stderr.count("\n") == 1
    assert stderr.startswith(CASES[case][1])


def test_help(answers):
    stdout, stderr, status = answers["help"]
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


def test_help_has_a_line_for_every_field(answers):
    from relabel_jax.experiments.cells import grid_config
    from relabel_jax.experiments.config import paper_config
    from relabel_jax.runs.old_configs import flat

    stdout = answers["help"][0]
    configs = paper_config("", ""), grid_config(roots=(), target_labelings=())
    fields = {name for config in configs for name in flat(config.to_dict())}
    for field in fields:
        assert field in stdout or field.startswith("model."), field
