"""Checkpoints of a run by Orbax: the latest epoch, to resume from, and the best epoch, to use.

One process writes them, from arrays on the host. A run that is stopped within an epoch writes one
more checkpoint, whose number counts steps.

Each checkpoint holds a digest of its state (`digests.py`), which is compared at every restore.
Orbax completes both together. Checkpoints of older versions have no digest.
"""

import contextlib
import logging
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.files import read_json
from relabel_jax.runs.restoring import (
    TRAIN_AGAIN,
    State,
    first_line,
    quiet,
    read_state,
    state_digest,
    without_abandoned_calls,
)
from relabel_jax.runs.workdir import Workdir

_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run. The number of a checkpoint is the number of epochs done.

    Args:
      workdir: the run folder.
      read_only: nothing is written. Otherwise checkpoints that Orbax cannot list are set aside.

    Raises:
      InputError: the checkpoints cannot be listed.
    """

    def __init__(self, workdir: Workdir, read_only: bool = False):
        self._workdir = workdir
        self._path = workdir.checkpoints_path.absolute()
        self._interrupted_path = workdir.interrupted_path.absolute()
        # `max_to_keep` with `best_fn` would delete the latest checkpoint if it is not the best. A
        # checkpoint without metrics is left when a kill interrupts its deletion.
        best = preservation_policy.BestN(
            get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False
        )
        keep = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(n=1), best])
        if not read_only:
            self._path.mkdir(parents=True, exist_ok=True)
            self._set_aside_unlistable()
        self._manager = _manager(
            self._path,
            preservation_policy=keep,
            best_fn=_rank,  # without it, Orbax does not write the metrics
            cleanup_tmp_directories=not read_only,
        )
        self._open = contextlib.ExitStack()
        self._open.enter_context(without_abandoned_calls())
        self._open.callback(self._manager.close)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self._open.__exit__(*error)

    @property
    def latest(self) -> int | None:
        """The latest epoch that has a checkpoint; None if there is none."""
        return max(self.epochs, default=None)

    @property
    def epochs(self) -> list[int]:
        """The epochs that have a checkpoint."""
        self.wait()
        return list(self._manager.all_steps())

    def wait(self) -> None:
        """Waits until everything that was saved is on the disk."""
        self._manager.wait_until_finished()

    def save(
        self,
        epoch: int,
        state: State,
        validation_map: float,
        belongs_to: Mapping[str, str] | None = None,
    ) -> None:
        """Saves in the background. A checkpoint is complete under its name, or absent.

        Args:
          epoch: the number of epochs done.
          state: the state after the epoch, on the host.
          validation_map: the mAP on the validation clips.
          belongs_to: digests of what the checkpoint belongs to, which `recorded` returns.
        """
        self._manager.save(
            epoch,
            args=ocp.args.StandardSave(state),
            metrics=_metrics(epoch, validation_map),
            custom_metadata=_metadata(state, belongs_to),
        )
        if self._interrupted_path.is_dir():  # its state is older than this epoch
            self.wait()
            self.forget_interrupted()

    def restore(self, epoch: int, like: State) -> State:
        """Reads the state after `epoch`, on the host, with the shapes and dtypes of `like`."""
        self.wait()
        return read_state(self._manager, epoch, like)

    def restore_arrays(self, epoch: int, expected: str | None = None) -> Any:
        """Reads the state after `epoch` as nested dicts of NumPy arrays of any shapes.

        Args:
          epoch: the number of epochs done.
          expected: the digest that the state must have; None if it is not known.
        """
        return read_state(self._manager, epoch, None, expected)

    def recorded(self, epoch: int) -> dict[str, str]:
        """The digests that a checkpoint holds: of its `state`, and those of `belongs_to`."""
        return digests.of_checkpoint(self._path / str(epoch))

    def problem(self, epoch: int, validation_map: float) -> str | None:
        """Reads a checkpoint; returns the reason if it cannot be used, else None.

        Args:
          epoch: the number of epochs done.
          validation_map: the mAP that it must have been saved with. Orbax ranks by the mAP in the
            checkpoint, so with another one it would keep the wrong epoch.
        """
        try:
            self.restore_arrays(epoch)
        except InputError as error:
            return str(error).removesuffix(f"; {TRAIN_AGAIN}")
        if self._manager.metrics(epoch) != _metrics(epoch, validation_map):
            return f"{self._path / str(epoch)}: its mAP is not the one in the line of its epoch"
        return None

    def set_aside(self, epoch: int) -> None:
        """Moves a checkpoint away from the others. Nothing is deleted, as a disk may recover."""
        self._move_to_damaged(self._path / str(epoch))
        self._manager.reload()

    def _set_aside_unlistable(self) -> None:
        """Sets checkpoints aside whose JSON files are damaged. Orbax cannot even list them.

        Raises:
          InputError: no other checkpoint is left.
        """
        found = [path for path in self._path.iterdir() if path.name.isdecimal()]
        problems = {path: problem for path in found if (problem := _unlistable(path))}
        if problems and len(problems) == len(found):
            raise InputError(f"{problems[found[0]]}; {TRAIN_AGAIN}")
        for path, problem in problems.items():
            _LOG.warning("%s; moved to %s", problem, self._workdir.damaged_path)
            self._move_to_damaged(path)

    def _move_to_damaged(self, path: pathlib.Path) -> None:
        target = self._workdir.damaged_path / path.name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)

    @property
    def interrupted(self) -> int | None:
        """The steps done in the state of `save_interrupted`; None if there is no such state."""
        if not self._interrupted_path.is_dir():
            return None
        with _manager(self._interrupted_path) as manager:
            return manager.latest_step()

    def save_interrupted(self, state: State, belongs_to: Mapping[str, str] | None = None) -> None:
        """Saves a state within an epoch. It is complete under its name, or absent.

        Args:
          state: the state, on the host.
          belongs_to: see `save`.
        """
        self._interrupted_path.mkdir(exist_ok=True)
        with _manager(
            self._interrupted_path, max_to_keep=1, enable_async_checkpointing=False
        ) as manager:
            if manager.latest_step() == state.step:  # the run was stopped again before a step
                return
            step = int(state.step)
            arguments = ocp.args.StandardSave(state)
            metadata = _metadata(state, belongs_to)
            if not manager.save(step, args=arguments, custom_metadata=metadata):
                raise OSError(f"{self._interrupted_path} has a later step than {state.step}")

    def forget_interrupted(self) -> None:
        """Deletes the state of `save_interrupted`."""
        shutil.rmtree(self._interrupted_path)

    def restore_interrupted(self, step: int, like: State) -> State:
        """Reads the state of `save_interrupted`."""
        with _manager(self._interrupted_path) as manager:
            return read_state(manager, step, like)

    def recorded_of_interrupted(self, step: int) -> dict[str, str]:
        """The digests that the state of `save_interrupted` holds; see `recorded`."""
        return digests.of_checkpoint(self._interrupted_path / str(step))

    def problem_of_interrupted(self, step: int) -> str | None:
        """Returns the reason if the state of `save_interrupted` cannot be used, else None."""
        try:
            self.restore_interrupted(step, None)
        except InputError as error:
            return str(error).removesuffix(f"; {TRAIN_AGAIN}")
        return None


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its use of JAX's preemption service."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False. Orbax's own method would report `step`, an epoch, to the service.

        The service counts chunks (`processes.until_terminated`). If process 0 reported a number
        that is too low, the processes could agree to stop at a chunk that process 0 has passed
        already. Process 0 would then continue and wait for the others for ever.
        """
        return False


