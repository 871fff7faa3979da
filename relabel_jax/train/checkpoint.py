"""Checkpoints of a run by Orbax: the latest epoch, to go on from, and the best, to use."""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from relabel_jax.errors import InputError
from relabel_jax.train.step import TrainState


class Checkpoints:
    """The `checkpoints/` folder of a workdir; numbers are epochs done."""

    def __init__(self, workdir: pathlib.Path, read_only: bool = False):
        self._path = (workdir / "checkpoints").absolute()
        # `max_to_keep` with `best_fn` would delete the newest when it is not among the best.
        keep = preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(n=1), preservation_policy.BestN(get_metric_fn=_rank, n=1)]
        )
        self._manager = ocp.CheckpointManager(
            self._path,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=keep,
                best_fn=_rank,  # without one the metrics are not written
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest complete epoch, None before the first."""
        return self._manager.latest_step()

    def save(self, epoch: int, state: TrainState, validation_map: float) -> None:
        """Saves in the background; complete under its name or not there."""
        self._manager.save(
            epoch,
            args=ocp.args.StandardSave(state),
            metrics={"validation_mAP": validation_map, "epoch": epoch},
        )

    def restore(self, epoch: int, like: TrainState) -> TrainState:
        """The state after `epoch`, with the shapes, dtypes and placement of `like`."""
        self._manager.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._read(epoch, abstract)

    def restore_arrays(self, epoch: int) -> Any:
        """The same as nested dicts of NumPy arrays, whatever their shapes."""
        return self._read(epoch, None)

    def _read(self, epoch: int, abstract: Any) -> Any:
        hook = sys.unraisablehook
        sys.unraisablehook = _silence_abandoned_reads(hook)
        try:
            state = self._manager.restore(epoch, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # tensorstore, JSON and file errors of many kinds
            reason = f"{error}\n".splitlines()[0].partition(" [tensorstore_spec")[0]
            raise InputError(
                f"{self._path / str(epoch)}: cannot restore this checkpoint; it is damaged or of "
                f"another network ({reason}); train it again in a new --workdir"
            ) from error
        sys.unraisablehook = hook
        return state


def _silence_abandoned_reads(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A hook that leaves out what Orbax's own haste causes.

    It gives up at the first error and closes its event loop. Every other read then raises, now or
    later, in a thread of tensorstore where nobody can catch it.
    """

    def without_closed_loops(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return without_closed_loops


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """The highest validation mAP is the best; of equals the earliest epoch."""
    return metrics["validation_mAP"], -metrics["epoch"]
