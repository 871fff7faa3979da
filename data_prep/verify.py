"""Checks a built data set from end to end, and repairs it.

    python -m data_prep.verify --data_dir=DATA [--repair]

It reads all of DATA and prints a line `FILE: PROBLEM` for each problem. It checks that

- `ontology.json`, TFDS's metadata, `clips.parquet` and `rejects.csv` can be read and agree: schema,
  sample rate and length of the waveforms, number of clips by split, no clip twice, labels that are
  classes of the ontology;
- each shard can be read and has the number of records that TFDS's metadata give;
- each record can be decoded, has a waveform of the right length, and has the id and the original
  labels of its clip in the index; its `pel` and `masked` follow from them by the ontology;
- each file has the digest of `sha256.json`. Data sets of older versions do not have this file.
  ArrayRecord has a checksum for each record, so a record that can be read is as it was written.
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
    read_digests,
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
from relabel_jax.data.integrity import ShardFacts
from relabel_jax.data.layout import INDEX_NAME, REJECTS_NAME
from relabel_jax.errors import InputError
from relabel_jax.faults import named_fault
from relabel_jax.progress import Progress

_CLIPS_PER_PROCESS = 2_000  # a process checks this number of clips in the time that one starts


def verify(data_dir: str | pathlib.Path, num_workers: int | None = None) -> list[Problem]:
    """Reads a data set from end to end.

    Args:
      data_dir: the output of data_prep.build; its working folder is not needed.
      num_workers: number of processes; by default the number of cores.

    Returns:
      The problems, in the order of the files. If the ontology, the metadata or the index cannot be
      read, the shards are not checked, because they must be compared with these.

    Raises:
      InputError: `data_dir` is no folder, or a fault of the system hides a file.
    """
    data_dir = pathlib.Path(data_dir).absolute()
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; give the --output_dir of a data_prep.build")
    problems = _find_problems(data_dir, num_workers)
    for problem in problems:
        if fault := named_fault(problem.what):
            raise InputError(
                f"{data_dir / problem.file}: cannot be read: {fault}; this is a fault of the "
                "system, not of the data set: mend it and run the same command again"
            )
    return problems


def _find_problems(data_dir: pathlib.Path, num_workers: int | None) -> list[Problem]:
    problems: list[Problem] = []
    ontology = read_ontology(data_dir, problems)
    of_index: list[Problem] = []
    index, waveform_format = read_index(data_dir, ontology, of_index)
    shard_lengths = read_metadata(data_dir, ontology, waveform_format, problems)
    problems += of_index
    if index is not None:
        problems += check_rejects(data_dir, index)
    recorded = read_digests(data_dir, problems)
    if ontology is None or shard_lengths is None or index is None or waveform_format is None:
        return problems
    rows = shard_rows(data_dir, shard_lengths, index, problems)
    check = functools.partial(check_shard, data_dir, ontology, waveform_format)
    facts = recorded.shards if recorded else {}
    return problems + list(_check_shards(check, rows, facts, num_workers))


def _check_shards(
    check: Callable[[str, pa.Table, ShardFacts | None], list[str]],
    rows: Mapping[str, pa.Table],
    facts: Mapping[str, ShardFacts],
    num_workers: int | None,
) -> Iterator[Problem]:
    num_clips = sum(map(len, rows.values()))
    num_workers = min(num_workers or os.cpu_count() or 1, -(-num_clips // _CLIPS_PER_PROCESS))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress("verifying", num_clips, "clips"))
        each_way: Callable[..., Iterable[list[str]]] = map
        if num_workers > 1:
            # Not forked, because the libraries that are loaded here have threads.
            context = multiprocessing.get_context("spawn")
            each_way = stack.enter_context(ProcessPoolExecutor(num_workers, context)).map
        checked = each_way(check, rows.keys(), rows.values(), map(facts.get, rows))
        for name, wrong in zip(rows, checked, strict=True):
            yield from (Problem(name, what) for what in wrong)
            bar.update(len(rows[name]))


def repair(data_dir: str | pathlib.Path, num_workers: int | None = None) -> list[Problem]:
    """Builds broken shards again from their recordings, and the files that describe the shards.

    Args:
      data_dir: the output of data_prep.build, with its working folder. The recordings must still be
        where they were.
      num_workers: number of processes; by default the number of cores.

    Returns:
      The problems that are left. Clips that were in the data set and could not be read again are
      problems too.

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
    # Shards cannot be checked while the metadata or the index are broken, hence two rounds.
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
        if pending:
            plan.check_decoders()
        # Without the index the data set counts as unfinished, also if this process is killed.
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
        "Checks a data set from end to end: shards, records, waveforms, labels, index, metadata.",
        epilog="""\
example:
  python -m data_prep.verify --data_dir=DATA
  python -m data_prep.verify --data_dir=DATA --repair

output: a line FILE: PROBLEM on stdout for each problem, and a summary on stderr. The exit code is 1
if there is a problem.""",
    )
    add = parser.add_argument
    add(
        "--data_dir",
        required=True,
        type=cli.path,
        metavar="DATA",
        help="the --output_dir of data_prep.build",
    )
    add("--num_workers", type=int, metavar="N", help="processes (default: the number of cores)")
    add(
        "--repair",
        action="store_true",
        help="build only the broken shards again, from their recordings, then check again",
    )
    return parser


def _verify_and_report(flags: argparse.Namespace) -> int:
    """Verifies or repairs, prints the problems and a summary, and returns the exit code."""
    if flags.num_workers is not None and flags.num_workers < 1:
        raise InputError(f"--num_workers={flags.num_workers}: expected a number of at least 1")
    problems = (repair if flags.repair else verify)(flags.data_dir, flags.num_workers)
    for problem in problems:
        print(problem)
    if problems:
        num_files = len({problem.file for problem in problems})
        print(f"{flags.data_dir}: {len(problems)} problems in {num_files} files", file=sys.stderr)
        if not flags.repair:
            command = f"{cli.program('data_prep.verify')} --data_dir={flags.data_dir} --repair"
            print(f"next: {command}", file=sys.stderr)
        return 1
    num_clips = pq.read_metadata(pathlib.Path(flags.data_dir) / INDEX_NAME).num_rows
    print(f"{flags.data_dir}: all {num_clips:,} clips are as they should be", file=sys.stderr)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    flags = _parser().parse_args(arguments)
    return cli.run(lambda: _verify_and_report(flags))


if __name__ == "__main__":
    sys.exit(main())
