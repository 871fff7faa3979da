"""The loop around the train step: epochs, validation, checkpoints, `metrics.jsonl`.

A run may be killed at any moment. Started again it goes on after the last epoch whose checkpoint
is complete, and ends with the same numbers: the order of the clips follows from seed and epoch, all
else that training changes is in the checkpoint. A run that is asked to end (SIGTERM) saves at the
next chunk and goes on from there.

The device does not wait for the host: while it computes a chunk the next is on its way to it, and
while it trains an epoch the host scores and saves the one before.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from relabel_jax.data.pipeline import ReadInputs, epoch_order, to_batches
from relabel_jax.errors import InputError, Interrupted
from relabel_jax.labels.views import View
from relabel_jax.metrics import evaluate
from relabel_jax.runs import processes
from relabel_jax.runs.training_folder import RunFolder
from relabel_jax.train.population import Layout, split_members, stack_members, train_population
from relabel_jax.train.predict import begin_predict
from relabel_jax.train.resident import Blocks, input_chunks, load_resident
from relabel_jax.train.step import Recipe, TrainState, init_state

_LOG = logging.getLogger(__name__)
Inputs = Callable[[str, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """What a run has of its own in a population.

    Attributes:
      name: for messages.
      workdir: its run folder.
      variables: the network's `params` and `batch_stats` before the first step.
      view: its labels and masks, on the same clips and columns as the other members'.
      seed: of the clips' order.
    """

    name: str
    workdir: pathlib.Path
    variables: dict[str, Any]
    view: View
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """Everything that determines the runs of a population.

    Attributes:
      members: at least one.
      network: maps (inputs, train) to scores.
      inputs: (split, int64[n] clips of the split) -> [n, ...].
      batch_size: clips a step. An epoch is `train clips // batch_size` steps; the clips left over
        differ from epoch to epoch.
      num_epochs: epochs in all.
      learning_rate, learning_rate_decay: of Adam; the decay is applied after each epoch.
      steps_per_call: steps in one program on the device.
      resident: one of `resident.MODES`.
      wrapper: one of `population.WRAPPERS`, or `auto`.
      on_start: called before the first step, when nothing is left that could refuse the training.
      on_epoch: called after each epoch that is scored and saved.
    """

    members: Sequence[Member]
    network: nn.Module
    inputs: Inputs
    batch_size: int
    num_epochs: int
    learning_rate: float
    learning_rate_decay: float
    steps_per_call: int
    resident: str
    wrapper: str
    on_start: Callable[[], None] = lambda: None
    on_epoch: Callable[[], None] = lambda: None

    @property
    def num_clips(self) -> int:
        """Training clips."""
        return len(self.members[0].view.rows["train"])

    @property
    def recipe(self) -> Recipe:
        """The optimizer's."""
        return Recipe(
            self.learning_rate, self.learning_rate_decay, self.num_clips // self.batch_size
        )

    def read(self, split: str) -> ReadInputs:
        """How the clips of a split are read."""
        return lambda clips: self.inputs(split, clips)


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The best epoch by validation mAP (of equals the first; 1 is the first) and its variables."""

    best_epoch: int
    variables: dict[str, Any]


def train(training: Training) -> list[Trained]:
    """Trains, or goes on training, and returns the best epoch's network of each member.

    Raises:
      InputError: there are fewer training clips than a batch, nothing to validate on, the devices
        do not divide the batch, the inputs do not fit where they must stay, or a loss is not
        finite.
      Interrupted: by a SIGTERM, after saving.
    """
    members, steps_per_epoch = training.members, training.recipe.steps_per_epoch
    if not steps_per_epoch:
        raise InputError(
            f"{training.num_clips} training clips are fewer than a batch; set config.batch_size to "
            f"at most {training.num_clips} or use more data"
        )
    for member in members:
        view = member.view
        if not (view.labels["validation"] & ~view.masked["validation"]).any():
            raise InputError(
                f"none of the {len(view.rows['validation'])} validation clips has a label of the "
                f"label set ({member.name}), so no epoch could be chosen as the best; use more "
                "data or other --splits"
            )
    with contextlib.ExitStack() as stack:
        folders: list[RunFolder] = []  # of the members; process 0 alone has them
        if processes.is_primary():
            folders = [
                stack.enter_context(RunFolder(member.workdir, steps_per_epoch))
                for member in members
            ]

        def progress() -> list[list[int]]:
            return [folder.progress() for folder in folders]

        while (least := min(done := processes.from_primary(progress)))[0] < training.num_epochs:
            # After a kill between two saves some are further: the others first train up to them.
            ahead = [
                epochs + (steps > epochs * steps_per_epoch)
                for epochs, steps in done
                if [epochs, steps] != least
            ]
            behind = [m for m, of_member in enumerate(done) if of_member == least]
            group = dataclasses.replace(
                training,
                members=[members[m] for m in behind],
                num_epochs=min(ahead, default=training.num_epochs),
            )
            # One epoch, which is what a kill can leave, as with all; more by all devices.
            epochs_done, steps_done = least
            population = len(members) if group.num_epochs - epochs_done == 1 else len(behind)
            of_group = [folders[m] for m in behind if folders]
            _train(group, of_group, epochs_done, steps_done, population)

        best_epochs = processes.from_primary(lambda: [folder.best_epoch for folder in folders])
        best = _restore(training, folders, RunFolder.restore_best)
    return [
        Trained(epoch, {"params": state.params, "batch_stats": state.batch_stats})
        for epoch, state in zip(best_epochs, best, strict=True)
    ]


def _restore(
    training: Training,
    folders: Sequence[RunFolder],
    restore: Callable[[RunFolder, TrainState], TrainState],
) -> list[TrainState]:
    """The members' states, on the host; `restore` is given a folder and the state at the start."""
    starts = [
        jax.device_get(init_state(jax.device_put(member.variables), training.recipe))
        for member in training.members
    ]
    return processes.arrays_from_primary(lambda: list(map(restore, folders, starts)), starts)


