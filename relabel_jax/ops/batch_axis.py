"""Sums over a batch of which each device has some clips and runs the same program on them.

The program is explicit about them (`jax.shard_map`): a compiler that divides an ordinary program
gathers all clips on all devices before a loop that takes them in turn, as `loops.py` does. The
batch is whole again in four places: the loss's count of what is not masked, the moments of a
normalization, their cotangents, and the gradients by the weights. Everything else, derivatives too,
is of a device's own clips, and what these derivatives add up to is that of the whole loss.

The devices are those along a mesh axis; the name None stands for one device that has all clips.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh


def on_each_device(function: Callable, mesh: Mesh, axes: Any, out: Any) -> Callable:
    """`function` on each device's parts of its arguments, inside a jitted program.

    Args:
      axes, out: `PartitionSpec`s of the arguments and of what it returns, or trees of them.
    """
    if mesh.size == 1:
        return function
    return jax.shard_map(function, mesh=mesh, in_specs=axes, out_specs=out, check_vma=False)


def total(parts: Any, axis_name: str | None) -> Any:
    """The sums of a tree's arrays over the devices, on each of them."""
    return parts if axis_name is None else jax.lax.psum(parts, axis_name)


def num_rows(values: jax.Array, axis_name: str | None) -> int:
    """Rows of channels in the whole batch, where each device has such `values` [..., channels]."""
    num_devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return num_devices * (values.size // values.shape[-1])
