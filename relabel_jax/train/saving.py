"""What the host does with an epoch while the device trains the next one: scores, saves, reports."""

import concurrent.futures
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from relabel_jax.errors import InputError, Interrupted
from relabel_jax.metrics import evaluate
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.train.step import TrainState
from relabel_jax.train.training import Training

_LOG = logging.getLogger(__name__)


class Saver:
    """Scores and saves an epoch while the next one is trained.

    An error in this is raised by the next call.
    """

    def __init__(self, training: Training, folders: Sequence[TrainingFolder]):
        self._training = training
        self._folders = folders
        self._executor = concurrent.futures.ThreadPoolExecutor(1)
        self._saving = self._executor.submit(lambda: None)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_) -> None:
        self._executor.shutdown()

    def submit(
        self,
        epoch: int,
        snapshot: list[TrainState],
        scores: Callable[[], np.ndarray],
        clips_per_s: float | None,
        start_s: float,
    ) -> None:
        """Begins to score and save an epoch, once the one before is scored and saved."""
        self._saving.result()
        self._saving = self._executor.submit(
            _finish_epoch,
            self._training,
            self._folders,
            epoch,
            snapshot,
            scores,
            clips_per_s,
            start_s,
        )

    def wait(self) -> None:
        """Waits until everything is on the disk."""
        self._saving.result()
        for folder in self._folders:
            folder.wait()

    def interrupt(self, snapshot: list[TrainState]) -> None:
        """Saves states within an epoch and raises Interrupted."""
        self.wait()
        states = jax.device_get(snapshot)
        for folder, state in zip(self._folders, states, strict=False):  # none but in process 0
            folder.save_interrupted(state)
        raise Interrupted(
            f"interrupted; saved after step {states[0].step}, the same command goes on from there"
        )


def _finish_epoch(
    training: Training,
    folders: Sequence[TrainingFolder],
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