def _train(
    training: Training,
    folders: Sequence[RunFolder],
    epochs_done: int,
    steps_done: int,
    population: int,
) -> None:
    """The epochs that are missing, from `steps_done`, which all members have done.

    Args:
      population: as of `Layout.of`.
    """
    recipe, batch_size = training.recipe, training.batch_size
    num_validation = len(training.members[0].view.rows["validation"])
    layout = Layout.of(len(training.members), batch_size, training.wrapper, population)
    resident = load_resident(
        {
            "train": (training.read("train"), training.num_clips),
            "validation": (training.read("validation"), num_validation),
        },
        training.resident,
        layout,
    )
    if steps_done:
        _LOG.info("going on after step %d (epoch %d is done)", steps_done, epochs_done)
    starts = _restore(
        training, folders, lambda folder, start: folder.restore(epochs_done, steps_done, start)
    )
    states = layout.put(stack_members(starts), "member")
    training.on_start()
    with contextlib.ExitStack() as stack:
        should_stop = stack.enter_context(processes.until_terminated())
        executor = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        stack.enter_context(jax.transfer_guard("disallow"))
        saving = executor.submit(lambda: None)  # what is being scored and saved, with its errors

        def wait_for_disk() -> None:
            saving.result()
            for folder in folders:
                folder.wait()

        for epoch in range(epochs_done + 1, training.num_epochs + 1):
            start_s = time.perf_counter()
            first_step = max(steps_done, (epoch - 1) * recipe.steps_per_epoch)
            running: list[tuple[int, jax.Array]] = []
            for step, inputs in _train_inputs(training, epoch, first_step, layout, resident):
                states, loss_sums = train_population(
                    training.network, recipe, layout, states, *inputs
                )
                # The chunk before this one; so the device always has one to do.
                _check_losses(training, epoch, running)
                running = [(step, loss_sums)]
                if should_stop():
                    _check_losses(training, epoch, running)
                    wait_for_disk()
                    _interrupt(folders, split_members(layout, states))
            _check_losses(training, epoch, running)
            num_clips = (epoch * recipe.steps_per_epoch - first_step) * batch_size
            # None where an interrupted run had done all steps of the epoch.
            clips_per_s = num_clips / (time.perf_counter() - start_s) if num_clips else None

            snapshot = split_members(layout, states)

            def stop_if_asked(snapshot=snapshot) -> None:
                if should_stop():
                    wait_for_disk()
                    _interrupt(folders, snapshot)

            scores = begin_predict(
                training.network,
                {"params": states.params, "batch_stats": states.batch_stats},
                training.read("validation"),
                num_validation,
                layout=layout,
                resident=resident["validation"],
                batch_size=batch_size,
                batches_per_call=training.steps_per_call,
                after_chunk=stop_if_asked,
            )
            zeros = np.zeros(len(training.members), np.float32)
            states = dataclasses.replace(states, loss_sum=layout.put(zeros, "member"))
            saving.result()
            saving = executor.submit(
                _finish_epoch, training, folders, epoch, snapshot, scores, clips_per_s, start_s
            )
        wait_for_disk()
        if should_stop():
            raise Interrupted(
                f"interrupted; epoch {training.num_epochs} is saved, the same command goes on "
                "from there"
            )


