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
import json
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from relabel_jax import hosts
from relabel_jax.errors import InputError, Interrupted
from relabel_jax.files import complete_file
from relabel_jax.pipeline import epoch_order, read_chunks, to_batches
from relabel_jax.train.checkpoint import Checkpoints
from relabel_jax.train.metrics import evaluate
from relabel_jax.train.population import (
    Layout,
    predict_population,
    split_members,
    stack_members,
    train_population,
)
from relabel_jax.train.resident import Blocks, ReadInputs, load_resident
from relabel_jax.train.step import Recipe, TrainState, init_state
from relabel_jax.views import View

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
    members, recipe = training.members, training.recipe
    if not recipe.steps_per_epoch:
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
    starts = [
        jax.device_get(init_state(jax.device_put(member.variables), recipe)) for member in members
    ]
    with contextlib.ExitStack() as stack:
        folders = []
        if hosts.is_primary():
            folders = [stack.enter_context(_Folder(member.workdir)) for member in members]
        epochs_done, steps_done = hosts.from_primary(
            lambda: _progress(folders, recipe.steps_per_epoch)
        )

        def restore(m: int) -> TrainState:
            steps, epochs = steps_done[m], epochs_done[m]
            if not steps:
                return starts[m]
            return hosts.arrays_from_primary(
                lambda: folders[m].restore(epochs, steps, recipe, starts[m]), starts[m]
            )

        if min(epochs_done) < training.num_epochs:
            _train(training, folders, epochs_done, min(steps_done), restore)

        trained = []
        for m, start in enumerate(starts):
            best_epoch = hosts.from_primary(lambda m=m: folders[m].best_epoch)
            best = hosts.arrays_from_primary(
                lambda m=m, start=start, best_epoch=best_epoch: folders[m].checkpoints.restore(
                    best_epoch, start
                ),
                start,
            )
            variables = {"params": best.params, "batch_stats": best.batch_stats}
            trained.append(Trained(best_epoch, variables))
    return trained


def _train(
    training: Training,
    folders: "list[_Folder]",
    epochs_done: list[int],
    steps_done: int,
    restore: Callable[[int], TrainState],
) -> None:
    """The epochs that are missing, from `steps_done`, those of the member that is least far.

    Members that are further, after a kill between two saves, join when the others are there.
    """
    members, recipe, batch_size = training.members, training.recipe, training.batch_size
    layout = Layout.of(len(members), batch_size, training.wrapper)
    view = members[0].view
    resident = load_resident(
        {split: (training.read(split), len(view.rows[split])) for split in ("train", "validation")},
        training.resident,
        layout,
    )
    active: list[int] = []
    states: TrainState | None = None
    with contextlib.ExitStack() as stack:
        should_stop = stack.enter_context(hosts.until_terminated())
        background = _Background(stack.enter_context(concurrent.futures.ThreadPoolExecutor(1)))
        for epoch in range(min(epochs_done) + 1, training.num_epochs + 1):
            start = time.perf_counter()
            joining = [m for m, done in enumerate(epochs_done) if done == epoch - 1]
            if joining:
                background.wait()
                active_states = jax.device_get(split_members(layout, states)) if active else []
                active += joining
                layout = Layout.of(len(active), batch_size, training.wrapper)
                states = layout.put(
                    stack_members(active_states + [restore(m) for m in joining]), "member"
                )
            assert states is not None
            first_step = max(steps_done, (epoch - 1) * recipe.steps_per_epoch)

            with jax.transfer_guard("disallow"):
                chunks = _Chunks(training, active, epoch, first_step, layout, resident["train"])
                unchecked: Any = None
                for chunk in chunks:
                    states, loss_sums = chunk.train(states)
                    if unchecked is not None:
                        chunks.check(*unchecked)
                    unchecked = chunk.first_step, chunk.num_steps, loss_sums
                    if should_stop():
                        chunks.check(*unchecked)
                        background.wait()
                        _interrupt(folders, active, split_members(layout, states))
                train_seconds = time.perf_counter() - start

                variables = {"params": states.params, "batch_stats": states.batch_stats}
                scores = _predict(
                    training.network,
                    variables,
                    training.read("validation"),
                    len(view.rows["validation"]),
                    layout=layout,
                    resident=resident["validation"],
                    batch_size=batch_size,
                    batches_per_call=training.steps_per_call,
                )
                if unchecked is not None:
                    chunks.check(*unchecked)
                background.wait()
                snapshot = split_members(layout, states)
                zeros = np.zeros(len(active), np.float32)
                states = dataclasses.replace(states, loss_sum=layout.put(zeros, "member"))
            if hosts.is_primary():
                background.start(
                    _finish_epoch,
                    training,
                    [(members[m], folders[m]) for m in active],
                    epoch,
                    snapshot,
                    scores,
                    chunks.num_clips / train_seconds,
                    start,
                )
        background.wait()


