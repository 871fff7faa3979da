"""Sums over a batch that several devices share.

Each device has a part of the batch's clips and runs the same program on them. The program says this
explicitly (`jax.shard_map`), because a compiler that divides an ordinary program gathers all clips
on all devices before a loop over clips, such as those of `blocked.py`.

Only four quantities are sums over the whole batch: the loss's count of outputs that are not masked,
the moments of a normalization, the cotangents of these moments, and the gradients by the weights.
Everything else, derivatives included, concerns a device's own clips. Such derivatives add up to
those of the whole loss.

The devices are those along a mesh axis. The axis name None stands for one device that has all
clips.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh


def on_each_device(function: Callable, mesh: Mesh, axes: Any, out: Any) -> Callable:
    """Runs a function on each device's parts of the arguments, inside a jitted program.

    Args:
      function: the program of one device.
      mesh: the devices.
      axes, out: `PartitionSpec`s of the arguments and of the results, or trees of them.
    """
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=axes, out_specs=out, check_vma=False)


def total(parts: Any, axis_name: str | None) -> Any:
    """Sums each array of a tree over the devices. Every device gets the sums."""
    return parts if axis_name is None else jax.lax.psum(parts, axis_name)


def num_rows(values: jax.Array, axis_name: str | None) -> int:
    """The number of rows in the whole batch, if each device has `values` [..., channels]."""
    num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return num_devices * (values.size // values.shape[-1])
