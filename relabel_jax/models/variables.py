"""The variables of a network: their start, their shapes, and which of them are the output layer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import numpy as np

from relabel_jax.models.backbone import Backbone, Network

Variables = dict[str, Any]
COLLECTIONS = ("params", "batch_stats")
"""The collections in a checkpoint; networks without running statistics have no `batch_stats`."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def _random(network: Any, inputs: jax.ShapeDtypeStruct, key: jax.Array) -> Variables:
    return network.lazy_init(key, inputs, train=False)


def random_variables(network: Network, inputs: jax.ShapeDtypeStruct, seed: int) -> Variables:
    """Random initial variables, on the host.

    Args:
      network: a backbone, or a classifier on embeddings.
      inputs: shape and dtype of a batch of one.
      seed: seed of the weights.
    """
    return jax.device_get(_random(network, inputs, jax.random.key(seed)))


def waveform_batch(network: Backbone) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a batch of one clip: int16[1, samples]."""
    return jax.ShapeDtypeStruct((1, network.waveform_format.num_samples), np.int16)


@functools.cache
def shapes(network: Backbone) -> Variables:
    """Shapes and dtypes of a backbone's variables, as `jax.ShapeDtypeStruct`s."""
    return jax.eval_shape(
        lambda key, inputs: network.init(key, inputs, train=False),
        jax.random.key(0),
        waveform_batch(network),
    )


@functools.cache
def _output_axes(network: Backbone) -> dict[tuple[str, ...], int]:
    """The class axis, by path, of each variable whose shape depends on the number of classes."""
    wider = network.clone(num_classes=network.num_classes + 1)
    here, there = (
        flax.traverse_util.flatten_dict(jax.tree.map(np.shape, shapes(each)), is_leaf=_is_shape)
        for each in (network, wider)
    )
    axes = {}
    for path, shape in here.items():
        different = [axis for axis, n in enumerate(shape) if n != there[path][axis]]
        if different:
            axes[path] = different[0]
    return axes


def _is_shape(_: tuple, value: Any) -> bool:
    return isinstance(value, tuple)


def num_outputs(network: Backbone, variables: Variables) -> int:
    """The number of classes of the variables, which may differ from `network.num_classes`.

    Returns 0 for the variables of another network.
    """
    path, axis = next(iter(_output_axes(network.clone(num_classes=1)).items()))
    shape = np.shape(flax.traverse_util.flatten_dict(variables).get(path, ()))
    return shape[axis] if axis < len(shape) else 0


def select_outputs(network: Backbone, variables: Variables, classes: np.ndarray) -> Variables:
    """The variables of the same network for some of its classes.

    Args:
      network: the network with all classes.
      variables: its variables.
      classes: int64[kept], indices of the outputs to keep.
    """
    axes = _output_axes(network)
    return _with_outputs(
        network,
        variables,
        lambda path, value: np.take(value, classes, axis=axes[path]),
    )


def replace_outputs(network: Backbone, variables: Variables, start: Variables) -> Variables:
    """The variables with another output layer: the start of fine-tuning.

    Args:
      network: the network to fine-tune.
      variables: the variables of the trained network, which may have other classes.
      start: the initial variables of `network`, which give the output layer.
    """
    of_start = flax.traverse_util.flatten_dict(start)
    return _with_outputs(network, variables, lambda path, _: of_start[path])


def without_outputs(network: Backbone, variables: Variables) -> dict[str, Any]:
    """All variables except the output layer, by dotted name. An embedding depends only on these."""
    axes = _output_axes(network)
    flat = flax.traverse_util.flatten_dict(variables)
    return {".".join(path): value for path, value in flat.items() if path not in axes}


def _with_outputs(
    network: Backbone, variables: Variables, change: Callable[[tuple[str, ...], Any], Any]
) -> Variables:
    flat = flax.traverse_util.flatten_dict(variables, keep_empty_nodes=True)
    changed = {path: change(path, flat[path]) for path in _output_axes(network)}
    return flax.traverse_util.unflatten_dict(flat | changed)


def trained(state: Mapping[str, Any]) -> Variables:
    """The variables in a checkpoint's state, as nested dicts."""
    return {name: state[name] for name in COLLECTIONS if state.get(name)}


def same_shapes(network: Backbone, variables: Variables) -> bool:
    """Whether variables have the structure and shapes of the network's variables."""
    return jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, shapes(network))


def zeros(network: Backbone) -> Variables:
    """Zeros with the shapes and dtypes of a network's variables, on the host."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes(network))