def _train_inputs(
    training: Training, epoch: int, first_step: int, layout: Layout, resident: dict[str, Blocks]
) -> Iterator[tuple[int, tuple]]:
    """What is left of an epoch, chunk by chunk, put on the devices when it is asked for.

    Yields:
      The step (0 is the first of the training) at which the chunk begins, and the arguments of
      `train_population` from `resident` on.
    """
    recipe, batch_size, chunk = training.recipe, training.batch_size, training.steps_per_call
    start, end = (epoch - 1) * recipe.steps_per_epoch, epoch * recipe.steps_per_epoch
    # Members of one seed share an order: its clips are read once for all of them.
    orders = {
        member.seed: epoch_order(member.seed, epoch, training.num_clips)[
            (first_step - start) * batch_size : (end - start) * batch_size
        ]
        for member in training.members
    }
    order = np.array([list(orders).index(member.seed) for member in training.members], np.int32)
    order = layout.put(order, "member")
    readers = [
        input_chunks(training.read("train"), clips, batch_size, chunk, layout, resident["train"])
        for clips in orders.values()
    ]
    with tqdm(
        total=(end - first_step) * batch_size,
        desc=f"epoch {epoch}/{training.num_epochs}",
        unit=" clips",
        leave=False,
        disable=not sys.stderr.isatty(),
    ) as progress:
        for step in range(first_step, end, chunk):
            inputs, num_steps = zip(*map(next, readers), strict=True)
            clips = slice(
                (step - first_step) * batch_size, (step - first_step + chunk) * batch_size
            )
            labels, masked = (
                np.stack(
                    [
                        to_batches(
                            getattr(member.view, field)["train"][orders[member.seed][clips]],
                            batch_size,
                            chunk,
                        )
                        for member in training.members
                    ]
                )
                for field in ("labels", "masked")
            )
            yield (
                step,
                (
                    resident["train"],
                    inputs,
                    order,
                    layout.put(labels, "member", None, "data"),
                    layout.put(masked, "member", None, "data"),
                    layout.put(np.int32(num_steps[0])),
                ),
            )
            progress.update(num_steps[0] * batch_size)


def _check_losses(training: Training, epoch: int, running: list[tuple[int, jax.Array]]) -> None:
    """Waits for chunks; raises InputError where the loss of a step is not finite."""
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


def _finish_epoch(
    training: Training,
    folders: Sequence[RunFolder],
    epoch: int,
    snapshot: list[TrainState],
    scores: Callable[[], np.ndarray],
    clips_per_s: float | None,
    start_s: float,
) -> None:
    """Scores the epoch and, in process 0, writes its line and its checkpoint, for every member."""
    recipe = training.recipe
    of_members = scores()
    for member, member_scores in zip(training.members, of_members, strict=True):
        if not np.isfinite(member_scores).all():
            raise InputError(
                f"epoch {epoch}: the validation scores are not finite after step "
                f"{epoch * recipe.steps_per_epoch} ({member.name}); the checkpoints of the epochs "
                "before are kept; lower config.learning_rate"
            )
    if not folders:
        return
    for folder in folders:  # so that a kill leaves members at most one epoch apart
        folder.wait()
    for member, folder, state, member_scores in zip(
        training.members, folders, jax.device_get(snapshot), of_members, strict=True
    ):
        validation = evaluate(
            member_scores, member.view.labels["validation"], member.view.masked["validation"]
        )
        line = {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": float(state.loss_sum) / recipe.steps_per_epoch,
            "validation_mAP": validation.mean_average_precision,
            "learning_rate": float(recipe.schedule(int(state.step) - 1)),
            "clips_per_s": clips_per_s,
            "seconds": time.perf_counter() - start_s,
        }
        folder.finish_epoch(line, dataclasses.replace(state, loss_sum=np.zeros((), np.float32)))
        _LOG.info(
            "%s: epoch %d/%d: loss %.5f, validation mAP %.4f, %s clips/s, %.1f s",
            member.name,
            epoch,
            training.num_epochs,
            line["train_loss"],
            line["validation_mAP"],
            "no" if clips_per_s is None else format(clips_per_s, ".1f"),
            line["seconds"],
        )
    training.on_epoch()


def _interrupt(folders: Sequence[RunFolder], snapshot: list[TrainState]) -> None:
    """Saves within an epoch and raises Interrupted."""
    states = jax.device_get(snapshot)
    for folder, state in zip(folders, states, strict=False):  # no folders but in process 0
        folder.save_interrupted(state)
    raise Interrupted(
        f"interrupted; saved after step {states[0].step}, the same command goes on from there"
    )
