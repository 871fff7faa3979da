"""Several processes (hosts) that train as one.

Only process 0 reads and writes run folders. It sends the other processes the facts that they need.
With a single process the functions call their argument and return its result.
"""

import contextlib
import functools
import itertools
import json
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from relabel_jax.errors import InputError, ProcessFailed

_LOG = logging.getLogger(__name__)
# A process that sends no heartbeat for this number of seconds counts as dead. A process whose
# connection breaks counts as dead at once.
_HEARTBEAT_TIMEOUT_S = 60
# JAX's preemption service needs numbers that increase by one and are the same in all processes.
_CHUNKS_DONE = itertools.count()
_P = ParamSpec("_P")
_T = TypeVar("_T")


def connect(coordinator_address: str, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes. Must be called before JAX is used in any other way.

    Args:
      coordinator_address: HOST:PORT of process 0, or `auto` on a TPU pod or under SLURM, Open MPI
        or Kubernetes, which know all three values.
      num_processes: the number of processes; None with `auto`.
      process_id: the number of this process, from 0; None with `auto`.

    Raises:
      InputError: the flags do not fit, or the processes do not find each other.
    """
    is_auto = coordinator_address == "auto"
    if is_auto != (num_processes is None) or is_auto != (process_id is None):
        raise InputError(
            "--coordinator_address=HOST:PORT goes with --num_processes and --process_id, and "
            "--coordinator_address=auto with neither"
        )
    if num_processes is not None and process_id is not None and not process_id < num_processes:
        raise InputError(f"--process_id={process_id} is not below --num_processes={num_processes}")
    jax.config.update("jax_enable_preemption_service", True)
    try:
        jax.distributed.initialize(
            None if is_auto else coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"--coordinator_address={coordinator_address}: the processes do not find each other "
            f"({what}); start all of them, with the same address and number"
        ) from error
    _LOG.info(
        "process %d of %d, %d devices", jax.process_index(), jax.process_count(), len(jax.devices())
    )


def are_several() -> bool:
    """Whether several processes train as one."""
    return jax.process_count() > 1


def is_primary() -> bool:
    """Whether this process reads and writes run folders."""
    return jax.process_index() == 0


def from_primary(function: Callable[[], Any]) -> Any:
    """Calls a function in process 0 alone, and returns its result in all processes.

    Args:
      function: returns a value that JSON can hold. With several processes the value is converted
        to JSON and back.

    Raises:
      InputError: in all processes, if the function raises it.
    """
    if jax.process_count() == 1:
        return function()
    answer: dict[str, Any] = {}
    if is_primary():
        try:
            answer = {"value": function()}
        except InputError as error:
            answer = {"error": str(error)}
    text = np.frombuffer(json.dumps(answer).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = multihost_utils.broadcast_one_to_all(text if is_primary() else np.zeros(length, "u1"))
    answer = json.loads(np.asarray(text).tobytes())
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]


def on_primary(action: Callable[[], None]) -> None:
    """Calls a function in process 0 alone; the other processes wait for it.

    Raises:
      InputError: in all processes, if the function raises it.
    """
    from_primary(action)


def arrays_from_primary(function: Callable[[], Any], like: Any) -> Any:
    """Calls a function in process 0 alone, and returns its arrays in all processes.

    Args:
      function: returns a tree of arrays.
      like: a tree of arrays of the same shapes and dtypes.

    Raises:
      InputError: in all processes, if the function raises it.
    """
    arrays = [like]
    from_primary(lambda: arrays.append(function()))
    return multihost_utils.broadcast_one_to_all(arrays[-1])


def together(function: Callable[[], _T]) -> _T:
    """Calls a function in every process, and returns its result when all have succeeded.

    Raises:
      InputError: in all processes, if the function raises it in one of them.
    """
    value, error = None, None
    try:
        value = function()
    except InputError as caught:
        error = caught
    if not all_processes(error is None):
        raise error or InputError("another process cannot continue, see there")
    return value  # type: ignore[return-value]


def alone(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Wraps a function that one process calls while the others do something else.

    An example is a function that reads the clips of this process. With several processes the
    wrapped function raises ProcessFailed instead of InputError.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            if jax.process_count() == 1:
                raise
            raise ProcessFailed(str(error)) from error

    return wrapped


def all_processes(condition: bool) -> bool:
    """Whether a condition holds in all processes."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.array([condition]))))


def is_lost_connection(error: Exception) -> bool:
    """Whether JAX raised the error because another process is gone."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return False
    # On a CPU, JAX raises a ValueError if a program fails before the call of it has returned.
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def check_same(identity: dict[str, Any]) -> None:
    """Checks that all processes were started with the same config and data.

    Args:
      identity: values that JSON can hold, by their names in messages.

    Raises:
      InputError: in every process; the message of a process that differs names the difference.
    """
    if jax.process_count() == 1:
        return
    theirs = from_primary(lambda: identity)
    mine = json.loads(json.dumps(identity))
    names = sorted(theirs.keys() | mine.keys())
    different = [name for name in names if theirs.get(name) != mine.get(name)]
    if all_processes(not different):
        return
    if not different:
        raise InputError("another process has another config or data set than process 0, see there")
    name = different[0]
    raise InputError(
        f"process {jax.process_index()} has {name} {mine.get(name)!r} but process 0 has "
        f"{theirs.get(name)!r}; start all processes with the same config and data"
    )


@contextlib.contextmanager
def until_terminated() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells, after each chunk, whether to save and stop now.

    After a SIGTERM to any of the processes it returns True in all of them, at the same chunk. So
    every process must call it after each chunk.
    """
    if jax.process_count() > 1:
        # JAX's preemption service handles the signal.
        yield lambda: multihost_utils.reached_preemption_sync_point(next(_CHUNKS_DONE))
        return
    signals: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    except ValueError:  # Python allows signal handlers only in the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGTERM, before)
