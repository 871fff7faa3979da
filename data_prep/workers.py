"""Local processes that do the tasks of a plan.

`concurrent.futures` cannot say which clip a dead process was at, and leaves its processes behind
when it is killed itself. Here each worker shares a number with its parent, the clip that it opens,
so that a clip that kills its worker or never ends (the decoders are C) is known and left out; and
it stops when its parent is gone.
"""

import collections
import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import time
import traceback
from collections.abc import Callable, Sequence

from data_prep.shards import Outcome, Plan, Shard, write_shard
from relabel_jax.errors import InputError

CLIP_TIMEOUT_S = 60.0  # a hundred times what the slowest recording takes
_DEATHS = 3  # so many times a clip may kill its worker; a worker may also be killed from outside
_TICK_S = 0.25
_NO_CLIP = -1


class Workers:
    """Up to `num_workers` processes, started as they are needed; a context manager ends them."""

    def __init__(self, plan: Plan, *, num_workers: int, clip_timeout_s: float = CLIP_TIMEOUT_S):
        self._plan = plan
        self._num_workers = num_workers
        self._clip_timeout_s = clip_timeout_s
        self._idle: list[_Worker] = []
        self._busy: dict[object, _Worker] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.process.kill()
            worker.dead()

    def write_shards(self, pending: Sequence[Shard], on_clips: Callable[[int], None]) -> None:
        """Does the pending tasks.

        A worker that dies is replaced and its shard begun again. A clip that is open when its
        worker dies for the third time is rejected (`crash`), and at once one that takes longer than
        `clip_timeout_s` (`timeout`).

        Args:
          pending: the tasks to do.
          on_clips: told how many clips are done; a negative number when a shard is begun again.

        Raises:
          InputError: a shard cannot be written, or the workers die while no clip is open.
        """
        waiting = collections.deque(pending)
        # By shard and position; those before the first clip together, until a clip is opened.
        deaths: collections.Counter[tuple[int, int] | None] = collections.Counter()
        # Reason and detail, by shard and position.
        fatal: dict[int, dict[int, tuple[str, str]]] = collections.defaultdict(dict)
        before_s = time.monotonic()
        while waiting or self._busy:
            while waiting and len(self._busy) < self._num_workers:
                worker = self._idle.pop() if self._idle else _Worker(self._plan.data_dir)
                shard = waiting.popleft()
                worker.begin(shard, self._plan.clips(shard).num_rows, fatal[shard.number])
                self._busy[worker.connection] = worker
            ready = multiprocessing.connection.wait(
                [each.connection for each in self._busy.values()], _TICK_S
            )
            now_s = time.monotonic()
            # The time that this process itself was stopped (Ctrl-Z, a busy machine) counts little.
            passed_s, before_s = min(now_s - before_s, 2 * _TICK_S), now_s
            for worker in self._busy.values():
                position, worker.position = worker.position, worker.shared_position
                worker.silent_s += passed_s
                if worker.position != position:
                    on_clips((worker.position or 0) - (position or 0))
                    worker.silent_s = 0
                    deaths[None] = 0
                if worker.silent_s > self._clip_timeout_s and (place := worker.open_clip):
                    fatal[place[0]][place[1]] = (
                        "timeout",
                        f"was not read within {self._clip_timeout_s:g} s",
                    )
                    worker.process.kill()  # and its end of the pipe closes
            for connection in ready:
                worker = self._busy[connection]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    how = worker.dead()
                    del self._busy[connection]
                    on_clips(-(worker.position or 0))
                    waiting.appendleft(worker.shard)
                    deaths[worker.place] += 1
                    if deaths[worker.place] == _DEATHS:
                        if not (place := worker.open_clip):
                            raise InputError(
                                f"workers die while no clip is open ({how}); if memory is short, "
                                "use a smaller --num_workers; the same command goes on from here"
                            ) from None
                        detail = f"killed the process that read it {_DEATHS} times ({how})"
                        fatal[place[0]].setdefault(place[1], ("crash", detail))
                    continue
                match message:
                    case Outcome():
                        on_clips(worker.num_clips - (worker.position or 0))
                        self._idle.append(self._busy.pop(connection))
                    case Exception():
                        raise message


class _Worker:
    """A process, its pipe, and what it is at."""

    def __init__(self, data_dir: pathlib.Path):
        # Not forked: the libraries that are loaded here have threads.
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        # Not through the pipe: waking up the parent for each clip takes a tenth of a clip's time.
        self._position = context.RawValue(ctypes.c_int64, _NO_CLIP)
        self.process = context.Process(
            target=_work, args=(data_dir, far_end, self._position), daemon=True
        )
        self.process.start()
        far_end.close()

    def begin(self, shard: Shard, num_clips: int, fatal: dict[int, tuple[str, str]]) -> None:
        self.shard = shard
        self.num_clips = num_clips
        self.position: int | None = None
        self._position.value = _NO_CLIP
        self.silent_s = 0.0
        with contextlib.suppress(OSError):  # it died while idle; the next receive says so
            self.connection.send((shard, fatal))

    @property
    def shared_position(self) -> int | None:
        """Of the clip in its shard that it is at, or the number of clips after the last; now."""
        value = self._position.value
        return None if value == _NO_CLIP else value

    @property
    def place(self) -> tuple[int, int] | None:
        """Number of the shard and position of the clip that it is at, once it is at one."""
        return None if self.position is None else (self.shard.number, self.position)

    @property
    def open_clip(self) -> tuple[int, int] | None:
        """The same, but None when it has read all clips of the shard."""
        return None if self.position == self.num_clips else self.place

    def dead(self) -> str:
        """Waits for its end and says how it came about."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _work(
    data_dir: pathlib.Path,
    connection: multiprocessing.connection.Connection,
    shared_position: ctypes.c_int64,
) -> None:
    """The life of a worker process: tasks in; outcomes and failures out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this
    parent = os.getppid()

    def on_clip(position: int) -> None:
        shared_position.value = position
        if os.getppid() != parent:
            raise EOFError

    try:
        plan = Plan.open(data_dir)
        # libmpg123 writes a line on stderr for every oddity of an MP3, through the progress bar.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        while True:
            shard, fatal = connection.recv()
            connection.send(write_shard(plan, shard, on_clip=on_clip, fatal=fatal))
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
