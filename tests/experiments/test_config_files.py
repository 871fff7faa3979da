"""Configs are found by path and by name, from any folder."""

import pathlib
import runpy

import pytest

from relabel_jax.errors import InputError
from relabel_jax.experiments.config_files import configs_folder, find_config

CHECKOUT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["base_human", "base_human.py"])
def test_a_name_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = runpy.run_path(str(find_config(name)))["get_config"]()
    assert (config.root, config.method) == ("Human sounds", "base")


@pytest.mark.parametrize("name", ["configs/paper.py", "configs/paper"])
def test_a_path_is_taken_as_it_is(name, monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    assert find_config(name) == pathlib.Path("configs/paper.py")


def test_a_file_of_the_user_comes_before_a_config_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base_human.py").touch()
    assert find_config("base_human") == pathlib.Path("base_human.py")


def test_a_folder_is_no_config(tmp_path, monkeypatch):
    """A workdir may well have the name of its config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base_human").mkdir()
    assert find_config("base_human") == configs_folder() / "base_human.py"


@pytest.mark.parametrize("name", ["base_humans", "elsewhere/base_human.py", ""])
def test_an_unknown_name_lists_the_names(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        find_config(name)
    names = sorted(path.stem for path in (CHECKOUT / "configs").iterdir() if path.suffix == ".py")
    assert {"base_human", "paper", "target_things"} <= set(names)
    assert str(error.value) == (
        f"--config={name}: there is no such file; the configs by name are {', '.join(names)}"
    )
