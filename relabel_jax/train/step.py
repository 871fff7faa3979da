"""The training step of one member, and chunks of steps that run as one program.

A step is a pure function. Many steps run in one jitted call. So the device never waits for Python,
and on a CPU the memory of a step is mapped once per call instead of once per step.
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
from relabel_jax.train import averages
from relabel_jax.train.losses import LOSSES, distillation
from relabel_jax.train.mixup import Batch, Mixup
from relabel_jax.train.optimizers import optimizer
from relabel_jax.train.rows import Rows, gather
from relabel_jax.train.schedules import Schedule

_MIXUP = "mixup"  # the name of its random stream
_NO_MIXUP = Mixup()
_PLAIN = Schedule()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The loss, the optimizer and the schedule of the learning rate.

    Attributes:
      learning_rate: the learning rate of the first epoch, after a warm-up.
      decay: the factor by which the learning rate is multiplied after each epoch.
      steps_per_epoch: the number of steps of an epoch.
      loss: a key of `LOSSES`.
      optimizer: a key of `OPTIMIZERS`.
      shape: how the learning rate rises and falls.
      weight_decay, beta1: see `optimizers.optimizer`.
      ema_decay: decay of the averages of the variables after each step; 0: no averages.
      mixup: how the clips of a batch are mixed.
      teacher_weight: the weight of the loss to a teacher, if there is one. The loss to the labels
        has the rest.
    """

    learning_rate: float
    decay: float
    steps_per_epoch: int
    loss: str = "mse"
    optimizer: str = "adam"
    shape: Schedule = _PLAIN
    weight_decay: float | None = None
    beta1: float | None = None
    ema_decay: float = 0.0
    mixup: Mixup = _NO_MIXUP
    teacher_weight: float = 0.0

    def schedule(self, step):
        """Returns the learning rate at `step` (0 is the first)."""
        return self.shape.rate(step, self.learning_rate, self.decay, self.steps_per_epoch)

    def transformation(self) -> optax.GradientTransformation:
        """Returns the optimizer with this schedule."""
        return optimizer(self.optimizer, self.schedule, self.weight_decay, self.beta1)


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: int32[], the number of steps done.
      params: the parameters of the network; their averages if the recipe has an `ema_decay`.
      batch_stats: the running statistics of the network, or their averages; {} if it has none.
      opt_state: the optimizer's state; `averages.Unaveraged` if the recipe has an `ema_decay`.
      loss_sum: float32[], the sum of the losses of the steps in the current epoch.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    loss_sum: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the network."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(variables: dict[str, Any], recipe: Recipe) -> TrainState:
    """Makes the state before the first step from the variables of a network."""
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    opt_state = recipe.transformation().init(params)
    if recipe.ema_decay:
        opt_state = averages.Unaveraged(params, batch_stats, opt_state)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
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
    teacher: jax.Array | None = None,
    seed: jax.Array | int = 0,
    axis_name: str | None = None,
    buffers: Any = None,
) -> tuple[TrainState, Any]:
    """Does one step of one member on one batch.

    Args:
      network: maps (inputs, train) to `Outputs`.
      recipe: the loss and the optimizer.
      state: the state of the member.
      inputs: [batch, ...], the inputs of the network.
      labels, masked: bool[batch, classes].
      teacher: float32[batch, classes], see `losses.distillation`; None without a teacher.
      seed: uint32[], the seed of the random streams of network and mixup. Seed, step and device
        determine the random numbers, so a run that continues draws the same ones.
      axis_name: the axis of the devices that divide the batch (`ops/batch_axis.py`); None for
        one device.
      buffers: arrays to write to, from `backbone.buffers` or from the step before. Without them the
        step allocates and fills new ones, which takes longer.

    Returns:
      The state after the step, and the buffers for the next step.
    """
    rngs = _random_streams(network, recipe, state.step, seed, axis_name)
    batch = Batch(inputs, labels, masked, teacher)
    if recipe.mixup:
        batch = recipe.mixup(rngs.pop(_MIXUP), batch)
    now = state.opt_state if recipe.ema_decay else state

    def loss_fn(params, buffers):
        outputs, updates = network.apply(
            {"params": params, "batch_stats": now.batch_stats, "buffers": buffers},
            batch.inputs,
            train=True,
            rngs=rngs,
            mutable=["batch_stats"],
        )
        loss = LOSSES[recipe.loss](outputs, batch.labels, batch.masked, axis_name)
        if batch.teacher is not None:
            of_teacher = distillation(outputs, batch.teacher, axis_name)
            loss = (1 - recipe.teacher_weight) * loss + recipe.teacher_weight * of_teacher
        return loss, updates.get("batch_stats", {})

    loss, batch_stats, gradients, buffers = value_and_grad(loss_fn)(now.params, buffers or {})
    loss, gradients = batch_axis.total((loss, gradients), axis_name)
    updates, opt_state = recipe.transformation().update(gradients, now.opt_state, now.params)
    params = optax.apply_updates(now.params, updates)
    if recipe.ema_decay:
        opt_state = averages.Unaveraged(params, batch_stats, opt_state)
        params, batch_stats = averages.moved(
            (state.params, state.batch_stats),
            (params, batch_stats),
            recipe.ema_decay,
            state.step + 1,
        )
    state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        loss_sum=state.loss_sum + loss,
    )
    return state, buffers