class _Background:
    """One task at a time beside the training; its errors come out of `wait`."""

    def __init__(self, executor: concurrent.futures.Executor):
        self._executor = executor
        self._running: concurrent.futures.Future | None = None

    def start(self, function: Callable, *arguments) -> None:
        self._running = self._executor.submit(function, *arguments)

    def wait(self) -> None:
        if self._running is not None:
            self._running.result()
            self._running = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Chunk:
    first_step: int  # of all, 0 is the first of the training
    num_steps: int
    train: Callable[[TrainState], tuple[TrainState, jax.Array]]


class _Chunks:
    """What is left of an epoch, from `first_step` of the training on.

    Iteration puts a chunk on the devices when it is asked for it: one that runs and one that waits
    are there, no more, since the caller asks when the one before the last is done.
    """

    def __init__(
        self,
        training: Training,
        active: list[int],
        epoch: int,
        first_step: int,
        layout: Layout,
        resident: Blocks,
    ):
        self._training = training
        self._members = [training.members[m] for m in active]
        self._epoch = epoch
        self._first_step = first_step
        self._layout = layout
        self._resident = resident
        recipe, batch_size = training.recipe, training.batch_size
        skipped = (first_step - (epoch - 1) * recipe.steps_per_epoch) * batch_size
        end = recipe.steps_per_epoch * batch_size
        # Members of one seed share an order: its clips are read once for all of them.
        self._orders = {
            member.seed: epoch_order(member.seed, epoch, training.num_clips)[skipped:end]
            for member in self._members
        }
        self.num_clips = end - skipped

    def __iter__(self):
        training, layout, resident = self._training, self._layout, self._resident
        batch_size, steps = training.batch_size, training.steps_per_call
        read = training.read("train")
        seeds = list(self._orders)
        order = layout.put(
            np.array([seeds.index(member.seed) for member in self._members], np.int32), "member"
        )
        readers = [
            _read_part(read, clips, batch_size, steps, layout, resident)
            for clips in self._orders.values()
        ]
        progress = tqdm(
            total=self.num_clips,
            desc=f"epoch {self._epoch}/{training.num_epochs}",
            unit=" clips",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        with progress:
            for at, chunks in zip(
                range(0, self.num_clips, batch_size * steps),
                zip(*readers, strict=True),
                strict=True,
            ):
                num_steps = chunks[0].num_batches
                labels, masked = (
                    np.stack([self._rows(member, field, at) for member in self._members])
                    for field in ("labels", "masked")
                )
                arguments = (
                    resident,
                    tuple(layout.put_part(chunk.inputs, None, "data") for chunk in chunks),
                    order,
                    layout.put(labels, "member", None, "data"),
                    layout.put(masked, "member", None, "data"),
                    layout.put(np.int32(num_steps)),
                )
                yield _Chunk(
                    self._first_step + at // batch_size,
                    num_steps,
                    lambda states, arguments=arguments: train_population(
                        training.network, training.recipe, layout, states, *arguments
                    ),
                )
                progress.update(num_steps * batch_size)

    def _rows(self, member: Member, field: str, at: int) -> np.ndarray:
        """bool[chunk, batch, classes]: labels or masks of the clips from `at` on."""
        shape = (self._training.batch_size, self._training.steps_per_call)
        clips = self._orders[member.seed][at : at + math.prod(shape)]
        return to_batches(getattr(member.view, field)["train"][clips], *shape)

    def check(self, first_step: int, num_steps: int, loss_sums: jax.Array) -> None:
        """Waits for a chunk; raises InputError where its loss is not finite."""
        values = jax.device_get(loss_sums)[:, :num_steps]
        if np.isfinite(values).all():
            return
        step = int(np.argmin(np.isfinite(values).all(axis=0)))
        m = int(np.argmin(np.isfinite(values[:, step])))
        raise InputError(
            f"epoch {self._epoch}: the training loss is {values[m, step]} at step "
            f"{first_step + step + 1} ({self._members[m].name}); the checkpoints of the epochs "
            "before are kept; lower config.learning_rate"
        )


def _finish_epoch(
    training: Training,
    members: "list[tuple[Member, _Folder]]",
    epoch: int,
    snapshot: list[TrainState],
    scores: Callable[[], np.ndarray],
    clips_per_s: float,
    start: float,
) -> None:
    """Scores the epoch and writes its line and its checkpoint, for every member."""
    recipe = training.recipe
    all_scores = scores()
    for (member, folder), state, member_scores in zip(
        members, jax.device_get(snapshot), all_scores, strict=True
    ):
        if not np.isfinite(member_scores).all():
            raise InputError(
                f"epoch {epoch}: the validation scores are not finite after step {state.step} "
                f"({member.name}); the checkpoints of the epochs before are kept; lower "
                "config.learning_rate"
            )
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
            "seconds": time.perf_counter() - start,
        }
        folder.finish_epoch(line, dataclasses.replace(state, loss_sum=np.zeros((), np.float32)))
        _LOG.info(
            "%s: epoch %d/%d: loss %.5f, validation mAP %.4f, %.1f clips/s, %.1f s",
            member.name,
            epoch,
            training.num_epochs,
            line["train_loss"],
            line["validation_mAP"],
            clips_per_s,
            line["seconds"],
        )


