"""The train step: a pure function of one member, and the chunk of steps that runs as one program.

Many steps run in one jitted call, for two reasons: the device never waits for Python, and on a CPU
the buffers of a step are mapped into memory once a call, not once a step.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from relabel_jax.ops import batch_axis
from relabel_jax.ops.buffers import value_and_grad


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The paper's optimizer: Adam, its rate multiplied by `decay` after each epoch."""

    learning_rate: float
    decay: float
    steps_per_epoch: int

    def schedule(self, step):
        """The learning rate at `step` (0 is the first)."""
        # Epochs are counted here and not by optax: it divides in float32, and XLA multiplies by the
        # reciprocal, which for one number of steps in eight begins many an epoch a step late.
        epochs_done = step // self.steps_per_epoch
        return optax.exponential_decay(self.learning_rate, 1, self.decay)(epochs_done)

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with Keras's epsilon, 1e-7."""
        return optax.adam(self.schedule, eps=1e-7)


@flax.struct.dataclass
class TrainState:
    """All that training changes.

    Attributes:
      step: int32[], steps done.
      params, batch_stats: the network's variables.
      opt_state: Adam's moments and step count.
      loss_sum: float32[], sum of the losses of the current epoch's steps.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    loss_sum: jax.Array


def init_state(variables: dict[str, Any], recipe: Recipe) -> TrainState:
    """The state before the first step, from a network's `params` and `batch_stats`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=recipe.optimizer().init(variables["params"]),
        loss_sum=jnp.zeros((), jnp.float32),
    )


def masked_mean_squared_error(
    scores: jax.Array, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Mean of (score - label)^2 over the outputs of the batch that are not masked.

    A masked output has exactly no part in the value and in the gradient. A batch in which
    everything is masked has the loss 0.

    Args:
      scores: float32[batch, classes].
      labels: bool[batch, classes].
      masked: bool[batch, classes], True is left out.
      axis_name: of the devices that share the batch (`batch_axis.py`).

    Returns:
      float32[]; of several devices the part of each, and they add up.
    """
    errors = jnp.where(masked, 0.0, scores - labels)
    num_unmasked = batch_axis.total(jnp.sum(~masked), axis_name)
    return jnp.sum(errors * errors) / jnp.maximum(num_unmasked, 1)


def train_step(
    network: nn.Module,
    recipe: Recipe,
    state: TrainState,
    inputs: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    buffers: Any = None,
) -> tuple[TrainState, Any]:
    """One step of one member on one batch.

    Args:
      network: maps (inputs, train) to scores; of several devices, each has a part of the batch,
        and its `axis_name` is theirs (`batch_axis.py`).
      recipe: the optimizer.
      state: the member.
      inputs: [batch, ...], what the network takes.
      labels, masked: bool[batch, classes].
      buffers: arrays to write to, from `network.buffers` or the step before. Without, new ones are
        made and filled, which takes longer.

    Returns:
      The member, and the buffers for the next step.
    """

    def loss_fn(params, buffers):
        outputs, updates = network.apply(
            {"params": params, "batch_stats": state.batch_stats, "buffers": buffers},
            inputs,
            train=True,
            mutable=["batch_stats"],
        )
        loss = masked_mean_squared_error(outputs.scores, labels, masked, network.axis_name)
        return loss, updates["batch_stats"]

    loss, batch_stats, gradients, buffers = value_and_grad(loss_fn)(state.params, buffers or {})
    loss, gradients = batch_axis.total((loss, gradients), network.axis_name)
    updates, opt_state = recipe.optimizer().update(gradients, state.opt_state)
    state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        loss_sum=state.loss_sum + loss,
    )
    return state, buffers


def gather(resident: tuple[jax.Array, ...], inputs: jax.Array) -> jax.Array:
    """The inputs of clips, int32[...] -> [..., of a clip], or `inputs` where none are resident.

    Each block has fewer than 2^31 elements: places in it are safe in 32 bits.
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


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_chunk(
    network: nn.Module,
    recipe: Recipe,
    state: TrainState,
    resident: tuple[jax.Array, ...],
    inputs: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    num_steps: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """The first `num_steps` of a chunk of batches, one after another.

    The number of steps is data, so that an epoch's last, shorter chunk needs no program of its own.

    Args:
      resident: the blocks of inputs on the device, [clips, ...] each; () where they stream.
      inputs: [chunk, batch, ...], or, where they are resident, int32[chunk, batch] clips.
      labels, masked: bool[chunk, batch, classes].
      num_steps: int32[], at most `chunk`.

    Returns:
      The state and float32[chunk], its `loss_sum` after each step: the first that is not finite
      tells the step.
    """

    def body(i, carry):
        state, loss_sums, buffers = carry
        batch = gather(resident, inputs[i])
        state, buffers = train_step(network, recipe, state, batch, labels[i], masked[i], buffers)
        return state, loss_sums.at[i].set(state.loss_sum), buffers

    loss_sums = jnp.zeros(inputs.shape[0], jnp.float32)
    buffers = network.buffers(jax.eval_shape(gather, resident, inputs[0]))
    return jax.lax.fori_loop(0, num_steps, body, (state, loss_sums, buffers))[:2]


@functools.partial(jax.jit, static_argnums=(0, 1))
def predict_chunk(
    network: nn.Module,
    method: str,
    variables: dict[str, Any],
    resident: tuple[jax.Array, ...],
    inputs: jax.Array,
    num_batches: jax.Array,
) -> jax.Array:
    """What the network's `method` (`__call__` for scores, `embed`) gives in evaluation mode.

    Args:
      variables: `params` and `batch_stats`.
      resident, inputs: as of `train_chunk`.
      num_batches: int32[]; the batches after these are not computed and stay 0.

    Returns:
      float32[chunk, batch, outputs].
    """

    def predict(i):
        batch = gather(resident, inputs[i])
        return network.apply(variables, batch, train=False, method=method)

    shape = jax.eval_shape(predict, 0)
    outputs = jnp.zeros((inputs.shape[0], *shape.shape), shape.dtype)
    return jax.lax.fori_loop(
        0, num_batches, lambda i, outputs: outputs.at[i].set(predict(i)), outputs
    )