def _random_streams(
    network: Network,
    recipe: Recipe,
    step: jax.Array,
    seed: jax.Array | int,
    axis_name: str | None,
) -> dict[str, jax.Array]:
    """Returns a key for each random stream of network and mixup; {} if there is none."""
    names = (*backbone.random_streams(network), *[_MIXUP] * bool(recipe.mixup))
    if not names:
        return {}
    key = jax.random.fold_in(jax.random.key(seed), step)
    if axis_name is not None:  # each device draws other numbers, for its own clips
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    return {name: jax.random.fold_in(key, number) for number, name in enumerate(names)}


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="axis_name", donate_argnums=2)
def train_chunk(
    network: Network,
    recipe: Recipe,
    state: TrainState,
    resident: Rows | None,
    inputs: jax.Array,
    labels: jax.Array,
    masked: jax.Array,
    num_steps: jax.Array,
    seed: jax.Array | int = 0,
    teacher: jax.Array | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[TrainState, jax.Array]:
    """Trains one member on the first `num_steps` batches of a chunk, one after another.

    The number of steps is an argument of the program. So the last chunk of an epoch, which may be
    shorter, needs no other program.

    Args:
      network, recipe, state, seed, axis_name: see `train_step`.
      resident: the clips on the device; None if inputs are streamed.
      inputs: [chunk, batch, ...], or, if they are resident, the numbers of the clips,
        int32[chunk, batch].
      labels, masked: bool[chunk, batch, classes].
      num_steps: int32[], at most `chunk`.
      teacher: float32[chunk, batch, classes], or None; see `train_step`.

    Returns:
      The state, and float32[chunk], `loss_sum` after each step. The first value that is not finite
      shows the step that failed.
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
            teacher=None if teacher is None else teacher[i],
            seed=seed,
            axis_name=axis_name,
            buffers=buffers,
        )
        return state, loss_sums.at[i].set(state.loss_sum), buffers

    loss_sums = jnp.zeros(inputs.shape[0], jnp.float32)
    batch = jax.eval_shape(gather, resident, inputs[0])
    if recipe.mixup:
        batch = jax.ShapeDtypeStruct(batch.shape, jnp.float32)
    buffers = backbone.buffers(network, batch)
    return jax.lax.fori_loop(0, num_steps, body, (state, loss_sums, buffers))[:2]


@functools.partial(jax.jit, static_argnums=(0, 1))
def predict_chunk(
    network: Network,
    method: str,
    variables: dict[str, Any],
    resident: Rows | None,
    inputs: jax.Array,
    num_batches: jax.Array,
) -> jax.Array:
    """Computes scores or embeddings of batches in evaluation mode.

    Args:
      network: a backbone, or a classifier on embeddings.
      method: `scores` or `embed`.
      variables: the variables of the network.
      resident, inputs: see `train_chunk`.
      num_batches: int32[], the number of batches to compute. The others stay 0.

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
