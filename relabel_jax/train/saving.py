"""Scores, saves and reports an epoch on the host while the device trains the next one."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from relabel_jax.errors import InputError, Interrupted
from relabel_jax.metrics import evaluate
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.train.step import TrainState
from relabel_jax.train.training import Training


class Saver:
    """Scores and saves an epoch in a thread while the next one is trained.

    If this fails, the next call of a method raises the error.

    Attributes:
      latest: the numbers of the last epoch that was saved, for the progress display; "" before the
        first.
    """

    def __init__(self, training: Training, folders: Sequence[TrainingFolder]):
        self.latest = ""
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
        """Starts to score and save an epoch, after the epoch before it is scored and saved.

        Args:
          epoch: the number of the epoch; 1 is the first.
          snapshot: the members' states after the epoch, on the devices.
          scores: waits for the validation scores, float32[members, clips, classes], and returns
            them.
          clips_per_s: training clips a second; None if the epoch trained no step.
          start_s: the time at which the epoch began, by `time.perf_counter`.
        """
        self._saving.result()
        self._saving = self._executor.submit(
            self._finish_epoch, epoch, snapshot, scores, clips_per_s, start_s
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
        for folder, state in zip(self._folders, states, strict=False):  # empty but in process 0
            folder.save_interrupted(state)
        raise Interrupted(
            f"interrupted; saved after step {states[0].step}, the same command continues from there"
        )

    def _finish_epoch(
        self,
        epoch: int,
        snapshot: list[TrainState],
        scores: Callable[[], np.ndarray],
        clips_per_s: float | None,
        start_s: float,
    ) -> None:
        """Scores an epoch and, in process 0, writes each member's metrics and checkpoint."""
        training, recipe = self._training, self._training.recipe
        of_members = scores()
        for member, member_scores in zip(training.members, of_members, strict=True):
            if not np.isfinite(member_scores).all():
                raise InputError(
                    f"epoch {epoch}: the validation scores are not finite after step "
                    f"{epoch * recipe.steps_per_epoch} ({member.name}); the checkpoints of the "
                    "epochs before are kept; lower config.learning_rate"
                )
        if not self._folders:
            return
        for folder in self._folders:  # so that a kill leaves members at most one epoch apart
            folder.wait()
        lines = []
        for member, folder, state, member_scores in zip(
            training.members, self._folders, jax.device_get(snapshot), of_members, strict=True
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
            lines.append(line)
        losses = " ".join(f"{line['train_loss']:.5f}" for line in lines)
        maps = " ".join(f"{line['validation_mAP']:.4f}" for line in lines)
        self.latest = f" (epoch {epoch}: loss {losses}, validation mAP {maps})"
        training.on_epoch()
