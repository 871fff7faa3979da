"""The train step: a pure function of one member, and the chunk of steps that runs as one program.

Many steps run in one jitted call. So the device never waits for Python, and on a CPU the memory of
a step is mapped once a call instead of once a step.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from relabel_jax.models import backbone
from relabel_jax.models.backbone import Network
from relabel_jax.ops import batch_axis
from relabel_jax.ops.buffers import value_and_grad
from relabel_jax.train.losses import LOSSES
from relabel_jax.train.optimizers import OPTIMIZERS


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The loss, the optimizer and its learning rate, which is multiplied by `decay` each epoch.

    Attributes:
      learning_rate: in the first epoch.
      decay: the factor after each epoch.
      steps_per_epoch: steps of an epoch.
      loss: a key of `LOSSES`.
      optimizer: a key of `OPTIMIZERS`.
    """

    learning_rate: float
    decay: float
    steps_per_epoch: int
    loss: str = "mse"
    optimizer: str = "adam"

    def schedule(self, step):
        """The learning rate at `step` (0 is the first)."""
        # Epochs are counted here and not by Optax. It divides in float32, and XLA multiplies by the
        # reciprocal: for one number of steps in eight, many epochs would begin a step late.
        epochs_done = step // self.steps_per_epoch
        return optax.exponential_decay(self.learning_rate, 1, self.decay)(epochs_done)

    def transformation(self) -> optax.GradientTransformation:
        """The optimizer with this schedule."""
        return OPTIMIZERS[self.optimizer](self.schedule)


@flax.struct.dataclass
class TrainState:
    """All that training changes.

    Attributes:
      step: int32[], steps done.
      params: the network's parameters.
      batch_stats: its running statistics; {} for a network that has none.
      opt_state: the optimizer's state.
      loss_sum: float32[], sum of the losses of the current epoch's steps.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    loss_sum: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The network's variables."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: dict[str, Any], recipe: Recipe) -> TrainState:
    """The state before the first step, from a network's variables."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=recipe.transformation().init(variables["params"]),
        loss_sum=jnp.zeros((), jnp.float32),
    )


def train_step(
    network: Network,
    recipe: Recipe,
    state: TrainState,
    inputs: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    *,
    seed: jax.Array | int = 0,
    axis_name: str | None = None,
    buffers: Any = None,
) -> tuple[TrainState, Any]:
    """One step of one member on one batch.

    Args:
      network: maps (inputs, train) to `Outputs`.
      recipe: loss and optimizer.
      state: the member.
      inputs: [batch, ...], what the network takes.
      labels, masked: bool[batch, classes].
      seed: uint32[], of the network's random streams. What they draw follows from the seed, the
        step and the device, so a resumed run draws the same.
      axis_name: names the devices that share the batch, each of which has a part of it
        (`ops/batch_axis.py`); None for one device.
      buffers: arrays to write to, from `backbone.buffers` or the step before. Without them new ones
        are made and filled, which takes longer.

    Returns:
      The member after the step, and the buffers for the next step.
    """
    rngs = _random_streams(network, state.step, seed, axis_name)

    def loss_fn(params, buffers):
        outputs, updates = network.apply(
            {"params": params, "batch_stats": state.batch_stats, "buffers": buffers},
            inputs,
            train=True,
            rngs=rngs,
            mutable=["batch_stats"],
        )
        loss = LOSSES[recipe.loss](outputs, labels, masked, axis_name)
        return loss, updates.get("batch_stats", {})

    loss, batch_stats, gradients, buffers = value_and_grad(loss_fn)(state.params, buffers or {})
    loss, gradients = batch_axis.total((loss, gradients), axis_name)
    updates, opt_state = recipe.transformation().update(gradients, state.opt_state, state.params)
    state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        loss_sum=state.loss_sum + loss,
    )
    return state, buffers


def _random_streams(
    network: Network, step: jax.Array, seed: jax.Array | int, axis_name: str | None
) -> dict[str, jax.Array]:
    """A key for each random stream of the network; {} for a network that has none."""
    names = backbone.random_streams(network)
    if not names:
        return {}
    key = jax.random.fold_in(jax.random.key(seed), step)
    if axis_name is not None:  # each device draws for its own clips
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    return {name: jax.random.fold_in(key, number) for number, name in enumerate(names)}


def gather(resident: tuple[jax.Array, ...], inputs: jax.Array) -> jax.Array:
    """The inputs of clips, int32[...] -> [..., *clip shape]; `inputs` if none are resident.

    Each block has fewer than 2^31 elements, so an index into it fits into 32 bits.
    """
    if not resident:
        return inputs
    rows = jnp.take(resident[0], inputs, axis=0, mode="clip")
    start = len(resident[0])
    for block in resident[1:]:
        is_here = (inputs >= start).reshape(inputs.shape + (1,) * (block.ndim - 1))
        rows = jnp.where(is_here, jnp.take(block, inputs - start, axis=0, mode="clip"), rows)
        start += len(block)
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="axis_name", donate_argnums=2)
def train_chunk(
    network: Network,
    recipe: Recipe,
    state: TrainState,
    resident: tuple[jax.Array, ...],
    inputs: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    num_steps: jax.Array,
    seed: jax.Array | int = 0,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, jax.Array]:
    """The first `num_steps` of a chunk of batches, one after another.

    The number of steps is an argument, so the shorter last chunk of an epoch needs no program of
    its own.

    Args:
      resident: the blocks of inputs on the device, [clips, ...] each; () if they stream.
      inputs: [chunk, batch, ...], or int32[chunk, batch] clips if they are resident.
      labels, masked: bool[chunk, batch, classes].
      num_steps: int32[], at most `chunk`.
      seed, axis_name: as of `train_step`.

    Returns:
      The state and float32[chunk], its `loss_sum` after each step: the first that is not finite
      tells the step.
    """

    def body(i, carry):
        state, loss_sums, buffers = carry
        batch = gather(resident, inputs[i])
        state, buffers = train_step(
            network,
            recipe,
            state,
            batch,
            labels[i],
            masked[i],
            seed=seed,
            axis_name=axis_name,
            buffers=buffers,
        )
        return state, loss_sums.at[i].set(state.loss_sum), buffers

    loss_sums = jnp.zeros(inputs.shape[0], jnp.float32)
    buffers = backbone.buffers(network, jax.eval_shape(gather, resident, inputs[0]))
    return jax.lax.fori_loop(0, num_steps, body, (state, loss_sums, buffers))[:2]


@functools.partial(jax.jit, static_argnums=(0, 1))
def predict_chunk(
    network: Network,
    method: str,
    variables: dict[str, Any],
    resident: tuple[jax.Array, ...],
    inputs: jax.Array,
    num_batches: jax.Array,
) -> jax.Array:
    """Scores or embeddings of batches, in evaluation mode.

    Args:
      method: `scores` or `embed`.
      variables: the network's.
      resident, inputs: as of `train_chunk`.
      num_batches: int32[]; the batches after these are not computed and stay 0.

    Returns:
      float32[chunk, batch, outputs].
    """

    def predict(i):
        batch = gather(resident, inputs[i])
        if method == "embed":
            return network.apply(variables, batch, train=False, method="embed")
        return network.apply(variables, batch, train=False).scores

    shape = jax.eval_shape(predict, 0)
    outputs = jnp.zeros((inputs.shape[0], *shape.shape), shape.dtype)
    return jax.lax.fori_loop(
        0, num_batches, lambda i, outputs: outputs.at[i].set(predict(i)), outputs
    )
