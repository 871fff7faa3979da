"""Local processes that do the tasks of a plan.

Each worker shares with its parent the number of the clip that it reads. So the parent can reject a
clip that kills its worker or never ends, which happens in decoders written in C. A worker ends
when its parent is gone. `concurrent.futures` can do neither: it does not tell which clip a dead
process was reading, and its processes stay when the parent is killed.
"""

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from data_prep import permit, worker_program
from data_prep.plan import Outcome, Plan, Shard
from data_prep.working_folder import WORKING_FOLDER
from relabel_jax.errors import InputError
from relabel_jax.progress import Progress

CLIP_TIMEOUT_S = 60.0  # a hundred times the time of the slowest recording
_PROGRAM = f"import sys, {worker_program.__name__} as program; program.main(*sys.argv[1:])"
_DEATHS = 3  # deaths of workers before a clip is rejected; something else may kill a worker too
_TICK_S = 0.25


def write_shards(
    plan: Plan, pending: Sequence[Shard], *, num_workers: int | None, clip_timeout_s: float
) -> None:
    """Does the pending tasks with processes on this machine and shows the progress.

    Args:
      plan: the plan.
      pending: the tasks to do.
      num_workers: number of processes; by default the number of cores.
      clip_timeout_s: a clip that takes longer is rejected.

    Raises:
      InputError: see `Workers.write_shards`.
    """
    num_workers = min(num_workers or os.cpu_count() or 1, len(pending))
    num_clips = sum(plan.clips(shard).num_rows for shard in pending)
    with (
        Progress(f"reading with {num_workers} workers", num_clips, "clips") as progress,
        Workers(plan, num_workers=num_workers, clip_timeout_s=clip_timeout_s) as workers,
    ):
        workers.write_shards(pending, progress.update)


