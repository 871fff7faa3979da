"""Compiled variants of the training step of a network, above all of the paper's."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.variables import random_variables, waveform_batch
from relabel_jax.models.waveform_cnn import FEATURES, WaveformCNN
from relabel_jax.ops.batch_axis import on_each_device
from relabel_jax.ops.formulation import Formulation
from relabel_jax.train.memory import new_bytes
from relabel_jax.train.population import Layout, stack_members, train_population
from relabel_jax.train.step import Recipe, TrainState, init_state, train_step

MODES = ("loop", "scan")
RECIPE = Recipe(learning_rate=0.001, decay=0.987, steps_per_epoch=4000)
"""The paper's recipe."""

Batches = tuple[np.ndarray, np.ndarray, np.ndarray]


class Variant(NamedTuple):
    """One way of computing a training step.

    Attributes:
      formulation: how the convolutions are computed, one of `FORMULATIONS`.
      mode: `loop` compiles one step and calls it from Python for each step; `scan` compiles all
        steps of a round as one program.
      fold_norm: whether the normalization is folded into the weights of the next layer.
      precision: one of `PRECISIONS`.
    """

    formulation: str
    mode: str
    fold_norm: bool
    precision: str

    def network(self, num_classes: int, features: Sequence[int] = FEATURES) -> WaveformCNN:
        """Returns the paper's network, computed in this way.

        Args:
          num_classes: number of outputs.
          features: channels of the nine convolutions.
        """
        return WaveformCNN(
            num_classes,
            features=tuple(features),
            fold_norm=self.fold_norm,
            precision=self.precision,
            formulation=Formulation.resolve(self.formulation),
        )


class Program(NamedTuple):
    """A compiled variant.

    Attributes:
      start: returns the state before the first step. Each call returns a new copy, because `run`
        reuses the buffers of its argument.
      run: does all steps of a round on a state and returns the new state.
      compile_s: seconds of lowering and compiling.
      memory_bytes: arguments, results and temporary buffers of one call on one device, by XLA's
        plan; None if the backend does not report it.
      accessed_bytes: bytes that one step reads and writes on one device, by XLA's cost analysis;
        None if the program has inner loops, because the analysis counts only one turn of a loop.
    """

    start: Callable[[], TrainState]
    run: Callable[[TrainState], TrainState]
    compile_s: float
    memory_bytes: int | None
    accessed_bytes: float | None


def batches(
    num_batches: int,
    batch_size: int,
    num_classes: int,
    waveform_format: WaveformFormat = PAPER_FORMAT,
) -> Batches:
    """Makes noise at several levels, with labels and masks about as dense as AudioSet's.

    Returns:
      `(waveforms, labels, masked)`: int16[num_batches, batch_size, samples], and twice
      bool[num_batches, batch_size, num_classes].
    """
    rng = np.random.default_rng(0)
    levels = rng.uniform(100, 5000, (num_batches, batch_size, 1))
    shape = (num_batches, batch_size, waveform_format.num_samples)
    noise = levels * rng.standard_normal(shape, np.float32)
    shape = (num_batches, batch_size, num_classes)
    labels, masked = rng.random(shape) < 0.01, rng.random(shape) < 0.1
    return noise.clip(-32768, 32767).astype(np.int16), labels & ~masked, masked


def initial_state(network: Backbone, recipe: Recipe = RECIPE) -> TrainState:
    """Returns random weights and the first state of the optimizer, on the host."""
    variables = random_variables(network, waveform_batch(network), seed=0)
    return jax.device_get(init_state(variables, recipe))


def compile_variant(
    network: Backbone, mode: str, data: Batches, recipe: Recipe = RECIPE
) -> Program:
    """Compiles one variant for the batches of a round.

    Args:
      network: the network.
      mode: one of `MODES`.
      data: the result of `batches`.
      recipe: the loss and the optimizer.

    Raises:
      InputError: the batch cannot be divided among the devices.
    """
    layout = Layout.of(1, data[0].shape[1], "map")
    plan = (_scan if mode == "scan" else _loop)(network, layout, data, recipe)
    state = plan.start()
    begin = time.perf_counter()
    compiled = plan.lower(state).compile()
    compile_s = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    memory_bytes = None if memory is None else memory.argument_size_in_bytes + new_bytes(memory)
    accessed = None
    if mode == "loop" and isinstance(network, WaveformCNN) and network.formulation.uses_lax:
        accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
    return Program(
        plan.start, functools.partial(plan.run, compiled), compile_s, memory_bytes, accessed
    )


class _RoundProgram(NamedTuple):
    """The program of a round: `lower(state)` to compile it, `run(compiled, state)` to run it."""

    start: Callable[[], TrainState]
    lower: Callable[[TrainState], Any]
    run: Callable[[Any, TrainState], TrainState]


def _scan(network: Backbone, layout: Layout, data: Batches, recipe: Recipe) -> _RoundProgram:
    """Makes one program of all steps of a round."""
    waveforms, labels, masked = data
    arguments = layout.put_chunk(waveforms, labels[None], masked[None])
    state = stack_members([initial_state(network, recipe)])

    def run(compiled: Any, state: TrainState) -> TrainState:
        return compiled(state, *arguments)[0]

    return _RoundProgram(
        lambda: layout.put(state, "member"),
        lambda state: train_population.lower(network, recipe, layout, state, *arguments),
        run,
    )


def _loop(network: Backbone, layout: Layout, data: Batches, recipe: Recipe) -> _RoundProgram:
    """Makes a program of one step, which is called for each batch of a round."""
    singles = [layout.put(batch, "data") for batch in zip(*data, strict=True)]
    shared, divided = PartitionSpec(), PartitionSpec("data")
    state = initial_state(network, recipe)

    def one_step(state: TrainState, *batch: jax.Array) -> TrainState:
        part = layout.divided(network)
        return train_step(part, recipe, state, *batch, axis_name=layout.axis_name)[0]

    def run(compiled: Any, state: TrainState) -> TrainState:
        for single in singles:
            state = compiled(state, *single)
        return state

    step = on_each_device(one_step, layout.mesh, (shared, divided, divided, divided), shared)
    return _RoundProgram(
        lambda: layout.put(state),
        lambda state: jax.jit(step, donate_argnums=0).lower(state, *singles[0]),
        run,
    )
