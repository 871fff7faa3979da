"""A population: members that differ in labels, seed and weights, trained as one program.

The step and the chunk of steps in `step.py` are those of one member. This module wraps them for
several members and for the devices of all hosts. A single run is a population of one member.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from relabel_jax.models import backbone
from relabel_jax.models.backbone import Network
from relabel_jax.ops.batch_axis import on_each_device
from relabel_jax.train.device_grid import grid
from relabel_jax.train.rows import Rows
from relabel_jax.train.step import Recipe, TrainState, predict_chunk, train_chunk

MEMBERS_BY = ("map", "vmap")
_SHARED = PartitionSpec()
_OF_MEMBER = PartitionSpec("member")
_BATCHES = PartitionSpec("member", None, "data")  # [members, chunk, batch, ...]
_INPUTS = PartitionSpec(None, None, "data")  # [orders, chunk, batch, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of members and batches on the devices.

    The devices form a grid of rows and columns. The members are divided over the rows, and the
    batch of a member over the devices of its row.

    Attributes:
      mesh: devices of all processes, with the axes `member` (rows) and `data`.
      members_by: `map` computes the members of a device one after another, `vmap` at once.
    """

    mesh: Mesh
    members_by: str

    @classmethod
    def of(
        cls, num_members: int, batch_size: int, members_by: str, population: int = 0
    ) -> "Layout":
        """Makes the layout on all devices, or on fewer if that is as fast.

        Args:
          num_members: the number of members that are trained.
          batch_size: clips a step.
          members_by: one of `MEMBERS_BY`, or `auto`, which is `map`: `vmap` makes a convolution a
            grouped one, which takes longer.
          population: the number of all members, also those that are ahead or finished. The batch
            is divided as for all of them, so that sums are rounded in the same way. This may leave
            devices idle. No process may be idle, so it is ignored with several processes.

        Raises:
          InputError: the batch cannot be divided among the devices.
        """
        # The devices of a process are neighbours, so that its part of a batch is contiguous.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        like = max(population, num_members) if jax.process_count() == 1 else num_members
        rows, columns = grid(like, batch_size, len(devices))
        rows = math.gcd(rows, num_members)
        of_process = rows * columns // jax.process_count()
        used = np.array(devices).reshape(jax.process_count(), -1)[:, :of_process]
        members_by = "map" if members_by == "auto" or num_members == 1 else members_by
        return cls(Mesh(used.reshape(rows, columns), ("member", "data")), members_by)

    def describe(self, num_members: int, batch_size: int) -> str:
        """Returns a line that says how members and batches are laid out, and why."""
        rows, columns = self.mesh.shape["member"], self.mesh.shape["data"]
        line = f"{self.mesh.size} of {jax.device_count()} devices: "
        if num_members > 1:
            line += f"{num_members // rows} of {num_members} members on each, "
        line += f"{batch_size // columns} of a batch's {batch_size} clips on each"
        if self.mesh.size < jax.device_count():
            line += "; more would not make a step faster"
        return line

    def sharding(self, *axes: Any) -> NamedSharding:
        """Returns the sharding with these mesh axes (or None) for the leading axes of an array."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def put(self, tree: Any, *axes: Any) -> Any:
        """Puts arrays on the devices. Every process must have the whole arrays."""
        sharding = self.sharding(*axes)

        def put_one(array):
            return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        with jax.transfer_guard_host_to_device("allow"):
            return jax.tree.map(put_one, jax.tree.map(np.asarray, tree))

    def put_part(self, array: np.ndarray, *axes: Any) -> jax.Array:
        """Puts an array on the devices. This process must have its `part` of the array."""
        with jax.transfer_guard_host_to_device("allow"):
            return jax.make_array_from_process_local_data(self.sharding(*axes), array)

    def put_chunk(self, inputs: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> tuple:
        """Returns the arguments of `train_population` after the states, for shared inputs.

        Args:
          inputs: [chunk, batch, ...], which all members see; there is a step for each batch.
          labels, masked: bool[members, chunk, batch, classes].
        """
        num_members, num_steps = labels.shape[:2]
        return (
            None,
            (self.put(inputs, None, "data"),),
            self.put(np.zeros(num_members, np.int32), "member"),
            *(self.put(array, "member", None, "data") for array in (labels, masked)),
            self.put(np.int32(num_steps)),
            self.put(np.zeros(num_members, np.uint32), "member"),
        )

    def part(self, length: int, *axes: Any) -> slice:
        """Returns the part of this process of an array axis that is divided over mesh `axes`."""
        indices = self.sharding(axes).addressable_devices_indices_map((length,)).values()
        ranges = [index[0].indices(length) for index in indices if index is not None]
        return slice(min(first for first, *_ in ranges), max(last for _, last, _ in ranges))

    def each_member(
        self, function: Callable, of_members: Any, shared: Any, axes: tuple[Any, Any], out: Any
    ) -> Any:
        """Calls `function(of_member, shared)` for every member, inside a jitted program.

        Each device calls it for its own members and clips (`ops/batch_axis.py`).

        Args:
          function: the function of one member.
          of_members: a tree of arrays [members, ...].
          shared: a tree of arrays that all members see.
          axes: `PartitionSpec`s of `of_members` and `shared`, or trees of them.
          out: `PartitionSpec`s of the results, whose first axis is the members.
        """

        def on_one_device(of_members, shared):
            if self.members_by == "map":
                return jax.lax.map(lambda of_member: function(of_member, shared), of_members)
            return jax.vmap(function, in_axes=(0, None))(of_members, shared)

        return on_each_device(on_one_device, self.mesh, axes, out)(of_members, shared)

    @property
    def axis_name(self) -> str | None:
        """The axis of the devices that share a batch; None if no devices share one."""
        return "data" if self.mesh.shape["data"] > 1 else None

    def divided(self, network: Network) -> Network:
        """Returns the network for devices that share a batch; the same network if none do."""
        return network if self.axis_name is None else backbone.divided(network, self.axis_name)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def train_population(
    network: Network,
    recipe: Recipe,
    layout: Layout,
    states: TrainState,
    resident: Rows | None,
    inputs: tuple[jax.Array, ...],
    order: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    num_steps: jax.Array,
    seeds: jax.Array,
    teacher: jax.Array | None = None,
) -> tuple[TrainState, jax.Array]:
    """Trains every member on the first `num_steps` batches of a chunk.

    Args:
      network: the network of all members.
      recipe: the loss, the optimizer and its schedule.
      layout: the layout of members and batches on the devices.
      states: the states of all members, with a leading axis [members].
      resident: the clips on the device; None if inputs are streamed.
      inputs: for each order of the clips the inputs [chunk, batch, ...], or, if they are resident,
        the numbers of the clips, int32[chunk, batch].
      order: int32[members], the index in `inputs` of each member.
      labels, masked: bool[members, chunk, batch, classes].
      num_steps: int32[], at most `chunk`.
      seeds: uint32[members], seeds of the random streams.
      teacher: float32[members, chunk, batch, classes], or None; see `train_step`.

    Returns:
      The states and float32[members, chunk], the sum of the epoch's losses after each step.
    """

    network = layout.divided(network)

    def train_one(of_member, shared):
        state, order, labels, masked, seed, teacher = of_member
        resident, inputs, num_steps = shared
        return train_chunk(
            network,
            recipe,
            state,
            resident,
            inputs[order],
            labels,
            masked,
            num_steps,
            seed,
            teacher,
            axis_name=layout.axis_name,
        )

    states, loss_sums = layout.each_member(
        train_one,
        (states, order, labels, masked, seeds, teacher),
        (resident, jnp.stack(inputs), num_steps),
        axes=(
            (_OF_MEMBER, _OF_MEMBER, _BATCHES, _BATCHES, _OF_MEMBER, _BATCHES),
            (_SHARED, _INPUTS, _SHARED),
        ),
        out=_OF_MEMBER,
    )
    return (
        jax.lax.with_sharding_constraint(states, layout.sharding("member")),
        jax.lax.with_sharding_constraint(loss_sums, layout.sharding()),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def predict_population(
    network: Network,
    layout: Layout,
    method: str,
    variables: dict[str, Any],
    resident: Rows | None,
    inputs: jax.Array,
    num_batches: jax.Array,
) -> jax.Array:
    """Computes scores or embeddings in evaluation mode, for every member.

    Args:
      network, layout, resident: see `train_population`.
      method: `scores` or `embed`.
      variables: the variables of the network, with a leading axis [members].
      inputs: the inputs of all members; see `train_chunk`.
      num_batches: int32[], the number of batches to compute. The others stay 0.

    Returns:
      float32[members, chunk, batch, outputs], with a copy on every device.
    """

    def predict_one(variables, shared):
        return predict_chunk(network, method, variables, *shared)

    outputs = layout.each_member(
        predict_one,
        variables,
        (resident, inputs, num_batches),
        axes=(_OF_MEMBER, (_SHARED, PartitionSpec(None, "data"), _SHARED)),
        out=_BATCHES,
    )
    return jax.lax.with_sharding_constraint(outputs, layout.sharding())


@functools.partial(jax.jit, static_argnums=0)
def split_members(layout: Layout, states: Any) -> list[Any]:
    """Copies the arrays of each member to every device, so that `states` may be donated."""
    num_members = len(jax.tree.leaves(states)[0])
    members = [jax.tree.map(lambda array, i=i: array[i], states) for i in range(num_members)]
    return jax.lax.with_sharding_constraint(members, layout.sharding())


def stack_members(members: Sequence[Any]) -> Any:
    """Stacks the arrays of members, on the host: the reverse of `split_members`."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *members)
