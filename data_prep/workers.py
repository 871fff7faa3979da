"""Local processes that do the tasks of a plan.

`concurrent.futures` cannot say which clip a dead process was at, and leaves its processes behind
when it is killed itself. Here each worker has a pipe: it says which clip it opens, so that a clip
that kills its worker (the decoders are C) is known and left out; and without a reader at the
other end of the pipe it stops.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import traceback
from collections.abc import Callable, Sequence

from data_prep.shards import Outcome, Plan, Shard, write_shard
from relabel_jax.errors import InputError

_DEATHS = 3  # so many times a clip may kill its worker; a worker may also be killed from outside


def write_shards(
    plan: Plan,
    pending: Sequence[Shard],
    *,
    num_workers: int,
    on_clips: Callable[[int], None],
) -> None:
    """Does the pending tasks with `num_workers` processes.

    A worker that dies is replaced and its shard begun again; a clip that is open when its worker
    dies for the third time is rejected (`crash`).

    Args:
      plan: the plan.
      pending: the tasks to do.
      num_workers: at most so many processes.
      on_clips: told how many clips are done; a negative number when a shard is begun again.

    Raises:
      InputError: a shard cannot be written, or the workers die before they open a clip.
    """
    waiting = collections.deque(pending)
    deaths: collections.Counter[tuple[int, int | None]] = collections.Counter()
    fatal: dict[int, dict[int, str]] = collections.defaultdict(dict)  # by shard, then position
    idle: list[_Worker] = []
    busy: dict[object, _Worker] = {}
    try:
        while waiting or busy:
            while waiting and len(busy) < num_workers:
                worker = idle.pop() if idle else _Worker(plan.data_dir)
                worker.begin(waiting.popleft(), fatal)
                busy[worker.connection] = worker
            for connection in multiprocessing.connection.wait(
                [each.connection for each in busy.values()]
            ):
                worker = busy[connection]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    how = worker.dead()
                    del busy[connection]
                    on_clips(-(worker.position or 0))
                    waiting.appendleft(worker.shard)
                    place = (worker.shard.number, worker.position)
                    deaths[place] += 1
                    if deaths[place] == _DEATHS:
                        if worker.position is None:
                            raise InputError(
                                f"workers die as they start ({how}); if memory is short, use a "
                                "smaller --num_workers; the same command goes on from here"
                            ) from None
                        fatal[worker.shard.number][worker.position] = (
                            f"killed the process that read it {_DEATHS} times ({how})"
                        )
                    continue
                match message:
                    case int(position):
                        on_clips(position - (worker.position or 0))
                        worker.position = position
                    case Outcome():
                        on_clips(plan.clips(worker.shard).num_rows - (worker.position or 0))
                        idle.append(busy.pop(connection))
                    case Exception():
                        raise message
    finally:
        for worker in (*idle, *busy.values()):
            worker.process.kill()
            worker.dead()


class _Worker:
    """A process, its pipe, and what it is at."""

    def __init__(self, data_dir: pathlib.Path):
        # Not forked: the libraries that are loaded here have threads.
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=_work, args=(data_dir, far_end), daemon=True)
        self.process.start()
        far_end.close()

    def begin(self, shard: Shard, fatal: dict[int, dict[int, str]]) -> None:
        self.shard = shard
        self.position: int | None = None
        with contextlib.suppress(OSError):  # it died while idle; the next receive says so
            self.connection.send((shard, fatal[shard.number]))

    def dead(self) -> str:
        """Waits for its end and says how it came about."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _work(data_dir: pathlib.Path, connection: multiprocessing.connection.Connection) -> None:
    """The life of a worker process: tasks in; clip positions, outcomes and failures out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this
    try:
        plan = Plan.open(data_dir)
        # libmpg123 writes a line on stderr for every oddity of an MP3, through the progress bar.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        while True:
            shard, fatal = connection.recv()
            connection.send(write_shard(plan, shard, on_clip=connection.send, fatal=fatal))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except InputError as error:
        failure: Exception = error
    except Exception:
        failure = RuntimeError(f"in a worker: {traceback.format_exc()}")
    try:
        connection.send(failure)
    except OSError:
        return
