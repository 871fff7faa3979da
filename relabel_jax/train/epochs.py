"""The epochs of members that are at the same step: steps, validation, checkpoints, metrics.

The device does not wait for the host. While the device computes a chunk, the host sends it the next
one. While the device trains an epoch, the host scores and saves the epoch before it.
"""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from relabel_jax.data.pipeline import to_batches
from relabel_jax.errors import InputError, Interrupted
from relabel_jax.models import backbone
from relabel_jax.progress import Progress
from relabel_jax.runs import processes
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.train.memory import new_bytes
from relabel_jax.train.population import Layout, split_members, stack_members, train_population
from relabel_jax.train.predict import begin_predict
from relabel_jax.train.resident import free_bytes, input_chunks, load_resident
from relabel_jax.train.rows import Rows
from relabel_jax.train.saving import Saver
from relabel_jax.train.step import TrainState
from relabel_jax.train.training import Training

_LOG = logging.getLogger(__name__)


def train_epochs(
    training: Training,
    folders: Sequence[TrainingFolder],
    starts: Sequence[TrainState],
    *,
    epochs_done: int,
    steps_done: int,
    population: int,
) -> None:
    """Trains the epochs that are missing.

    Args:
      training: a training whose members are at the same step.
      folders: the members' folders in process 0; empty in the other processes.
      starts: the members' states at `steps_done`, on the host.
      epochs_done: whole epochs that the members have done.
      steps_done: steps that the members have done.
      population: see `Layout.of`.

    Raises:
      InputError, Interrupted: see `loop.train`.
    """
    layout = Layout.of(len(training.members), training.batch_size, training.members_by, population)
    _check_shared_batch(training, layout)
    _check_partners(training, layout)
    if jax.device_count() > 1:
        _LOG.info("%s", layout.describe(len(training.members), training.batch_size))
    states = layout.put(stack_members(starts), "member")
    resident = load_resident(
        {
            "train": (training.read("train"), training.num_clips),
            "validation": (training.read("validation"), training.num_validation),
        },
        training.resident,
        layout,
        # On a CPU the memory is also the host's, so training gets a share.
        None
        if jax.default_backend() == "cpu"
        else functools.partial(step_bytes, training, layout, states),
    )
    if steps_done:
        _LOG.info("continuing after step %d (epoch %d is done)", steps_done, epochs_done)
    training.on_start()
    steps_left = training.num_epochs * training.recipe.steps_per_epoch - steps_done
    with contextlib.ExitStack() as stack:
        should_stop = stack.enter_context(processes.until_terminated())
        saver = stack.enter_context(Saver(training, folders))
        progress = Progress(training.name, steps_left * training.batch_size, "clips")
        stack.enter_context(progress)
        stack.enter_context(jax.transfer_guard("disallow"))
        for epoch in range(epochs_done + 1, training.num_epochs + 1):
            start_s = time.perf_counter()
            progress.describe(f"{training.name} epoch {epoch}/{training.num_epochs}{saver.latest}")
            states, num_steps = _train_epoch(
                training,
                epoch,
                steps_done,
                layout,
                resident["train"],
                states,
                should_stop,
                saver,
                progress,
            )
            num_clips = num_steps * training.batch_size
            # None if the run was interrupted after the last step of the epoch.
            clips_per_s = num_clips / (time.perf_counter() - start_s) if num_clips else None
            snapshot = split_members(layout, states)
            scores = _begin_validation(
                training, layout, resident["validation"], states, snapshot, should_stop, saver
            )
            zeros = np.zeros(len(training.members), np.float32)
            states = dataclasses.replace(states, loss_sum=layout.put(zeros, "member"))
            saver.submit(epoch, snapshot, scores, clips_per_s, start_s)
        saver.wait()
        if should_stop():
            raise Interrupted(
                f"interrupted; epoch {training.num_epochs} is saved, the same command continues "
                "from there"
            )


def step_bytes(
    training: Training, layout: Layout, states: TrainState, rows: dict[str, Rows]
) -> int | None:
    """Returns the bytes that training needs on a device besides its states and resident clips.

    The compiler tells this of the program that will run, which is not compiled again then.

    Args:
      rows: the resident clips of each split, with shapes in place of arrays.

    Returns:
      The bytes; None if the backend does not tell.
    """
    _, _, inputs = next(_train_inputs(training, 1, 0, layout, rows["train"]))
    program = train_population.lower(training.network, training.recipe, layout, states, *inputs)
    try:
        memory = program.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return free_bytes()
    if memory is None:
        return None
    # Two copies of all states: one is saved while the next epoch is trained.
    copies = 2 * sum(array.nbytes for array in jax.tree.leaves(states))
    return copies + new_bytes(memory)


def _begin_validation(
    training: Training,
    layout: Layout,
    resident: Rows | None,
    states: TrainState,
    snapshot: list[TrainState],
    should_stop: Callable[[], bool],
    saver: Saver,
) -> Callable[[], np.ndarray]:
    """Begins to score the validation clips; returns a function that waits for the scores."""

    def stop_if_asked() -> None:
        if should_stop():
            saver.interrupt(snapshot)

    return begin_predict(
        training.network,
        states.variables,
        training.read("validation"),
        training.num_validation,
        layout=layout,
        resident=resident,
        batch_size=training.batch_size,
        batches_per_call=training.steps_per_call,
        after_chunk=stop_if_asked,
    )


