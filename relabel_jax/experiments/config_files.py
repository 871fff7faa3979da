"""Finds config files: those that come with relabel_jax, and those of the user."""

import pathlib

from relabel_jax.errors import InputError

_PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def configs_folder() -> pathlib.Path:
    """Returns the folder of the configs that come with relabel_jax.

    A wheel installs it inside the package. In a checkout it is beside the package.
    """
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str) -> pathlib.Path:
    """Finds a config file by its path or by its name.

    Args:
      name: the path of a file, or the name of a config that comes with relabel_jax, such as
        `base_human`; either with or without `.py`.

    Returns:
      The path of an existing file.

    Raises:
      InputError: there is no such file and no config of that name.
    """
    files = [pathlib.Path(name), pathlib.Path(f"{name}.py")]
    folder = configs_folder()
    if pathlib.Path(name).name == name:
        files += [folder / file for file in files]
    for file in files:
        if file.is_file():
            return file
    names = ", ".join(sorted(path.stem for path in folder.glob("*.py")))
    raise InputError(f"--config={name}: there is no such file; the configs by name are {names}")
