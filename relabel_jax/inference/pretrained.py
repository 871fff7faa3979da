"""Represents a trained network that is ready for use, and builds its Flax module.

`loading.py` reads one from disk, `embedder.py` applies it to recordings, `export.py` writes it for
other frameworks.
"""

import dataclasses
import math
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.models import registry
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.variables import Variables, shapes
from relabel_jax.runs.classes import SoundClass

TRAINED_FACTS = (
    "root",
    "root_mid",
    "side",
    "labeling",
    "method",
    "seed",
    "best_epoch",
    "num_clips",
    "num_labels",
    "test",
)
"""The fields of a `RunResult` that stay with the network."""

_INFERENCE_OPTIONS = {"precision": "f32", "formulation": "auto"}
_MAX_SIZE = 1 << 20  # so that a damaged option cannot ask for terabytes


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained network.

    Attributes:
      network: the network over the classes that were trained. If the names of the classes are not
        known, it is over all classes of the side.
      variables: its variables, float32 NumPy arrays.
      classes: the classes of the scores, in their order; None if their names are not known.
      trained: facts of the training, by the names in `TRAINED_FACTS`.
    """

    network: Backbone
    variables: Variables
    classes: tuple[SoundClass, ...] | None
    trained: dict[str, Any]


def build_network(model: Any, num_classes: int, where: str) -> Backbone:
    """Builds a network for inference: in float32, with the convolutions that suit this machine.

    It allocates no memory for the variables.

    Args:
      model: `config.model` of the training: `name`, and options of that network.
      num_classes: number of classes; 0 if it is not known yet.
      where: the file that says so, for error messages.

    Raises:
      InputError: the network does not exist or does not take these options.
    """
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise InputError(f"{where}: model is {model!r}, expected an object with a name")
    name = model["name"]
    try:
        defaults = registry.default_options(name)
        for option, value in model.items():
            if option in defaults and not _is_like(value, defaults[option]):
                raise InputError(
                    f"model.{option} is {value!r}, expected a value like {defaults[option]!r} "
                    f"without numbers above {_MAX_SIZE}"
                )
        forced = {each: _INFERENCE_OPTIONS[each] for each in defaults if each in _INFERENCE_OPTIONS}
        network = registry.build(model | forced, num_classes)
        shapes(network.clone(num_classes=max(1, num_classes)))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except Exception as error:  # a network may raise any error for options that it cannot use
        cause = f"{error}\n".splitlines()[0]
        raise InputError(
            f"{where}: cannot build {name} with these options: {type(error).__name__}: {cause}"
        ) from error
    return network


def describe_network(network: Backbone) -> dict[str, Any]:
    """Returns the `model` for which `build_network` returns this network."""
    found = type(network)
    path = f"{found.__module__}:{found.__qualname__}"
    name = next((name for name, known in registry.NETWORKS.items() if known == path), path)
    options = [each for each in registry.default_options(name) if each not in _INFERENCE_OPTIONS]
    return {"name": name} | {option: getattr(network, option) for option in options}


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value from a JSON file has the type of an option's default."""
    if isinstance(default, list | tuple):
        return isinstance(value, list) and all(_is_like(each, default[0]) for each in value)
    if isinstance(default, bool | str):
        return type(value) is type(default)
    if isinstance(default, int):
        return type(value) is int and abs(value) <= _MAX_SIZE
    if isinstance(default, float):
        return type(value) in (int, float) and math.isfinite(value)
    return True