def _check_shared_batch(training: Training, layout: Layout) -> None:
    """Refuses to divide a batch if the network would normalize each device's part on its own."""
    has_statistics = bool(training.members[0].variables.get("batch_stats"))
    if layout.axis_name and has_statistics and not backbone.sums_over_devices(training.network):
        raise InputError(
            f"config.model.name: {type(training.network).__name__} has batch_stats but no field "
            f"axis_name, so {layout.mesh.shape['data']} devices cannot share its batch; add the "
            "field (relabel_jax/models/backbone.py), or use one device (JAX_NUM_CPU_DEVICES=1)"
        )


def _check_partners(training: Training, layout: Layout) -> None:
    """Refuses mixup if a device would have a clip without a partner."""
    columns = layout.mesh.shape["data"]
    if training.recipe.mixup and training.batch_size // columns < 2:
        raise InputError(
            f"config.mixup.alpha: a batch of {training.batch_size} on {columns} devices leaves a "
            f"clip without a partner; set config.batch_size to {2 * columns} or more, or use fewer "
            "devices (JAX_NUM_CPU_DEVICES=1)"
        )


def _train_epoch(
    training: Training,
    epoch: int,
    steps_done: int,
    layout: Layout,
    resident: Rows | None,
    states: TrainState,
    should_stop: Callable[[], bool],
    saver: Saver,
    progress: Progress,
) -> tuple[TrainState, int]:
    """Trains the rest of an epoch; returns the new states and the number of steps trained."""
    recipe = training.recipe
    first_step = max(steps_done, (epoch - 1) * recipe.steps_per_epoch)
    running: list[tuple[int, jax.Array]] = []
    for step, num_steps, inputs in _train_inputs(training, epoch, first_step, layout, resident):
        states, loss_sums = train_population(training.network, recipe, layout, states, *inputs)
        # Checks the chunk before this one, so that the device always has a chunk to compute.
        _check_losses(training, epoch, running)
        running = [(step, loss_sums)]
        if should_stop():
            _LOG.info("asked to end: saving once the chunk of %d steps is computed", num_steps)
            _check_losses(training, epoch, running)
            saver.interrupt(split_members(layout, states))
        progress.update(num_steps * training.batch_size)
        training.on_clips(num_steps * training.batch_size)
    _check_losses(training, epoch, running)
    return states, epoch * recipe.steps_per_epoch - first_step


def _train_inputs(
    training: Training, epoch: int, first_step: int, layout: Layout, resident: Rows | None
) -> Iterator[tuple[int, int, tuple]]:
    """Puts the rest of an epoch on the devices, chunk by chunk, each when it is asked for.

    Yields:
      The step at which the chunk begins (0 is the first step of the training), the number of its
      steps, and the arguments of `train_population` from `resident` on.
    """
    recipe, batch_size, chunk = training.recipe, training.batch_size, training.steps_per_call
    start, end = (epoch - 1) * recipe.steps_per_epoch, epoch * recipe.steps_per_epoch
    # Members that share an order share its clips, which are read once for all of them.
    keys = [training.order_key(member) for member in training.members]
    left = slice((first_step - start) * batch_size, (end - start) * batch_size)
    orders = {
        key: training.order(member, epoch)[left]
        for key, member in dict(zip(keys, training.members, strict=True)).items()
    }
    order = layout.put(np.array([list(orders).index(key) for key in keys], np.int32), "member")
    seeds = np.array([member.seed for member in training.members], np.uint32)
    seeds = layout.put(seeds, "member")
    readers = [
        input_chunks(training.read("train"), clips, batch_size, chunk, layout, resident)
        for clips in orders.values()
    ]

    def put(rows: list[np.ndarray]) -> jax.Array:
        batches = [to_batches(of_member, batch_size, chunk) for of_member in rows]
        return layout.put(np.stack(batches), "member", None, "data")

    for step in range(first_step, end, chunk):
        inputs, num_steps = zip(*map(next, readers), strict=True)
        part = slice((step - first_step) * batch_size, (step - first_step + chunk) * batch_size)
        clips = [orders[key][part] for key in keys]
        labels, masked = (
            [
                getattr(member.view, field)["train"][of_member]
                for member, of_member in zip(training.members, clips, strict=True)
            ]
            for field in ("labels", "masked")
        )
        teacher = training.teacher and [training.teacher(of_member) for of_member in clips]
        arguments = (
            resident,
            inputs,
            order,
            put(labels),
            put(masked),
            layout.put(np.int32(num_steps[0])),
            seeds,
            put(teacher) if teacher else None,
        )
        yield step, num_steps[0], arguments


def _check_losses(training: Training, epoch: int, running: list[tuple[int, jax.Array]]) -> None:
    """Waits for chunks; raises InputError if the loss of a step is not finite."""
    for first_step, loss_sums in running:
        values = jax.device_get(loss_sums)
        if not np.isfinite(values).all():
            step = int(np.argmin(np.isfinite(values).all(axis=0)))
            m = int(np.argmin(np.isfinite(values[:, step])))
            raise InputError(
                f"epoch {epoch}: the training loss is {values[m, step]} at step "
                f"{first_step + step + 1} ({training.members[m].name}); the checkpoints of the "
                "epochs before are kept; lower config.learning_rate"
            )
