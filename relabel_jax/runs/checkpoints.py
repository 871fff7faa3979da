"""Checkpoints of a run by Orbax: the latest epoch, to resume from, and the best, to use.

One process writes them, from arrays on the host. A run that is stopped within an epoch leaves one
more, which is numbered by steps.
"""

import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from relabel_jax.errors import InputError
from relabel_jax.runs.workdir import Workdir

State = Any
"""What training changes: a pytree with a `step`, as `train/step.py` has it."""


class Checkpoints:
    """The checkpoints of a run; numbers are epochs done."""

    def __init__(self, workdir: Workdir, read_only: bool = False):
        self._path = workdir.checkpoints_path.absolute()
        self._interrupted_path = workdir.interrupted_path.absolute()
        # `max_to_keep` with `best_fn` would delete the newest checkpoint when it is not the best. A
        # checkpoint without metrics is one whose deletion was interrupted by a kill.
        best = preservation_policy.BestN(
            get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False
        )
        keep = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(n=1), best])
        if not read_only:
            self._path.mkdir(parents=True, exist_ok=True)
        self._manager = _manager(
            self._path,
            preservation_policy=keep,
            best_fn=_rank,  # without one the metrics are not written
            cleanup_tmp_directories=not read_only,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest epoch, None before the first."""
        self.wait()
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until everything that was saved is on the disk."""
        self._manager.wait_until_finished()

    def save(self, epoch: int, state: State, validation_map: float) -> None:
        """Saves in the background. A checkpoint is complete under its name, or absent.

        Args:
          state: on the host.
        """
        self._manager.save(
            epoch,
            args=ocp.args.StandardSave(state),
            metrics={"validation_mAP": validation_map, "epoch": epoch},
        )
        if self._interrupted_path.is_dir():  # it is older than this epoch
            self.wait()
            self.forget_interrupted()

    def restore(self, epoch: int, like: State) -> State:
        """The state after `epoch`, on the host, with the shapes and dtypes of `like`."""
        self.wait()
        return _read(self._manager, epoch, like)

    def restore_arrays(self, epoch: int) -> Any:
        """The same as nested dicts of NumPy arrays, whatever their shapes."""
        return _read(self._manager, epoch, None)

    @property
    def interrupted(self) -> int | None:
        """The steps done at `save_interrupted`, or None if there is no such state."""
        if not self._interrupted_path.is_dir():
            return None
        with _manager(self._interrupted_path) as manager:
            return manager.latest_step()

    def save_interrupted(self, state: State) -> None:
        """Saves a state within an epoch. It is complete under its name, or absent."""
        self._interrupted_path.mkdir(exist_ok=True)
        with _manager(
            self._interrupted_path, max_to_keep=1, enable_async_checkpointing=False
        ) as manager:
            if manager.latest_step() == state.step:  # stopped again before another step
                return
            if not manager.save(int(state.step), args=ocp.args.StandardSave(state)):
                raise OSError(f"{self._interrupted_path} has a later step than {state.step}")

    def forget_interrupted(self) -> None:
        """Deletes the state of `save_interrupted`."""
        shutil.rmtree(self._interrupted_path)

    def restore_interrupted(self, step: int, like: State) -> State:
        """The state of `save_interrupted`."""
        with _manager(self._interrupted_path) as manager:
            return _read(manager, step, like)


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its use of JAX's preemption service."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False. Orbax's own method would report `step`, an epoch, to the service.

        The service counts chunks (`processes.until_terminated`). A number from process 0 that is
        too low could make the processes stop at a chunk that process 0 has passed. It would then go
        on and wait for the others for ever.
        """
        return False


def _manager(path: pathlib.Path, **options) -> ocp.CheckpointManager:
    # Without Orbax's option `read_only`, which warns at every use. A manager that is only read from
    # writes nothing with these options either.
    # Only one of several processes calls this. By default Orbax would wait for all of them.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    return _Manager(
        path,
        options=ocp.CheckpointManagerOptions(
            create=False, multiprocessing_options=alone, **options
        ),
    )


def _read(manager: ocp.CheckpointManager, number: int, like: State | None) -> Any:
    hook = sys.unraisablehook
    sys.unraisablehook = _silence_abandoned_reads(hook)
    try:
        state = manager.restore(number, args=ocp.args.StandardRestore(like))
    except Exception as error:  # tensorstore, JSON and file errors of many kinds
        path = manager.directory / str(number)
        reason = f"{error}\n".splitlines()[0].partition(" [tensorstore_spec")[0]
        what = f"it is damaged or of another network ({reason})" if path.is_dir() else "it is gone"
        raise InputError(
            f"{path}: cannot restore this checkpoint; {what}; train it again in a new --workdir"
        ) from error
    sys.unraisablehook = hook
    return state


def _silence_abandoned_reads(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook that ignores the errors of reads that Orbax has abandoned.

    Orbax gives up at the first error and closes its event loop. Every other read then raises, now
    or later, in a thread of tensorstore where nobody can catch it.
    """

    def without_closed_loops(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return without_closed_loops


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Ranks by validation mAP; of equal ones the earliest epoch is the best."""
    return metrics["validation_mAP"], -metrics["epoch"]
