"""The files that a training writes into its run folder: checkpoints, metrics and events."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.runs import processes
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.restoring import State, first_line
from relabel_jax.runs.resume import Candidates, Point, belongs_to, best_epoch
from relabel_jax.runs.workdir import Workdir

_LOG = logging.getLogger(__name__)


class TrainingFolder:
    """The run folder of a training, in the process that reads and writes it.

    A context manager: it closes the files.

    Args:
      workdir: the run folder.
      steps_per_epoch: the number of training steps of an epoch.
    """

    def __init__(self, workdir: Workdir, steps_per_epoch: int):
        self._workdir = workdir
        self._checkpoints = Checkpoints(workdir)
        self._steps_per_epoch = steps_per_epoch
        self._metrics_path = workdir.metrics_path
        self._events: Any = None  # an EventsWriter

    def __enter__(self) -> "TrainingFolder":
        return self

    @processes.alone
    def __exit__(self, *arguments) -> None:
        with self._writing(), contextlib.ExitStack() as stack:
            stack.callback(self._checkpoints.__exit__, *arguments)
            if self._events is not None:
                self._events.close()

    def progress(self) -> list[int]:
        """Returns `[epochs, steps]`: the whole epochs done, and the step to resume from.

        It is the newest state that can be used (`resume.py`). If `save_interrupted` saved it,
        `steps` is larger than the number of steps of these epochs. Lines of later epochs are
        removed, and so is a state of `save_interrupted` that is not used. Later checkpoints are
        moved to another folder, and the log says why.

        Raises:
          InputError: lines are missing or changed, no checkpoint can be used, or the last
            checkpoint could not be written.
        """
        with self._writing():  # the last epoch is still written in the background
            self._checkpoints.wait()
        lines = self._lines()
        if len(lines) < (self._checkpoints.latest or 0):
            raise InputError(
                f"{self._metrics_path}: has {len(lines)} lines but the checkpoints are of epoch "
                f"{self._checkpoints.latest}; somebody changed it: put it back, or train in a new "
                "--workdir"
            )
        candidates = Candidates(self._workdir, self._checkpoints, lines, self._steps_per_epoch)
        point, problems = candidates.newest()
        self._leave_out(problems, point)
        with complete_file(self._metrics_path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines[: point.epochs]))
        if self._workdir.interrupted_path.is_dir() and not point.is_interrupted:
            self._checkpoints.forget_interrupted()
        return [point.epochs, point.steps]

    def _leave_out(self, problems: dict[Point, str], used: Point) -> None:
        """Moves the checkpoints away that cannot be used, and says so."""
        for point, problem in problems.items():
            moved = ""
            if not point.is_interrupted:
                self._checkpoints.set_aside(point.epochs)
                moved = f"moved it to {self._workdir.damaged_path}, "
            _LOG.warning("%s; %scontinuing after step %d instead", problem, moved, used.steps)

    def restore(self, epochs: int, steps: int, like: State) -> State:
        """Reads the state at a `progress`, on the host; `like` is the state at the start."""
        if steps > epochs * self._steps_per_epoch:
            return self._checkpoints.restore_interrupted(steps, like)
        if not epochs:
            return like
        return self._checkpoints.restore(epochs, like)

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest validation mAP; if several are equal, the first of them."""
        return best_epoch([json.loads(line) for line in self._lines()])

    def restore_best(self, like: State) -> State:
        """Reads the state after the best epoch, on the host."""
        return self._checkpoints.restore(self.best_epoch, like)

    @processes.alone
    def finish_epoch(self, line: dict[str, Any], state: State) -> None:
        """Writes the line of `metrics.jsonl` and the checkpoint of an epoch."""
        with self._writing():
            # The line is written first, so that each epoch with a checkpoint has a line.
            with open(self._metrics_path, "a+") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                lines = file.read().splitlines()
            self._add_event(lines)
            tied = belongs_to(self._workdir, lines)
            self._checkpoints.save(line["epoch"], state, line["validation_mAP"], tied)

    def _add_event(self, all_lines: list[str]) -> None:
        """Writes the numbers of an epoch for TensorBoard; at first also those of earlier epochs.

        Args:
          all_lines: the lines of `metrics.jsonl` up to this epoch.
        """
        # Imported late: it imports PyTorch if it is installed, which takes seconds.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        lines = all_lines[-1:]
        if self._events is None:
            for old in self._workdir.event_paths:
                old.unlink()
            # A SummaryWriter would write in a thread, which loses the errors of a full disk.
            self._events = EventsWriter(str(self._workdir.path / "events"))
            lines = all_lines
        for of_epoch in map(json.loads, lines):
            for field in of_epoch.keys() - {"epoch", "step"}:
                if of_epoch[field] is not None:
                    summary = scalar(field, of_epoch[field])
                    event = Event(wall_time=time.time(), step=of_epoch["epoch"], summary=summary)
                    self._events.write_event(event)
        self._events.flush()

    @processes.alone
    def wait(self) -> None:
        """Waits until all epochs of `finish_epoch` are on the disk."""
        with self._writing():
            self._checkpoints.wait()

    @processes.alone
    def save_interrupted(self, state: State) -> None:
        """Saves a state within an epoch, from which the run can continue."""
        with self._writing():
            tied = belongs_to(self._workdir, self._lines())
            self._checkpoints.save_interrupted(state, tied)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns every error in the block, such as that of a full disk, into an InputError."""
        try:
            yield
        except Exception as error:  # the file system, Orbax and tensorstore raise many kinds
            raise InputError(
                f"{self._workdir.path}: cannot write there ({first_line(error)}); the "
                "checkpoints of the epochs before are kept, so mend this and run the same command "
                "again"
            ) from error

    def _lines(self) -> list[str]:
        path = self._metrics_path
        try:
            return path.read_text().splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: cannot read it ({error}); put the run's own file back, or train in a new "
                "--workdir"
            ) from error
