"""Trains the members of a population, whatever each of them has done already.

A run may be killed at any moment. Started again it goes on after the last epoch whose checkpoint
is complete, and ends with the same numbers: the order of the clips follows from seed and epoch, and
everything else that training changes is in the checkpoint. A run that is asked to end (SIGTERM)
saves at the next chunk and goes on from there. `epochs.py` has the epochs themselves.
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
    """Members that train together, from where all of them stand.

    Attributes:
      members: their numbers.
      epochs_done: whole epochs that they have done.
      steps_done: steps that they have done; more than these epochs have if they were interrupted.
      until: the epoch after which they stop.
    """

    members: tuple[int, ...]
    epochs_done: int
    steps_done: int
    until: int


def rounds(
    progress: Sequence[Sequence[int]], steps_per_epoch: int, num_epochs: int
) -> Iterator[Round]:
    """The rounds after which all members have done all epochs.

    A kill between two saves leaves some members further than others. The others first train up to
    them.

    Args:
      progress: (epochs, steps) that each member has done.
      steps_per_epoch: steps of an epoch.
      num_epochs: epochs in all.
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
    """Trains, or goes on training, and returns the best epoch's network of each member.

    Raises:
      InputError: there are fewer training clips than a batch, nothing to validate on, the devices
        do not divide the batch, the inputs do not fit where they must stay, or a loss is not
        finite.
      Interrupted: by a SIGTERM, after saving.
    """
    training.check()
    steps_per_epoch = training.recipe.steps_per_epoch
    with contextlib.ExitStack() as stack:
        folders: list[TrainingFolder] = []  # of the members; process 0 alone has them
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
            # One epoch, which is what a kill can leave, is computed as with all members; more
            # epochs by all devices.
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
    """The members' states, on the host; `restore` is given a folder and the state at the start."""
    starts = [
        jax.device_get(init_state(jax.device_put(member.variables), training.recipe))
        for member in training.members
    ]
    return processes.arrays_from_primary(lambda: list(map(restore, folders, starts)), starts)
