"""Networks by name, and the options that a config gives them.

A network outside this package is named by its module and class: `my_package.my_net:Net`.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Backbone

NETWORKS = {
    "waveform_cnn": "relabel_jax.models.waveform_cnn:WaveformCNN",
    "logmel_cnn": "relabel_jax.models.logmel_cnn:LogMelCNN",
    "cnn6": "relabel_jax.models.panns:CNN6",
    "cnn10": "relabel_jax.models.panns:CNN10",
    "cnn14": "relabel_jax.models.panns:CNN14",
    "mn04": "relabel_jax.models.mobilenet:MN04",
    "mn10": "relabel_jax.models.mobilenet:MN10",
    "ast_tiny": "relabel_jax.models.ast:ASTTiny",
    "ast_small": "relabel_jax.models.ast:ASTSmall",
    "ast_base": "relabel_jax.models.ast:ASTBase",
}
"""The class of each network, `MODULE:CLASS` by name."""

DEFAULT = "waveform_cnn"
# Fields that no config sets: the data give the number of classes, the devices the axis.
_NOT_OPTIONS = ("num_classes", "axis_name", "parent", "name")
_REQUIRED = ("waveform_format", "embedding_size", "embed", "head")


def network_class(name: str) -> type[nn.Module]:
    """The class of a network.

    Args:
      name: a key of `NETWORKS`, or `MODULE:CLASS`.

    Raises:
      InputError: there is no such network, or it lacks a member of `backbone.Backbone`.
    """
    module_name, _, class_name = NETWORKS.get(name, name).partition(":")
    if not class_name:
        raise InputError(
            f"config.model.name: {name!r} is none of {', '.join(NETWORKS)}; name your own "
            "network by MODULE:CLASS, such as my_package.my_net:Net"
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # an import can raise any exception
        cause = f"{error}\n".splitlines()[0]
        raise InputError(
            f"config.model.name={name}: cannot import it: {type(error).__name__}: {cause}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"config.model.name={name}: is not a flax.linen.Module class")
    missing = [member for member in _REQUIRED if not hasattr(found, member)]
    if "num_classes" not in {field.name for field in dataclasses.fields(found)}:
        missing.append("num_classes")
    if missing:
        raise InputError(
            f"config.model.name={name}: lacks {', '.join(missing)}; relabel_jax/models/backbone.py "
            "says what a network must have"
        )
    return found


def default_options(name: str) -> dict[str, Any]:
    """The options of a network with their defaults: the rest of `config.model`.

    Raises:
      InputError: see `network_class`.
    """
    found = network_class(name)
    if hasattr(found, "from_config"):
        parameters = inspect.signature(found.from_config).parameters.values()
        options = {each.name: each.default for each in parameters}
    else:
        options = {
            field.name: None if field.default is dataclasses.MISSING else field.default
            for field in dataclasses.fields(found)
        }
    return {name: value for name, value in options.items() if name not in _NOT_OPTIONS}


def build(model: Mapping[str, Any], num_classes: int) -> Backbone:
    """The network that `config.model` describes.

    Args:
      model: `name`, and options of that network; absent options have their defaults.
      num_classes: outputs of the head.

    Raises:
      InputError: the network does not exist, has no such option, or rejects a value.
    """
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in model.items()
    }
    name = options.pop("name")
    found = network_class(name)
    known = default_options(name)
    for option in options:
        if option not in known:
            raise InputError(
                f"config.model.{option}: {name} has no such option, it has {', '.join(known)}"
            )
    create: Any = getattr(found, "from_config", found)
    try:
        return create(num_classes=num_classes, **options)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"config.model.name={name}: {error}") from error