def _interrupt(folders: "list[_Folder]", active: list[int], snapshot: list[TrainState]) -> None:
    """Saves within an epoch and raises Interrupted."""
    states = jax.device_get(snapshot)
    if hosts.is_primary():
        for m, state in zip(active, states, strict=True):
            folders[m].checkpoints.save_interrupted(state)
    raise Interrupted(
        f"interrupted; saved after step {states[0].step}, the same command goes on from there"
    )


def _progress(folders: "list[_Folder]", steps_per_epoch: int) -> tuple[list[int], list[int]]:
    """The epochs and the steps that members have done.

    A state within an epoch counts when all members have one of the same step; when the system
    ended the program between two of them, they go back to the epoch's beginning.
    """
    epochs = [folder.checkpoints.latest or 0 for folder in folders]
    for folder, done in zip(folders, epochs, strict=True):
        folder.keep_epochs(done)
        if done:
            _LOG.info("%s: going on after epoch %d", folder.workdir, done)
    steps = [done * steps_per_epoch for done in epochs]
    interrupted = {folder.checkpoints.interrupted for folder in folders}
    if len(interrupted) == 1 and len(set(steps)) == 1:
        step = interrupted.pop()
        if step is not None and steps[0] < step <= steps[0] + steps_per_epoch:
            _LOG.info("going on after step %d", step)
            steps = [step] * len(folders)
    return epochs, steps