class Workers:
    """Up to `num_workers` processes, which are started when they are needed.

    A context manager: it kills the processes at the end.

    Args:
      plan: the plan whose tasks the processes do.
      num_workers: the largest number of processes.
      clip_timeout_s: a clip that takes longer is rejected.
      tick_s: the longest time between two checks of the workers.
      build_permit: the permit of the build; by default that of the build that has locked the folder
        (permit.py).
    """

    def __init__(
        self,
        plan: Plan,
        *,
        num_workers: int,
        clip_timeout_s: float = CLIP_TIMEOUT_S,
        tick_s: float = _TICK_S,
        build_permit: str | None = None,
    ):
        self._plan = plan
        self._permit = (
            permit.current(plan.data_dir / WORKING_FOLDER) if build_permit is None else build_permit
        )
        self._num_workers = num_workers
        self._clip_timeout_s = clip_timeout_s
        self._tick_s = tick_s
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

        If a worker dies, another one starts its shard again. If workers die three times while they
        read the same clip, the clip is rejected (`crash`). A clip that takes longer than
        `clip_timeout_s` is rejected at once (`timeout`).

        Args:
          pending: the tasks to do.
          on_clips: called with the number of clips that were done since the last call. The number
            is negative if a shard is started again.

        Raises:
          InputError: a shard cannot be written, or workers die while they read no clip.
        """
        waiting = collections.deque(pending)
        casualties = _Casualties()
        before_s = time.monotonic()
        while waiting or self._busy:
            while waiting and len(self._busy) < self._num_workers:
                worker = self._idle.pop() if self._idle else _Worker(self._plan.data_dir)
                shard = waiting.popleft()
                num_clips = self._plan.clips(shard).num_rows
                fatal = casualties.fatal[shard.number]
                worker.begin(shard, num_clips, fatal, self._permit)
                self._busy[worker.connection] = worker
            ready = multiprocessing.connection.wait(
                [each.connection for each in self._busy.values()], self._tick_s
            )
            now_s = time.monotonic()
            # If this process itself was stopped (Ctrl-Z, a busy machine), the time counts little.
            passed_s, before_s = min(now_s - before_s, 2 * self._tick_s), now_s
            for worker in self._busy.values():
                self._look_at(worker, passed_s, casualties, on_clips)
            for connection in ready:
                worker = self._busy[connection]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    del self._busy[connection]
                    on_clips(-(worker.position or 0))
                    waiting.appendleft(worker.shard)
                    casualties.died(worker, worker.dead())
                    continue
                match message:
                    case Outcome():
                        on_clips(worker.num_clips - (worker.position or 0))
                        self._idle.append(self._busy.pop(connection))
                    case Exception():
                        raise message

    def _look_at(
        self,
        worker: "_Worker",
        passed_s: float,
        casualties: "_Casualties",
        on_clips: Callable[[int], None],
    ) -> None:
        """Notes the progress of a worker, and kills the worker if its clip takes too long."""
        position, worker.position = worker.position, worker.shared_position
        worker.silent_s += passed_s
        if worker.position != position:
            on_clips((worker.position or 0) - (position or 0))
            worker.silent_s = 0
            casualties.progress()
        if worker.silent_s > self._clip_timeout_s and worker.open_clip:
            what = f"was not read within {self._clip_timeout_s:g} s"
            casualties.reject(worker.open_clip, "timeout", what)
            worker.process.kill()  # which closes its end of the pipe


class _Casualties:
    """Counts the deaths of workers and finds the clips that cause them.

    Attributes:
      fatal: the reason and detail of each rejected clip, by number of its shard and its position.
    """

    def __init__(self) -> None:
        self.fatal: dict[int, dict[int, tuple[str, str]]] = collections.defaultdict(dict)
        # By shard and position; None is for deaths of workers before they open their first clip.
        self._deaths: collections.Counter[tuple[int, int] | None] = collections.Counter()

    def progress(self) -> None:
        """Notes that a worker opened a clip. So workers do not die when they start."""
        self._deaths[None] = 0

    def died(self, worker: "_Worker", how: str) -> None:
        """Counts the death of a worker.

        Raises:
          InputError: it is the third death, and the worker was reading no clip.
        """
        self._deaths[worker.place] += 1
        if self._deaths[worker.place] != _DEATHS:
            return
        if not worker.open_clip:
            raise InputError(
                f"workers die while no clip is open ({how}); if memory is short, use a smaller "
                "--num_workers; the same command continues from here"
            )
        detail = f"killed the process that read it {_DEATHS} times ({how})"
        self.reject(worker.open_clip, "crash", detail)

    def reject(self, clip: tuple[int, int], reason: str, detail: str) -> None:
        """Rejects a clip if it is not rejected already."""
        shard, position = clip
        self.fatal[shard].setdefault(position, (reason, detail))


class _Worker:
    """A worker process with its pipe and its current task."""

    def __init__(self, data_dir: pathlib.Path):
        # Not forked, because the libraries that are loaded here have threads. Not a process of
        # multiprocessing, because a cluster's worker may be one that must not start others.
        with tempfile.TemporaryFile() as memory:
            self._position = worker_program.shared_position(memory.fileno())
            self._position.value = worker_program.NO_CLIP
            self.connection, far_end = multiprocessing.Pipe()
            with far_end:
                shared = [far_end.fileno(), memory.fileno()]
                arguments = map(str, (data_dir, os.getpid(), *shared))
                self.process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, *arguments],
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                    pass_fds=shared,
                    stdin=subprocess.DEVNULL,
                )

    def begin(
        self, shard: Shard, num_clips: int, fatal: dict[int, tuple[str, str]], build_permit: str
    ) -> None:
        """Gives the worker a task."""
        self.shard = shard
        self.num_clips = num_clips
        self.position: int | None = None
        self._position.value = worker_program.NO_CLIP
        self.silent_s = 0.0
        with contextlib.suppress(OSError):  # it died while idle; the next receive will show that
            self.connection.send((shard, fatal, build_permit))

    @property
    def shared_position(self) -> int | None:
        """The position in the shard of the clip that the worker reads now.

        It is None before the first clip, and the number of clips after the last one.
        """
        value = self._position.value
        return None if value == worker_program.NO_CLIP else value

    @property
    def place(self) -> tuple[int, int] | None:
        """The number of the shard and `position`; None before the first clip."""
        return None if self.position is None else (self.shard.number, self.position)

    @property
    def open_clip(self) -> tuple[int, int] | None:
        """The same as `place`, but None after the last clip too."""
        return None if self.position == self.num_clips else self.place

    def dead(self) -> str:
        """Waits until the process has ended, and returns how it ended."""
        code = self.process.wait()
        self.connection.close()
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"
