"""The config of a command line: a file or a name, and `--config.FIELD=VALUE` for its fields."""

import difflib
import importlib.util
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import model_config, plain
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
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.get_config(*([argument] if argument else []))
    except InputError:
        raise
    except Exception as error:  # whatever the code in a config file raises
        cause = f"{error}\n".splitlines()[0]
        raise InputError(f"--config={name}: it fails: {type(error).__name__}: {cause}") from error
