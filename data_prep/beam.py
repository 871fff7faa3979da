"""Does the tasks of a plan on a cluster, as an Apache Beam pipeline.

A task is the number of its shard, and its results are files. So only a few numbers go through the
pipeline. The plan, the recordings and the data set must be on a file system that all machines see
under the same paths.
"""

import atexit
import collections
import contextlib
import io
import os
import pathlib
import re
import shlex
import threading
from collections.abc import Iterator, Sequence

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState, create_runner

from data_prep import permit
from data_prep.plan import Plan, Shard
from data_prep.workers import Workers
from data_prep.working_folder import WORKING_FOLDER
from relabel_jax.errors import InputError
from relabel_jax.progress import Progress

_LOOK_EVERY_S = 1.0
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"  # Beam has no short name for it


def write_shards(
    plan: Plan, pending: Sequence[Shard], *, runner: str, options: str, clip_timeout_s: float
) -> None:
    """Does the pending tasks with a Beam runner.

    Args:
      plan: the plan.
      pending: the tasks to do.
      runner: `dask`, or the name of a runner as Beam's `--runner` takes it, such as `flink`.
      options: the pipeline's options, as on a command line.
      clip_timeout_s: a clip that takes longer is rejected (`timeout`).

    Raises:
      InputError: the runner or an option does not exist, or the pipeline fails or leaves tasks
        undone.
    """
    parsed = _parsed(runner, shlex.split(options))
    build_permit = permit.current(plan.data_dir / WORKING_FOLDER)
    write_shard = _WriteShard(os.fspath(plan.data_dir), clip_timeout_s, build_permit)
    is_done = threading.Event()
    looker = threading.Thread(target=_show_progress, args=(plan, pending, runner, is_done))
    looker.start()
    try:
        pipeline = apache_beam.Pipeline(options=parsed)
        (
            pipeline
            | apache_beam.Create([shard.number for shard in pending])
            | apache_beam.Reshuffle()  # or the runner may fuse all tasks into one
            | apache_beam.ParDo(write_shard)
        )
        result = pipeline.run()
        state = result.wait_until_finish() or result.state
    except Exception as error:  # runners raise errors of many kinds
        raise InputError(f"--runner={runner}: {_gist(error)}") from error
    finally:
        is_done.set()
        looker.join()
        _end_idle_workers()
    undone = sum(plan.outcome(shard) is None for shard in pending)
    if state != PipelineState.DONE or undone:
        raise InputError(
            f"--runner={runner}: the pipeline ended {state} and left {undone} of {len(pending)} "
            "shards undone; its log says why; the same command continues from here"
        )


class _WriteShard(apache_beam.DoFn):
    """Takes shard numbers, writes shards and outcomes to the disk, and yields nothing."""

    def __init__(self, data_dir: str, clip_timeout_s: float, build_permit: str):
        self._data_dir = data_dir
        self._clip_timeout_s = clip_timeout_s
        self._permit = build_permit

    def setup(self) -> None:
        self._plan = Plan.open(pathlib.Path(self._data_dir))
        # A separate process: a recording that kills or blocks its reader costs one clip only, and
        # a runner with threads can use all cores.
        self._workers = self._idle_workers()

    def process(self, number: int) -> Iterator[None]:
        shard = self._plan.shards[number]
        if self._plan.outcome(shard) is None:  # a runner may do a task twice
            try:
                self._workers.write_shards([shard], lambda _: None)
            except BaseException:
                self._workers.__exit__()  # its process is still at the shard
                self._workers = self._idle_workers()
                raise
        return iter(())

    def teardown(self) -> None:
        _IDLE[self._data_dir, self._clip_timeout_s, self._permit].append(self._workers)

    def _idle_workers(self) -> Workers:
        """Workers that no other thread uses."""
        try:
            return _IDLE[self._data_dir, self._clip_timeout_s, self._permit].pop()
        except IndexError:
            return Workers(
                self._plan,
                num_workers=1,
                clip_timeout_s=self._clip_timeout_s,
                build_permit=self._permit,
            )


# A runner may make a new DoFn for every task. Starting a process takes seconds, so a process that
# has done its task waits here for the next one of its build. It ends with the process that started
# it.
_IDLE: dict[tuple[str, float, str], list[Workers]] = collections.defaultdict(list)


@atexit.register
def _end_idle_workers() -> None:
    while _IDLE:
        _, idle = _IDLE.popitem()
        for workers in idle:
            workers.__exit__()


def _parsed(runner: str, flags: Sequence[str]) -> PipelineOptions:
    """Parses the options now. Beam would do it later, and end the process if they are wrong."""
    name = _DASK if runner.lower() in ("dask", "daskrunner") else runner
    try:
        create_runner(name)  # imports the runner, whose options Beam knows only then
    except Exception as error:
        raise InputError(f"--runner={runner}: {_gist(error)}") from error
    if name == _DASK and "--dask_npartitions" not in " ".join(flags):
        # By default up to 128 tasks are one partition, which one worker does.
        flags = ["--dask_partition_size=1", *flags]
    options = PipelineOptions([*flags, f"--runner={name}"])
    with contextlib.redirect_stderr(io.StringIO()) as usage:
        try:
            options.get_all_options()
        except SystemExit as error:
            what = usage.getvalue().strip().rpartition("error: ")[2]
            raise InputError(f"--beam_options: {what}") from error
    return options


def _show_progress(
    plan: Plan, pending: Sequence[Shard], runner: str, is_done: threading.Event
) -> None:
    """Counts finished shards until `is_done`, because not every runner reports its progress."""
    undone = list(pending)
    num_clips = sum(plan.clips(shard).num_rows for shard in undone)
    with Progress(runner, num_clips, "clips") as progress:
        while True:
            is_last = is_done.wait(_LOOK_EVERY_S)
            for shard in [each for each in undone if plan.outcome(each) is not None]:
                undone.remove(shard)
                progress.update(plan.clips(shard).num_rows)
            if is_last:
                return


def _gist(error: Exception) -> str:
    """Returns the essential line of a runner's message, which may contain a traceback."""
    text = re.sub(r" \[while running .*?\]$", "", str(error).strip(), flags=re.DOTALL)
    lines = [line.strip() for line in text.splitlines()] or [type(error).__name__]
    input_errors = [line for line in lines if "InputError: " in line]
    return input_errors[-1].partition("InputError: ")[2] if input_errors else lines[-1]
