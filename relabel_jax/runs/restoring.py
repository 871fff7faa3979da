"""Restores the state of a checkpoint and checks it, whatever happened to the files."""

import contextlib
import logging
import pathlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from relabel_jax import digests
from relabel_jax.errors import InputError

State = Any
"""Everything that training changes: a pytree with a `step`; see `train/step.py`."""

TRAIN_AGAIN = "train it again in a new --workdir"


def read_state(
    manager: ocp.CheckpointManager, number: int, like: State | None, expected: str | None = None
) -> Any:
    """Reads a state of a checkpoint and compares it with the digest that the checkpoint holds.

    Args:
      manager: Orbax's manager of the checkpoint.
      number: the number of the checkpoint.
      like: a state with the shapes and dtypes to restore; None for nested dicts of any arrays.
      expected: another digest that the state must have; None if there is none.

    Raises:
      InputError: the checkpoint is gone or damaged, or its state has another digest.
    """
    path = pathlib.Path(manager.directory) / str(number)
    try:
        with quiet(), without_abandoned_calls():
            state = manager.restore(number, args=ocp.args.StandardRestore(like))
        recorded = digests.of_checkpoint(path).get("state")
    except Exception as error:  # tensorstore, JSON and file errors of many kinds
        # Orbax abandons the coroutines of other arrays. Python would warn of them later.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        reason = first_line(error)
        what = f"it is damaged or of another network ({reason})" if path.is_dir() else "it is gone"
        raise InputError(
            f"{path}: cannot restore this checkpoint; {what}; {TRAIN_AGAIN}"
        ) from error
    known = {"the one that it was saved with": recorded, "that of the state tested": expected}
    if not any(known.values()):  # saves the time
        return state
    found = state_digest(state)
    for whose, digest in known.items():
        if digest is not None and digest != found:
            raise InputError(
                f"{path}: cannot restore this checkpoint; it is damaged or was exchanged (its "
                f"digest is not {whose}); {TRAIN_AGAIN}"
            )
    return state


def state_digest(state: State) -> str:
    """Returns the digest of a state: the same for a `TrainState` and for nested dicts."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return digests.of_arrays(
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves
    )


def first_line(error: Exception) -> str:
    """Returns the first line of an error, without the specification that tensorstore appends."""
    return f"{error}\n".splitlines()[0].partition(" [tensorstore_spec")[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences absl's log within the block.

    Orbax writes to it: warnings of settings that it made itself, and errors that it raises too.
    """
    logger = absl_logging.get_absl_logger()
    level = logger.level
    logger.setLevel(max(level, logging.CRITICAL))
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def without_abandoned_calls() -> Iterator[None]:
    """Ignores the errors of reads and writes that Orbax has abandoned within the block.

    Orbax raises the first error and closes its event loop. Each of the other reads or writes then
    raises an error in a thread of tensorstore, where nobody can catch it, or leaves a task to
    asyncio, which logs its error. They end later than the block, so after an error they are ignored
    from then on.
    """
    hook = sys.unraisablehook
    logger = logging.getLogger("asyncio")

    def without_closed_loops(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    def is_retrieved(record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()

    sys.unraisablehook = without_closed_loops
    logger.addFilter(is_retrieved)
    yield
    sys.unraisablehook = hook
    logger.removeFilter(is_retrieved)
