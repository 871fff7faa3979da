"""The config of a command line: a file or a name, and `--config.FIELD=VALUE` for its fields."""

import difflib
import types
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from relabel_jax.errors import InputError
from relabel_jax.experiments.cells import grid_config
from relabel_jax.experiments.config import model_config, paper_config, plain
from relabel_jax.experiments.config_files import find_config
from relabel_jax.runs.old_configs import MOVED, flat

_MODEL_NAME = "--config.model.name"


def read_config(name: str, overrides: Sequence[str]) -> ConfigDict:
    """Returns a config with the fields that the command line changes.

    Args:
      name: a file, or the name of one of the configs that come with the package; `NAME:ARGUMENT`
        hands the argument to its `get_config`.
      overrides: `--config.FIELD=VALUE` each. If they name another network, the fields of
        `config.model` are that network's.

    Raises:
      InputError: there is no such config, it fails, it has no such field, or a value does not fit.
    """
    config = _load(name)
    _check_form(config, grid_config((), ()) if "roots" in config else paper_config("", ""), name)
    model = _value_of(_MODEL_NAME, overrides)
    if model is not None and "model" in config and model != config.model.name:
        config.model = model_config(model)
    for override in overrides:
        _check_flag(override, config)
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=["main", *overrides]
        )
        rest = values(["main", *overrides])
    except (flags.Error, ValueError, TypeError) as error:
        raise InputError(f"{str(error).splitlines()[0]}; see --help") from error
    except (AttributeError, KeyError) as error:  # 'FIELD' or 'FIELD'\nDid you mean ...
        what = str(error).replace("\\n", "; ").translate({ord(c): None for c in "\\\"'"})
        raise InputError(f"the config has no field {what}; see --help") from error
    if rest[1:]:
        raise InputError(f"unexpected {rest[1]!r}; flags are --NAME=VALUE, see --help")
    return config


def _check_flag(override: str, config: ConfigDict) -> None:
    """Raises InputError if a flag is not a field of a config, or is an old name of one."""
    flag = override.partition("=")[0]
    field = flag.removeprefix("--").removeprefix("no")
    if field.startswith("config."):
        if (old := field.removeprefix("config.")) in MOVED:
            raise InputError(f"config.{old} is now config.{MOVED[old]}; see --help")
    elif override.startswith("-"):  # else it is the value of the flag before it
        fields = flat(plain(config))
        names = {name.rpartition(".")[2]: name for name in reversed(fields)}
        for name in fields:
            names |= {name: name, f"config.{name}": name}
        nearest = difflib.get_close_matches(flag.removeprefix("--"), names, n=1, cutoff=0.8)
        suggestion = f"; did you mean --config.{names[nearest[0]]}" if nearest else ""
        raise InputError(f"unknown flag {flag}{suggestion}; see --help")


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The last value of a flag, given as `FLAG=VALUE` or `FLAG VALUE`."""
    value = None
    for position, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
        elif argument == flag and position + 1 < len(arguments):
            value = arguments[position + 1]
    return value


def _load(name: str) -> ConfigDict:
    """Returns what `get_config` of a config file returns."""
    file, _, argument = name.partition(":")
    path = find_config(file)
    module = types.ModuleType(f"config_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), path, "exec"), module.__dict__)
        config = module.get_config(*([argument] if argument else []))
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code in a config file raises
        cause = f"{error}\n".splitlines()[0]
        raise InputError(f"--config={name}: it fails: {type(error).__name__}: {cause}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(
            f"--config={name}: its get_config returns {type(config).__name__}, expected a "
            "ConfigDict, such as experiments.config.paper_config makes"
        )
    return config


def _check_form(config: ConfigDict, expected: ConfigDict, name: str) -> None:
    """Checks that a config has the fields of the recipe, and values of their types.

    Args:
      config: the config of a file.
      expected: a config with all fields.
      name: the name of the config, for messages.

    Raises:
      InputError: a field is missing or has a value of another type.
    """
    values = _leaves(config)
    for field, default in _leaves(expected).items():
        if field.startswith("model.") and field != "model.name":
            continue  # each network has its own options
        if field not in values:
            raise InputError(
                f"--config={name}: has no field {field}; begin with experiments.config.paper_config"
            )
        if not _fits(values[field], default):
            raise InputError(
                f"--config={name}: {field} is {values[field]!r}, expected a value like {default!r}"
            )


def _leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The fields of a config and of the configs in it, such as `model.name`."""
    found: dict[str, Any] = {}
    for field, value in config.items():
        if isinstance(value, ConfigDict):
            found |= _leaves(value, f"{prefix}{field}.")
        else:
            found[f"{prefix}{field}"] = value
    return found


def _fits(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default; a float may be given as a whole number.

    None is the default of numbers that may be missing.
    """
    if default is None:
        return value is None or type(value) in (int, float)
    if isinstance(default, float):
        return type(value) in (int, float)
    if isinstance(default, tuple):
        return isinstance(value, list | tuple)
    return type(value) is type(default)
