"""A population: members that differ in labels, seed and weights, trained as one program.

The step and the chunk of steps (`step.py`) know one member. This module wraps them for several
members and for the devices of all hosts. A single run is a population of one.
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

from relabel_jax.errors import InputError
from relabel_jax.models import backbone
from relabel_jax.models.backbone import Network
from relabel_jax.ops.batch_axis import on_each_device
from relabel_jax.train.step import Recipe, TrainState, predict_chunk, train_chunk

MEMBERS_BY = ("map", "vmap")
_SHARED = PartitionSpec()
_OF_MEMBER = PartitionSpec("member")
_BATCHES = PartitionSpec("member", None, "data")  # [members, chunk, batch, ...]
_INPUTS = PartitionSpec(None, None, "data")  # [orders, chunk, batch, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How members and batches lie on the devices.

    Members are divided over as many devices as divide their number; the batch over the others.

    Attributes:
      mesh: axes `member` and `data`, over the devices of all processes.
      members_by: `map` computes the members of a device one after another, `vmap` at once.
    """

    mesh: Mesh
    members_by: str

    @classmethod
    def of(
        cls, num_members: int, batch_size: int, members_by: str, population: int = 0
    ) -> "Layout":
        """The layout on all devices.

        Args:
          members_by: one of `MEMBERS_BY`, or `auto`: by backend.
          population: the number of members including those that are ahead or finished. The batch
            is divided as for all of them, so that sums are rounded in the same way. This can leave
            devices idle. No process may be idle, so with several processes it is ignored.

        Raises:
          InputError: the devices do not divide the batch.
        """
        # The devices of a process are neighbours, so that its part of a batch is one piece.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        along_batch = len(devices) // _along_members(num_members, len(devices))
        if jax.process_count() == 1:
            of_all = _along_members(max(population, num_members), len(devices))
            along_batch = len(devices) // of_all
            devices = devices[: along_batch * math.gcd(of_all, num_members)]
        if batch_size % along_batch:
            raise InputError(
                f"config.batch_size {batch_size} is not divisible by the {along_batch} devices "
                f"that share a batch; use a multiple of {along_batch}"
            )
        if members_by == "auto":
            # On a CPU a vmapped convolution becomes a grouped one, at half to 0.8 of the speed.
            members_by = "map" if jax.default_backend() == "cpu" else "vmap"
        grid = np.array(devices).reshape(-1, along_batch)
        return cls(Mesh(grid, ("member", "data")), members_by if num_members > 1 else "map")

    def sharding(self, *axes: Any) -> NamedSharding:
        """By a mesh axis (or several, or None) for each leading axis of an array."""
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def put(self, tree: Any, *axes: Any) -> Any:
        """Puts arrays on the devices; every process has them whole."""
        sharding = self.sharding(*axes)

        def put_one(array):
            return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        with jax.transfer_guard_host_to_device("allow"):
            return jax.tree.map(put_one, jax.tree.map(np.asarray, tree))

    def put_part(self, array: np.ndarray, *axes: Any) -> jax.Array:
        """Puts an array on the devices; this process has its `part` of it."""
        with jax.transfer_guard_host_to_device("allow"):
            return jax.make_array_from_process_local_data(self.sharding(*axes), array)

    def put_chunk(self, inputs: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> tuple:
        """The arguments of `train_population` after the states, for inputs that all members see.

        Args:
          inputs: [chunk, batch, ...]; there is a step for each batch.
          labels, masked: bool[members, chunk, batch, classes].
        """
        num_members, num_steps = labels.shape[:2]
        return (
            (),
            (self.put(inputs, None, "data"),),
            self.put(np.zeros(num_members, np.int32), "member"),
            *(self.put(array, "member", None, "data") for array in (labels, masked)),
            self.put(np.int32(num_steps)),
            self.put(np.zeros(num_members, np.uint32), "member"),
        )

    def part(self, length: int, *axes: Any) -> slice:
        """This process's part of an axis of length `length` that is divided over mesh `axes`."""
        indices = self.sharding(axes).addressable_devices_indices_map((length,)).values()
        ranges = [index[0].indices(length) for index in indices if index is not None]
        return slice(min(first for first, *_ in ranges), max(last for _, last, _ in ranges))

    def each_member(
        self, function: Callable, of_members: Any, shared: Any, axes: tuple[Any, Any], out: Any
    ) -> Any:
        """Calls `function(of_member, shared)` for every member, inside a jitted program.

        Each device runs it on its own members and clips (`ops/batch_axis.py`).

        Args:
          of_members: a tree of arrays [members, ...].
          shared: a tree of arrays that all members see.
          axes: `PartitionSpec`s of both, or trees of them.
          out: `PartitionSpec`s of the results, which have the members as their first axis.
        """

        def on_one_device(of_members, shared):
            if self.members_by == "map":
                return jax.lax.map(lambda of_member: function(of_member, shared), of_members)
            return jax.vmap(function, in_axes=(0, None))(of_members, shared)

        return on_each_device(on_one_device, self.mesh, axes, out)(of_members, shared)

    @property
    def axis_name(self) -> str | None:
        """The name of the devices that share a batch; None where none do."""
        return "data" if self.mesh.shape["data"] > 1 else None

    def divided(self, network: Network) -> Network:
        """The network for devices that share a batch; the same where none do."""
        return network if self.axis_name is None else backbone.divided(network, self.axis_name)


def _along_members(num_members: int, num_devices: int) -> int:
    """The largest number of rows of devices that divides the members."""
    return max(
        number
        for number in range(1, num_members + 1)
        if num_members % number == 0 and _divides(number, num_devices)
    )


def _divides(along_members: int, num_devices: int) -> bool:
    """Whether this many rows of devices are equal, and no process has parts of two rows."""
    along_batch, rest = divmod(num_devices, along_members)
    local = jax.local_device_count()
    return rest == 0 and (along_batch % local == 0 or local % along_batch == 0)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def train_population(
    network: Network,
    recipe: Recipe,
    layout: Layout,
    states: TrainState,
    resident: tuple[jax.Array, ...],
    inputs: tuple[jax.Array, ...],
    order: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    num_steps: jax.Array,
    seeds: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """The first `num_steps` of a chunk of batches, for every member.

    Args:
      states: of all members, with a leading axis [members].
      resident: the blocks of inputs on the device, [clips, ...] each; () where they stream.
      inputs: for each order of the clips [chunk, batch, ...] inputs, or, where they are resident,
        int32[chunk, batch] clips.
      order: int32[members], which of `inputs` a member sees.
      labels, masked: bool[members, chunk, batch, classes].
      num_steps: int32[], at most `chunk`.
      seeds: uint32[members], of the network's random streams.

    Returns:
      The states and float32[members, chunk], the sum of the epoch's losses after each step.
    """

    network = layout.divided(network)

    def train_one(of_member, shared):
        state, order, labels, masked, seed = of_member
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
            axis_name=layout.axis_name,
        )

    states, loss_sums = layout.each_member(
        train_one,
        (states, order, labels, masked, seeds),
        (resident, jnp.stack(inputs), num_steps),
        axes=(
            (_OF_MEMBER, _OF_MEMBER, _BATCHES, _BATCHES, _OF_MEMBER),
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
    resident: tuple[jax.Array, ...],
    inputs: jax.Array,
    num_batches: jax.Array,
) -> jax.Array:
    """Scores or embeddings in evaluation mode, for every member.

    Args:
      method: `scores` or `embed`.
      variables: the network's, with a leading axis [members].
      resident, inputs: as of `train_population`, with one order for all.
      num_batches: int32[]; the batches after these are not computed and stay 0.

    Returns:
      float32[members, chunk, batch, outputs], a copy on every device.
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
    """Each member's own arrays, copied, on every device; `states` may then be donated."""
    num_members = len(jax.tree.leaves(states)[0])
    members = [jax.tree.map(lambda array, i=i: array[i], states) for i in range(num_members)]
    return jax.lax.with_sharding_constraint(members, layout.sharding())


def stack_members(members: Sequence[Any]) -> Any:
    """The reverse of `split_members`, on the host."""
    return jax.tree.map(lambda *arrays: np.stack(arrays), *members)