def _manager(path: pathlib.Path, **options) -> ocp.CheckpointManager:
    # Orbax's option `read_only` is left out, because it logs warnings at every use. A manager that
    # only restores writes nothing without it.
    # Only one of several processes calls this. Without these options Orbax waits for all of them.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    try:
        with quiet():
            return _Manager(
                path,
                options=ocp.CheckpointManagerOptions(
                    create=False, multiprocessing_options=alone, **options
                ),
            )
    except Exception as error:  # JSON and file errors of many kinds
        what = first_line(error)
        raise InputError(f"{path}: cannot list the checkpoints ({what}); {TRAIN_AGAIN}") from error


def _metadata(state: State, belongs_to: Mapping[str, str] | None) -> dict[str, Any]:
    """Returns the custom metadata of a checkpoint."""
    return {digests.KEY: {**(belongs_to or {}), "state": state_digest(state)}}


def _metrics(epoch: int, validation_map: float) -> dict[str, float]:
    """Returns the metrics of a checkpoint, by which Orbax ranks it."""
    return {"validation_mAP": validation_map, "epoch": epoch}


def _unlistable(path: pathlib.Path) -> str | None:
    """Returns the reason if Orbax cannot list a checkpoint because of its JSON files."""
    metrics = path / "metrics" / "metrics"  # Orbax's names
    try:
        digests.of_checkpoint(path)
        if metrics.exists():  # it is absent if a kill interrupted the deletion of the checkpoint
            _rank(read_json(metrics)) < (0.0, 0.0)  # noqa: B015
    except (InputError, KeyError, TypeError) as error:
        return f"{path}: is damaged ({first_line(error)})"
    return None


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Ranks by validation mAP. If several are equal, the earliest epoch is the best."""
    return metrics["validation_mAP"], -metrics["epoch"]
