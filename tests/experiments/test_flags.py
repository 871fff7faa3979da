"""The config of a command line: files, names, fields, and the options of the network it names."""

import pytest

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import check, members
from relabel_jax.experiments.flags import read_config


def test_fields_and_options():
    config = read_config(
        "base_human",
        ["--config.num_epochs=3", "--config.model.features=(1,2,3)", "--config.data_dir", "D"],
    )
    assert (config.num_epochs, config.data_dir, config.root) == (3, "D", "Human sounds")
    assert config.model.features == (1, 2, 3)


@pytest.mark.parametrize("name_first", [True, False])
def test_another_network_brings_its_own_options(name_first):
    flags = ["--config.model.name=logmel_cnn", "--config.model.num_mels=32"]
    config = read_config("base_human", flags if name_first else flags[::-1])
    assert config.model.name == "logmel_cnn"
    assert config.model.num_mels == 32
    assert "dense_units" not in config.model


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from relabel_jax.experiments.config import paper_config\n"
        "def get_config(root='Music'):\n    return paper_config(root, 'base')\n"
    )
    assert read_config(str(path), []).root == "Music"
    assert read_config(f"{path}:Animal", []).root == "Animal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "it fails: ZeroDivisionError: division by zero"),
        ("def get_config(:", "it fails: SyntaxError"),
        ("", "it fails: AttributeError: .*get_config"),
    ],
)
def test_a_file_that_fails(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config(str(path), [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.norm_order=bn_elu", "config.norm_order is now config.model.norm_order"),
        ("--config.num_epoch=1", "the config has no field num_epoch; Did you mean num_epochs"),
        ("--config.num_epochs=many", "num_epochs=many: invalid literal"),
        ("--cofig.num_epochs=1", "unknown flag --cofig.num_epochs; did you mean --config.num_e"),
        ("--data_dir=D", "unknown flag --data_dir; did you mean --config.data_dir; see --help"),
        ("--num_epoch=3", "unknown flag --num_epoch; did you mean --config.num_epochs; see"),
        ("--features=(1,2)", "unknown flag --features; did you mean --config.model.features"),
        ("--verbose", "unknown flag --verbose; see --help"),
        ("3", "unexpected '3'"),
    ],
)
def test_refused(flag, message):
    with pytest.raises(InputError, match=message) as caught:
        read_config("base_human", [flag])
    assert "\n" not in str(caught.value)


GET = """\
from ml_collections import ConfigDict
from relabel_jax.experiments.config import paper_config
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit(3)", "it fails: SystemExit: 3"),
        (f"{GET}def get_config(): return {{}}", "returns dict, expected a ConfigDict"),
        (f"{GET}def get_config(): return ConfigDict()", "has no field base"),
        (
            f"{GET}def get_config():\n  c = paper_config('Music', 'base').to_dict()\n"
            "  c['batch_size'] = 'many'\n  return ConfigDict(c)",
            "batch_size is 'many', expected a value like 24",
        ),
    ],
)
def test_a_file_that_gives_no_config(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_config(str(path), [])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", "abc", "config.seeds: expected whole numbers"),
        ("seeds", "0,-1", "config.seeds: expected whole numbers|config.seed: expected 0 or more"),
        ("batch_size", "1000000000", "config.batch_size: expected at most 65,536"),
        ("learning_rate", "nan", "config.learning_rate: expected a positive number"),
        ("num_epochs", "0", "config.num_epochs: expected a positive number"),
        ("seed", "-1", "config.seed: expected 0 or more"),
    ],
)
def test_numbers_out_of_range(field, value, message):
    config = read_config("target_human", ["--config.data_dir=D", f"--config.{field}={value}"])
    with pytest.raises(InputError, match=message):
        check(members(config)[-1])
