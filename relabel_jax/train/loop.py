"""Trains the members of a population, also if some of them have done more epochs than others.

A run may be killed at any moment. When it is started again, it continues after the last epoch with
a complete checkpoint, and ends with the same numbers: the seed and the epoch determine the order of
the clips, and the checkpoint has everything else that training changes. A run that is asked to end
(SIGTERM) saves after the chunk that is running, and continues from there. `epochs.py` trains the
epochs.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax

from relabel_jax.runs import processes
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.train.epochs import train_epochs
from relabel_jax.train.step import TrainState, init_state
from relabel_jax.train.training import Trained, Training


@dataclasses.dataclass(frozen=True)
class Round:
    """Members that are at the same step and are trained together.

    Attributes:
      members: the numbers of the members.
      epochs_done: whole epochs that they have done.
      steps_done: steps that they have done. If they were interrupted, this is more than the steps
        of `epochs_done`.
      until: the epoch after which they stop.
    """

    members: tuple[int, ...]
    epochs_done: int
    steps_done: int
    until: int


def rounds(
    progress: Sequence[Sequence[int]], steps_per_epoch: int, num_epochs: int
) -> Iterator[Round]:
    """Yields the rounds after which all members have done all epochs.

    After a kill between two saves, some members have done more than others. The members that are
    behind are trained first, until they have caught up.

    Args:
      progress: (epochs, steps) that each member has done.
      steps_per_epoch: the number of steps of an epoch.
      num_epochs: the number of epochs in all.
    """
    done = [(epochs, steps) for epochs, steps in progress]
    while (least := min(done))[0] < num_epochs:
        ahead = [
            epochs + (steps > epochs * steps_per_epoch)
            for epochs, steps in done
            if (epochs, steps) != least
        ]
        behind = tuple(m for m, of_member in enumerate(done) if of_member == least)
        until = min([*ahead, num_epochs])
        yield Round(behind, least[0], least[1], until)
        for m in behind:
            done[m] = (until, until * steps_per_epoch)


def train(training: Training) -> list[Trained]:
    """Trains, or continues training, and returns the best epoch of each member.

    Raises:
      InputError: there are fewer training clips than a batch, there is no label to validate on, the
        batch cannot be divided among the devices, the inputs do not fit into the memory of the
        device, or a loss is not finite.
      Interrupted: a SIGTERM stopped the training, after its work was saved.
    """
    training.check()
    steps_per_epoch = training.recipe.steps_per_epoch
    with contextlib.ExitStack() as stack:
        folders: list[TrainingFolder] = []  # filled in process 0 only
        if processes.is_primary():
            folders = [
                stack.enter_context(TrainingFolder(member.workdir, steps_per_epoch))
                for member in training.members
            ]
        progress = processes.from_primary(lambda: [folder.progress() for folder in folders])
        for part in rounds(progress, steps_per_epoch, training.num_epochs):
            group = dataclasses.replace(
                training,
                members=[training.members[m] for m in part.members],
                num_epochs=part.until,
            )
            of_group = [folders[m] for m in part.members if folders]
            # A kill leaves members at most one epoch apart. That epoch is computed on the same
            # devices as with all members, so that the numbers are the same. More epochs use all
            # devices.
            is_one_epoch = part.until - part.epochs_done == 1

            def restore(folder: TrainingFolder, start: TrainState, part=part) -> TrainState:
                return folder.restore(part.epochs_done, part.steps_done, start)

            train_epochs(
                group,
                of_group,
                _restored(group, of_group, restore),
                epochs_done=part.epochs_done,
                steps_done=part.steps_done,
                population=len(training.members) if is_one_epoch else len(part.members),
            )
        best_epochs = processes.from_primary(lambda: [folder.best_epoch for folder in folders])
        best = _restored(training, folders, TrainingFolder.restore_best)
    return [Trained(epoch, state.variables) for epoch, state in zip(best_epochs, best, strict=True)]


def _restored(
    training: Training,
    folders: Sequence[TrainingFolder],
    restore: Callable[[TrainingFolder, TrainState], TrainState],
) -> list[TrainState]:
    """Returns the members' states, on the host, and the same in all processes.

    Args:
      training: the training.
      folders: the members' folders; empty but in process 0.
      restore: reads a state from a folder, given the state at the start.
    """
    starts = [
        jax.device_get(init_state(jax.device_put(member.variables), training.recipe))
        for member in training.members
    ]
    return processes.arrays_from_primary(lambda: list(map(restore, folders, starts)), starts)
