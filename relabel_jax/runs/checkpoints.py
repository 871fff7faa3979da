"""Checkpoints of a run by Orbax: the latest epoch, to resume from, and the best epoch, to use.

One process writes them, from arrays on the host. A run that is stopped within an epoch writes one
more checkpoint, whose number counts steps.
"""

import contextlib
import logging
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint.checkpoint_managers import preservation_policy

from relabel_jax.errors import InputError
from relabel_jax.runs.workdir import Workdir

State = Any
"""Everything that training changes: a pytree with a `step`; see `train/step.py`."""


class Checkpoints:
    """The checkpoints of a run. The number of a checkpoint is the number of epochs done."""

    def __init__(self, workdir: Workdir, read_only: bool = False):
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
        self._manager = _manager(
            self._path,
            preservation_policy=keep,
            best_fn=_rank,  # without it, Orbax does not write the metrics
            cleanup_tmp_directories=not read_only,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The latest epoch that has a checkpoint; None if there is none."""
        self.wait()
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until everything that was saved is on the disk."""
        self._manager.wait_until_finished()

    def save(self, epoch: int, state: State, validation_map: float) -> None:
        """Saves in the background. A checkpoint is complete under its name, or absent.

        Args:
          epoch: the number of epochs done.
          state: the state after the epoch, on the host.
          validation_map: the mAP on the validation clips.
        """
        self._manager.save(
            epoch,
            args=ocp.args.StandardSave(state),
            metrics={"validation_mAP": validation_map, "epoch": epoch},
        )
        if self._interrupted_path.is_dir():  # its state is older than this epoch
            self.wait()
            self.forget_interrupted()

    def restore(self, epoch: int, like: State) -> State:
        """Reads the state after `epoch`, on the host, with the shapes and dtypes of `like`."""
        self.wait()
        return _read(self._manager, epoch, like)

    def restore_arrays(self, epoch: int) -> Any:
        """Reads the state after `epoch` as nested dicts of NumPy arrays of any shapes."""
        return _read(self._manager, epoch, None)

    @property
    def interrupted(self) -> int | None:
        """The steps done in the state of `save_interrupted`; None if there is no such state."""
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
            if manager.latest_step() == state.step:  # the run was stopped again before a step
                return
            if not manager.save(int(state.step), args=ocp.args.StandardSave(state)):
                raise OSError(f"{self._interrupted_path} has a later step than {state.step}")

    def forget_interrupted(self) -> None:
        """Deletes the state of `save_interrupted`."""
        shutil.rmtree(self._interrupted_path)

    def restore_interrupted(self, step: int, like: State) -> State:
        """Reads the state of `save_interrupted`."""
        with _manager(self._interrupted_path) as manager:
            return _read(manager, step, like)


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
    with _without_warnings():  # Orbax warns of settings that it made itself
        return _Manager(
            path,
            options=ocp.CheckpointManagerOptions(
                create=False, multiprocessing_options=alone, **options
            ),
        )


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences the warnings of absl's log, which Orbax writes to, within the block."""
    logger = absl_logging.get_absl_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
    """Returns a hook that ignores the errors of reads that Orbax has abandoned.

    Orbax stops at the first error and closes its event loop. Each of the other reads then raises
    an error in a thread of tensorstore, where nobody can catch it.
    """

    def without_closed_loops(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return without_closed_loops


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """Ranks by validation mAP. If several are equal, the earliest epoch is the best."""
    return metrics["validation_mAP"], -metrics["epoch"]