class _Folder:
    """A member's run folder, in the one process that has it: checkpoints and `metrics.jsonl`."""

    def __init__(self, workdir: pathlib.Path):
        self.workdir = workdir
        self.checkpoints = Checkpoints(workdir)
        self._metrics_path = workdir / "metrics.jsonl"
        self._lines: list[dict[str, Any]] = []

    def __enter__(self) -> "_Folder":
        return self

    def __exit__(self, *arguments) -> None:
        self.checkpoints.__exit__(*arguments)

    @property
    def best_epoch(self) -> int:
        """By validation mAP, of equals the first."""
        return max(self._lines, key=lambda line: (line["validation_mAP"], -line["epoch"]))["epoch"]

    def keep_epochs(self, num_epochs: int) -> None:
        """Cuts `metrics.jsonl` back to its first epochs."""
        path = self._metrics_path
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) < num_epochs:
            raise InputError(
                f"{path}: has {len(lines)} lines but the checkpoints are of epoch {num_epochs}; "
                "somebody changed it: put it back, or train in a new --workdir"
            )
        self._lines = [json.loads(line) for line in lines[:num_epochs]]
        with complete_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines[:num_epochs]))

    def restore(self, epochs: int, steps: int, recipe: Recipe, like: TrainState) -> TrainState:
        """The state after `steps`, of which `epochs` are whole."""
        if steps == epochs * recipe.steps_per_epoch:
            return self.checkpoints.restore(epochs, like)
        return self.checkpoints.restore_interrupted(steps, like)

    def finish_epoch(self, line: dict[str, Any], state: TrainState) -> None:
        """Writes an epoch's line and checkpoint."""
        # The line first: an epoch with a checkpoint always has its line, and a line without a
        # checkpoint is dropped when the run goes on.
        with open(self._metrics_path, "a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines.append(line)
        self.checkpoints.save(line["epoch"], state, line["validation_mAP"])
        self.checkpoints.drop_interrupted()


def predict(
    network: nn.Module,
    variables: dict[str, Any],
    read_inputs: ReadInputs,
    num_clips: int,
    *,
    batch_size: int,
    batches_per_call: int,
    method: str = "__call__",
) -> np.ndarray:
    """A network's outputs in evaluation mode for clips 0 to `num_clips` - 1.

    Args:
      network: with `method` mapping (inputs, train) to outputs.
      variables: its `params` and `batch_stats`, on the host.
      read_inputs: int64[n] -> [n, ...].
      method: `__call__` for scores or `embed`.

    Returns:
      float32[num_clips, outputs].
    """
    layout = Layout.of(1, batch_size, "auto")
    return _predict(
        network,
        layout.put(stack_members([variables]), "member"),
        read_inputs,
        num_clips,
        layout=layout,
        resident=(),
        batch_size=batch_size,
        batches_per_call=batches_per_call,
        method=method,
    )()[0]


def predict_members(
    training: Training, variables: Sequence[dict[str, Any]], split: str
) -> np.ndarray:
    """Scores of a split's clips by each member's network: float32[members, clips, classes]."""
    layout = Layout.of(len(training.members), training.batch_size, training.wrapper)
    return _predict(
        training.network,
        layout.put(stack_members(list(variables)), "member"),
        training.read(split),
        len(training.members[0].view.rows[split]),
        layout=layout,
        resident=(),
        batch_size=training.batch_size,
        batches_per_call=training.steps_per_call,
    )()


def _predict(
    network: nn.Module,
    variables: dict[str, Any],
    read_inputs: ReadInputs,
    num_clips: int,
    *,
    layout: Layout,
    resident: Blocks,
    batch_size: int,
    batches_per_call: int,
    method: str = "__call__",
) -> Callable[[], np.ndarray]:
    """`predict` for a population; returns when the device has its last chunk to do.

    Returns:
      A function that waits for it and gives float32[members, num_clips, outputs].
    """
    clips = np.arange(num_clips)
    clips = np.pad(clips, (0, -num_clips % batch_size), mode="edge")  # whole batches
    fetched: list[np.ndarray] = []
    running: list[jax.Array] = []

    def fetch() -> None:
        outputs = jax.device_get(running.pop(0))
        fetched.append(outputs.reshape(len(outputs), -1, outputs.shape[-1]))

    for chunk in _read_part(read_inputs, clips, batch_size, batches_per_call, layout, resident):
        inputs = layout.put_part(chunk.inputs, None, "data")
        num_batches = layout.put(np.int32(chunk.num_batches))
        running.append(
            predict_population(network, layout, method, variables, resident, inputs, num_batches)
        )
        if len(running) > 1:
            fetch()

    def outputs() -> np.ndarray:
        while running:
            fetch()
        return np.concatenate(fetched, axis=1)[:, :num_clips]

    return outputs


def _read_part(
    read_inputs: ReadInputs,
    clips: np.ndarray,
    batch_size: int,
    batches_per_chunk: int,
    layout: Layout,
    resident: Blocks,
):
    """`read_chunks` of this process's part of every batch; where inputs are resident, of clips."""
    part = layout.part(batch_size, "data")
    clips = clips.reshape(-1, batch_size)[:, part]
    if resident:
        read_inputs = _as_indices
    return read_chunks(read_inputs, clips.ravel(), clips.shape[1], batches_per_chunk)


def _as_indices(clips: np.ndarray) -> np.ndarray:
    return clips.astype(np.int32)
