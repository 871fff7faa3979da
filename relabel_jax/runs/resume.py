"""Finds the state from which a run continues to the same end as if it had not been stopped.

That is the newest state with these properties:

- it can be restored, and its digest is the one that it was saved with;
- it belongs to this run;
- the lines of `metrics.jsonl` up to it are those that were there when it was saved;
- the checkpoint of the best epoch up to it can be restored too, because the run ends with it.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.restoring import TRAIN_AGAIN
from relabel_jax.runs.workdir import Workdir


@dataclasses.dataclass(frozen=True, order=True)
class Point:
    """A state of a run. Points are ordered by their age.

    Attributes:
      steps: training steps done.
      epochs: whole epochs done.
      is_interrupted: whether the state was saved within an epoch, by `save_interrupted`.
    """

    steps: int
    epochs: int
    is_interrupted: bool = False


def best_epoch(lines: Sequence[dict[str, Any]]) -> int:
    """The epoch with the highest validation mAP; if several are equal, the first of them."""
    return max(lines, key=lambda line: (line["validation_mAP"], -line["epoch"]))["epoch"]


def belongs_to(workdir: Workdir, lines: Sequence[str]) -> dict[str, str]:
    """Returns the digests that a checkpoint holds of what it belongs to.

    Args:
      workdir: the run folder.
      lines: the lines of `metrics.jsonl` up to the checkpoint.
    """
    return {"run": workdir.run, "metrics": digests.of_json(list(lines))}


class Candidates:
    """The states of a run that are on the disk.

    Args:
      workdir: the run folder.
      checkpoints: its checkpoints.
      lines: the lines of `metrics.jsonl`.
      steps_per_epoch: the number of training steps of an epoch.
    """

    def __init__(
        self,
        workdir: Workdir,
        checkpoints: Checkpoints,
        lines: Sequence[str],
        steps_per_epoch: int,
    ):
        self._workdir = workdir
        self._checkpoints = checkpoints
        self._lines = lines
        self._points = [Point(epoch * steps_per_epoch, epoch) for epoch in checkpoints.epochs]
        self._unlistable = ""
        try:
            step = checkpoints.interrupted
        except InputError as error:
            self._unlistable = str(error).removesuffix(f"; {TRAIN_AGAIN}")
            return
        if step is not None:
            point = Point(step, (step - 1) // steps_per_epoch, is_interrupted=True)
            # A kill may leave a state after epochs whose lines are not on the disk.
            if point.epochs <= len(lines):
                self._points.append(point)

    def newest(self) -> tuple[Point, dict[Point, str]]:
        """Returns the newest state that can be used, and why newer ones cannot, by state.

        The start of the training can be used if there is no checkpoint.

        Raises:
          InputError: there are checkpoints, but none can be used; or `metrics.jsonl` was changed.
        """
        problems: dict[Point, str] = {}
        if self._unlistable:
            problems[Point(0, 0, is_interrupted=True)] = self._unlistable
        for point in sorted(self._points, reverse=True):
            problem = self._problem(point)
            if problem is None:
                return point, problems
            problems[point] = problem
        if all(point.is_interrupted for point in problems):
            return Point(0, 0), problems
        raise InputError(f"{next(iter(problems.values()))}; {TRAIN_AGAIN}")

    def _problem(self, point: Point) -> str | None:
        """Returns the reason why a state cannot be used, or None."""
        if point.is_interrupted:
            recorded = self._checkpoints.recorded_of_interrupted(point.steps)
            path = self._workdir.interrupted_path / str(point.steps)
        else:
            recorded = self._checkpoints.recorded(point.epochs)
            path = self._workdir.checkpoint_path(point.epochs)
        expected = belongs_to(self._workdir, self._lines[: point.epochs])
        if recorded.get("run") and expected["run"] and recorded["run"] != expected["run"]:
            return f"{path}: is of another run than config.json"
        if recorded.get("metrics", expected["metrics"]) != expected["metrics"]:
            raise InputError(
                f"{self._workdir.metrics_path}: its first {point.epochs} lines are not those that "
                f"this run wrote before {path}: the file was changed or is of another run; put the "
                "run's own back, or train in a new --workdir"
            )
        if point.is_interrupted:
            problem = self._checkpoints.problem_of_interrupted(point.steps)
        else:
            problem = self._problem_of_epoch(point.epochs)
        if problem is not None or not point.epochs:
            return problem
        best = best_epoch(self._parsed(point.epochs))
        if best != point.epochs or point.is_interrupted:
            problem = self._problem_of_epoch(best)
        return problem and f"{problem}, and epoch {best} is the best one until {path.name}"

    def _problem_of_epoch(self, epoch: int) -> str | None:
        line = self._parsed(epoch)[-1]
        return self._checkpoints.problem(epoch, line["validation_mAP"])

    def _parsed(self, epochs: int) -> list[dict[str, Any]]:
        """The lines of the first epochs as dictionaries."""
        try:
            parsed = [json.loads(line) for line in self._lines[:epochs]]
            for line in parsed:
                line["epoch"], line["validation_mAP"] + 0.0
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self._workdir.metrics_path}: is damaged ({error!r}); put the run's own file "
                "back, or train in a new --workdir"
            ) from error
        return parsed
