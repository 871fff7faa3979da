"""Checks a built data set from end to end, and repairs it.

    python -m data_prep.verify --data_dir=DATA [--repair]

Reads all of DATA and prints what is wrong with it, a line each, `FILE: WHAT`:

- `ontology.json`, TFDS's metadata, `clips.parquet` and `rejects.csv` can be read and agree: schema,
  sample rate and length of the waveforms, number of clips by split, no clip twice, labels that are
  classes of the ontology;
- each shard can be read and has as many records as TFDS's metadata say;
- each record can be decoded, has a waveform of the right length, and is the clip of the index: id
  and original labels; `pel` and `masked` follow from them by the ontology.

ArrayRecord has a checksum for each record, so what can be read is what was written.
"""

import argparse
import contextlib
import functools
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_prep.checks import (
    Problem,
    check_rejects,
    check_shard,
    read_index,
    read_metadata,
    read_ontology,
    shard_rows,
)
from data_prep.data_set_files import write_data_set_files
from data_prep.plan import Plan
from data_prep.workers import CLIP_TIMEOUT_S, write_shards
from data_prep.working_folder import WORKING_FOLDER, working_folder
from relabel_jax import cli
from relabel_jax.data.layout import INDEX_NAME, REJECTS_NAME
from relabel_jax.errors import InputError
from relabel_jax.progress import Progress

_CLIPS_PER_PROCESS = 2_000  # a process checks so many in the time that another takes to start


def verify(data_dir: str | pathlib.Path, num_workers: int | None = None) -> list[Problem]:
    """Reads a data set from end to end.

    Args:
      data_dir: what data_prep.build wrote; its working folder is not needed.
      num_workers: number of processes; by default the number of cores.

    Returns:
      What is wrong, in the order of the files. If ontology, metadata or index cannot be read, the
      shards are not checked, because they are compared with these.

    Raises:
      InputError: `data_dir` is no folder.
    """
    data_dir = pathlib.Path(data_dir).absolute()
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; give the --output_dir of a data_prep.build")
    problems: list[Problem] = []
    ontology = read_ontology(data_dir, problems)
    of_index: list[Problem] = []
    index, waveform_format = read_index(data_dir, ontology, of_index)
    shard_lengths = read_metadata(data_dir, ontology, waveform_format, problems)
    problems += of_index
    if ontology is None or shard_lengths is None or index is None or waveform_format is None:
        return problems
    problems += check_rejects(data_dir, index)
    rows = shard_rows(data_dir, shard_lengths, index, problems)
    check = functools.partial(check_shard, data_dir, ontology, waveform_format)
    return problems + list(_check_shards(check, rows, num_workers))


def _check_shards(
    check: Callable[[str, pa.Table], list[str]],
    rows: Mapping[str, pa.Table],
    num_workers: int | None,
) -> Iterator[Problem]:
    num_clips = sum(map(len, rows.values()))
    num_workers = min(num_workers or os.cpu_count() or 1, -(-num_clips // _CLIPS_PER_PROCESS))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress("verifying", num_clips, "clips"))
        each_way: Callable[..., Iterable[list[str]]] = map
        if num_workers > 1:
            # Not forked, as the libraries that are loaded here have threads.
            context = multiprocessing.get_context("spawn")
            each_way = stack.enter_context(ProcessPoolExecutor(num_workers, context)).map
        for name, wrong in zip(rows, each_way(check, rows.keys(), rows.values()), strict=True):
            yield from (Problem(name, what) for what in wrong)
            bar.update(len(rows[name]))


def repair(data_dir: str | pathlib.Path, num_workers: int | None = None) -> list[Problem]:
    """Builds broken shards again from their recordings, and the files that describe the shards.

    Args:
      data_dir: what data_prep.build wrote, with its working folder; the recordings must still be
        where they were.
      num_workers: number of processes; by default the number of cores.

    Returns:
      What is still wrong. Clips that were in the data set and could not be read again count too.

    Raises:
      InputError: `data_dir` is no folder or has no plan, or a shard cannot be written.
    """
    data_dir = pathlib.Path(data_dir).absolute()
    problems = verify(data_dir, num_workers)
    if problems and not (data_dir / WORKING_FOLDER).is_dir():
        raise InputError(
            f"{data_dir}: has no folder {WORKING_FOLDER}, where the plan says which recordings to "
            "read; repair it where it was built, or build it again"
        )
    index, _ = read_index(data_dir, None, [])
    # While metadata or index are broken the shards cannot be checked, so there may be two rounds.
    for _ in range(2):
        if not problems:
            break
        _build_again(data_dir, {problem.file for problem in problems}, num_workers)
        problems = verify(data_dir, num_workers)
    after, _ = read_index(data_dir, None, [])
    if index is not None and after is not None:
        is_lost = pc.invert(pc.is_in(index["clip_id"], after["clip_id"].combine_chunks()))
        if lost := index["clip_id"].filter(is_lost).to_pylist():
            what = f"has {len(lost)} clips that were in the data set, the first is {lost[0]}"
            problems.append(Problem(REJECTS_NAME, what))
    return problems


def _build_again(data_dir: pathlib.Path, broken: set[str], num_workers: int | None) -> None:
    with working_folder(data_dir):
        try:
            plan = Plan.open(data_dir)
        except FileNotFoundError as error:
            raise InputError(f"{data_dir}: has no plan; build it again") from error
        pending = [
            shard for shard in plan.shards if shard.name in broken or plan.outcome(shard) is None
        ]
        # From here on the data set is unfinished, whatever happens.
        (data_dir / INDEX_NAME).unlink(missing_ok=True)
        for shard in pending:
            (data_dir / shard.outcome_name).unlink(missing_ok=True)
        if pending:
            print(f"building {len(pending)} shards again", file=sys.stderr)
            write_shards(plan, pending, num_workers=num_workers, clip_timeout_s=CLIP_TIMEOUT_S)
        write_data_set_files(plan, plan.outcomes())


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "data_prep.verify",
        "Reads a data set from end to end: shards, records, waveforms, labels, index and metadata "
        "must be whole and agree. Prints what is wrong, one a line, and exits with 1.",
        epilog="""\
example:
  python -m data_prep.verify --data_dir=DATA
  python -m data_prep.verify --data_dir=DATA --repair""",
    )
    add = parser.add_argument
    add("--data_dir", required=True, metavar="DATA", help="the --output_dir of data_prep.build")
    add("--num_workers", type=int, metavar="N", help="processes (default: the number of cores)")
    add(
        "--repair",
        action="store_true",
        help="build the broken shards again, from the recordings, and no others; then verify",
    )
    return parser


def _verify_and_report(flags: argparse.Namespace) -> int:
    """Does what the flags say and returns the exit status."""
    if flags.num_workers is not None and flags.num_workers < 1:
        raise InputError(f"--num_workers={flags.num_workers}: expected a number of at least 1")
    problems = (repair if flags.repair else verify)(flags.data_dir, flags.num_workers)
    for problem in problems:
        print(problem)
    if problems:
        num_files = len({problem.file for problem in problems})
        print(f"{flags.data_dir}: {len(problems)} problems in {num_files} files", file=sys.stderr)
        return 1
    num_clips = pq.read_metadata(pathlib.Path(flags.data_dir) / INDEX_NAME).num_rows
    print(f"{flags.data_dir}: all {num_clips:,} clips are as they should be", file=sys.stderr)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    flags = _parser().parse_args(arguments)
    return cli.run(lambda: _verify_and_report(flags))


if __name__ == "__main__":
    sys.exit(main())
