"""Weights by the names and in the layouts of the authors' PyTorch code.

A network that others published with weights has a method `published_name(*path)`: the name, in the
authors' state dict, of the module or parameter at a path of its Flax variables.
"""

from collections.abc import Mapping
from typing import Any

import flax
import numpy as np

from relabel_jax.errors import InputError, some
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.variables import Variables, shapes

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def state_dict_names(network: Backbone) -> dict[tuple[str, ...], str]:
    """The name in the authors' state dict for each path of the network's variables."""
    name: Any = network.published_name  # type: ignore[attr-defined]
    return {
        path: f"{name(*path[1:-1])}.{_LEAVES[path[-1]]}" if path[-1] in _LEAVES else name(*path[1:])
        for path in flax.traverse_util.flatten_dict(shapes(network))
    }


def to_state_dict(network: Backbone, variables: Variables) -> dict[str, np.ndarray]:
    """The variables by the authors' names, in PyTorch's layouts."""
    names = state_dict_names(network)
    flat = flax.traverse_util.flatten_dict(variables)
    return {names[path]: _to_pytorch(np.asarray(array), path[-1]) for path, array in flat.items()}


def from_state_dict(network: Backbone, tensors: Mapping[str, np.ndarray]) -> Variables:
    """The network's variables, from the authors' state dict.

    Args:
      network: a network with `published_name`.
      tensors: float arrays. `num_batches_tracked`, which PyTorch counts for itself, is left out.

    Raises:
      InputError: tensors are missing, or there are others, or one has another shape.
    """
    names = state_dict_names(network)
    given = {name for name in tensors if not name.endswith(".num_batches_tracked")}
    for problem, found in (
        ("lacks", set(names.values()) - given),
        ("has, and the network does not,", given - set(names.values())),
    ):
        if found:
            raise InputError(f"the state dict {problem} {some(sorted(found))}")
    flat = {}
    for path, like in flax.traverse_util.flatten_dict(shapes(network)).items():
        array = np.asarray(tensors[names[path]])
        expected = _to_pytorch(np.broadcast_to(0, like.shape), path[-1]).shape
        if array.shape != expected:
            raise InputError(
                f"{names[path]}: has the shape {array.shape} in the state dict, expected {expected}"
            )
        flat[path] = _to_flax(array, path[-1]).astype(like.dtype)
    return flax.traverse_util.unflatten_dict(flat)


def _to_pytorch(array: np.ndarray, leaf: str) -> np.ndarray:
    """Kernels (*taps, in, out) -> (out, in, *taps)."""
    if leaf != "kernel":
        return array
    return array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))


def _to_flax(array: np.ndarray, leaf: str) -> np.ndarray:
    """Kernels (out, in, *taps) -> (*taps, in, out)."""
    if leaf != "kernel":
        return array
    return array.transpose(*range(2, array.ndim), 1, 0)
