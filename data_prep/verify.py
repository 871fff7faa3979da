"""Is a built data set what it says it is?

    python -m data_prep.verify --data_dir=DATA [--repair]

Reads all of DATA and prints what is wrong with it, a line each, `FILE: WHAT`:

- `ontology.json`, TFDS's metadata, `clips.parquet` and `rejects.csv` can be read and agree: schema,
  number of clips by split, no clip twice, labels that are classes of the ontology;
- each shard can be read and has as many records as TFDS's metadata say;
- each record can be decoded, with a waveform of the right length, and is that of the index: id and
  original labels; `pel` and `masked` are what the ontology makes of them.

ArrayRecord has a checksum for each record, so what can be read is what was written.
"""

import argparse
import contextlib
import csv
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
import tqdm
from array_record.python.array_record_module import ArrayRecordReader

from data_prep.build import INDEX, INDEX_SCHEMA, REJECTS, finish, working_folder, write_shards
from data_prep.segments import multi_hot
from data_prep.shards import DATASET_NAME, WORKING_FOLDER, Plan
from data_prep.workers import CLIP_TIMEOUT_S
from relabel_jax.data.schema import record_features
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

_CLIPS_PER_PROCESS = 2_000  # what one checks in the time that another takes to start
_SHARD_NAME = re.compile(rf"{DATASET_NAME}-(\w+)\.array_record-(\d+)-of-(\d+)")


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one file of the data set."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def verify(data_dir: str | pathlib.Path, num_workers: int | None = None) -> list[Problem]:
    """Reads a data set from end to end.

    Args:
      data_dir: what data_prep.build wrote; its working folder is not needed.
      num_workers: processes; by default the number of cores.

    Returns:
      What is wrong, in the order of the files. If ontology, metadata or index cannot be read, that
      is all: there is nothing to hold the shards against.

    Raises:
      InputError: `data_dir` is no folder.
    """
    data_dir = pathlib.Path(data_dir).absolute()
    if not data_dir.is_dir():
        raise InputError(f"{data_dir}: no such folder; give the --output_dir of a data_prep.build")
    problems: list[Problem] = []
    ontology = _read_ontology(data_dir, problems)
    shard_lengths = _read_metadata(data_dir, ontology, problems)
    index = _read_index(data_dir, ontology, problems)
    if ontology is None or shard_lengths is None or index is None:
        return problems
    problems += _compare_rejects(data_dir, index)

    # An empty split is none of TFDS's, but the build may have left its empty shards.
    found = sorted(path.name for path in data_dir.glob("*.array_record*"))
    expected: dict[str, tuple[int, int]] = {}  # by name, first row and number of records
    row = 0
    for split in SPLITS:
        lengths = shard_lengths.get(split, [])
        num_rows = pc.sum(pc.equal(index["split"], split)).as_py() or 0
        if sum(lengths) != num_rows:
            problems.append(
                Problem(
                    "dataset_info.json",
                    f"{sum(lengths)} {split} records, but {INDEX} has {num_rows}",
                )
            )
        for number, length in enumerate(lengths):
            name = f"{DATASET_NAME}-{split}.array_record-{number:05d}-of-{len(lengths):05d}"
            expected[name] = (row, length)
            row += length
    for name in found:
        match = _SHARD_NAME.fullmatch(name)
        if match and match[1] in SPLITS and match[1] not in shard_lengths:
            expected.setdefault(name, (0, 0))
    problems += [
        Problem(name, "is not in dataset_info.json") for name in found if name not in expected
    ]
    problems += [Problem(name, "is missing") for name in expected if name not in found]
    tasks = {
        name: index.slice(first_row, length).combine_chunks()
        for name, (first_row, length) in expected.items()
        if name in found
    }
    return problems + list(_check_shards(data_dir, ontology, tasks, num_workers))


def _read_ontology(data_dir: pathlib.Path, problems: list[Problem]) -> Ontology | None:
    try:
        return Ontology.from_json(data_dir / "ontology.json")
    except InputError as error:
        problems.append(Problem("ontology.json", str(error)))
        return None


def _read_metadata(
    data_dir: pathlib.Path, ontology: Ontology | None, problems: list[Problem]
) -> dict[str, list[int]] | None:
    """Number of records of each shard, by split."""
    try:
        info = tfds.builder_from_directory(data_dir).info
        lengths = {name: list(split.shard_lengths) for name, split in info.splits.items()}
        features = info.features.get_serialized_info()
    except Exception as error:  # TFDS raises what it likes
        problems.append(
            Problem("dataset_info.json", f"TFDS cannot read it, or features.json: {_line(error)}")
        )
        return None
    if set(lengths) - set(SPLITS):
        problems.append(Problem("dataset_info.json", f"splits {sorted(lengths)}"))
    if ontology and features != record_features(len(ontology)).get_serialized_info():
        what = f"is not the schema of records over the {len(ontology)} classes of ontology.json"
        problems.append(Problem("features.json", what))
    return lengths


def _read_index(
    data_dir: pathlib.Path, ontology: Ontology | None, problems: list[Problem]
) -> pa.Table | None:
    try:
        index = pq.read_table(data_dir / INDEX)
    except FileNotFoundError:
        what = "is missing: the build has not ended; the same data_prep.build finishes it"
        problems.append(Problem(INDEX, what))
        return None
    except (OSError, pa.ArrowException) as error:
        problems.append(Problem(INDEX, f"cannot be read: {_line(error)}"))
        return None
    if index.schema != INDEX_SCHEMA:
        names = ", ".join(f"{field.name} {field.type}" for field in index.schema)
        problems.append(Problem(INDEX, f"has the columns {names}"))
        return None
    wrong: list[str] = []
    if any(column.null_count for column in index.columns):
        wrong.append("has empty cells")
    counts = pc.value_counts(index["clip_id"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        wrong.append(f"has {len(twice)} clips more than once, the first is {twice[0]}")
    place = pc.index_in(index["split"], pa.array(SPLITS))
    if place.null_count or (np.diff(np.asarray(place)) < 0).any():
        wrong.append(f"is not in the order {', '.join(SPLITS)}")
    if not wrong and ontology is not None:
        numbers = np.asarray(pc.list_flatten(index["ol"]))
        lengths = np.asarray(pc.list_value_length(index["ol"]))
        of_row = np.repeat(np.arange(len(index)), lengths)
        if ((numbers < 0) | (numbers >= len(ontology))).any():
            wrong.append(f"has labels that are not among the {len(ontology)} classes")
        elif ((np.diff(numbers) <= 0) & (np.diff(of_row) == 0)).any():
            wrong.append("has labels that are not in ascending order")
    problems += [Problem(INDEX, what) for what in wrong]
    return None if wrong else index


def _compare_rejects(data_dir: pathlib.Path, index: pa.Table) -> list[Problem]:
    try:
        with open(data_dir / REJECTS, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        ids = [row["clip_id"] for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        return [Problem(REJECTS, f"cannot be read: {_line(error)}")]
    both = set(ids) & set(index["clip_id"].to_pylist())
    if both:
        return [Problem(REJECTS, f"{len(both)} clips are in the index too, one is {min(both)}")]
    return []


def _check_shards(
    data_dir: pathlib.Path,
    ontology: Ontology,
    tasks: dict[str, pa.Table],
    num_workers: int | None,
) -> Iterator[Problem]:
    num_clips = sum(len(rows) for rows in tasks.values())
    num_workers = min(num_workers or os.cpu_count() or 1, -(-num_clips // _CLIPS_PER_PROCESS))
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm.tqdm(total=num_clips, unit="clip", desc="verify"))
        check = functools.partial(_check_shard, data_dir, ontology)
        each_way: Callable[..., Iterable[list[str]]] = map
        if num_workers > 1:
            # Not forked: the libraries that are loaded here have threads.
            context = multiprocessing.get_context("spawn")
            each_way = stack.enter_context(ProcessPoolExecutor(num_workers, context)).map
        for (name, rows), wrong in zip(
            tasks.items(), each_way(check, tasks.keys(), tasks.values()), strict=True
        ):
            yield from (Problem(name, what) for what in wrong)
            bar.update(len(rows))


def _check_shard(
    data_dir: pathlib.Path, ontology: Ontology, name: str, rows: pa.Table
) -> list[str]:
    """What is wrong with one shard; `rows` of the index are its records."""
    try:
        reader = ArrayRecordReader(os.fspath(data_dir / name), "readahead_buffer_size:0")
        num_records = reader.num_records()
    except Exception as error:  # ArrayRecord raises RuntimeError, ValueError, IndexError
        return [f"cannot be read: {_line(error)}"]
    if num_records != len(rows):
        return [f"{num_records} records, but dataset_info.json says {len(rows)}"]
    ol = multi_hot(rows["ol"].combine_chunks(), len(ontology))
    pel, masked = relabel(ol, ontology.is_ancestor, "pe_cml")
    expected = {"ol": ol, "pel": pel, "masked": masked}
    features = record_features(len(ontology))
    problems: list[str] = []
    for position, clip_id in enumerate(rows["clip_id"].to_pylist()):
        try:
            # One by one, or a damaged record would hide those that are read with it.
            (serialized,) = reader.read([position])
            record = features.deserialize_example_np(serialized)
        except Exception as error:
            problems.append(f"record {position} ({clip_id}): cannot be read: {_line(error)}")
            continue
        found_id = record["clip_id"].decode(errors="replace")
        if found_id != clip_id:
            problems.append(f"record {position}: is {found_id}, but {INDEX} says {clip_id}")
            continue
        wrong = [key for key, labels in expected.items() if (record[key] != labels[position]).any()]
        if wrong:
            problems.append(
                f"record {position} ({clip_id}): {', '.join(wrong)} are not what {INDEX} and "
                "ontology.json make of it"
            )
    reader.close()
    return problems


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def repair(data_dir: str | pathlib.Path, num_workers: int | None = None) -> list[Problem]:
    """Builds broken shards again from their recordings, and what describes the shards.

    Args:
      data_dir: what data_prep.build wrote, with its working folder; the recordings must still be
        where they were.
      num_workers: processes; by default the number of cores.

    Returns:
      What is still wrong. Clips that were in the data set and could not be read again are, too.

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
    index = _read_index(data_dir, None, [])
    # The first time round the shards cannot be checked if metadata or index are broken.
    for _ in range(2):
        if not problems:
            break
        with working_folder(data_dir):
            try:
                plan = Plan.open(data_dir)
            except FileNotFoundError as error:
                raise InputError(f"{data_dir}: has no plan; build it again") from error
            broken = {problem.file for problem in problems}
            pending = [
                shard
                for shard in plan.shards
                if shard.name in broken or plan.outcome(shard) is None
            ]
            # From here on the data set is unfinished, whatever happens.
            (data_dir / INDEX).unlink(missing_ok=True)
            for shard in pending:
                (data_dir / shard.outcome_name).unlink(missing_ok=True)
            if pending:
                print(f"building {len(pending)} shards again", file=sys.stderr)
                write_shards(plan, pending, num_workers=num_workers, clip_timeout_s=CLIP_TIMEOUT_S)
            finish(plan, plan.outcomes())
        problems = verify(data_dir, num_workers)
    after = _read_index(data_dir, None, [])
    if index is not None and after is not None:
        is_lost = pc.invert(pc.is_in(index["clip_id"], after["clip_id"].combine_chunks()))
        if lost := index["clip_id"].filter(is_lost).to_pylist():
            what = f"has {len(lost)} clips that were in the data set, the first is {lost[0]}"
            problems.append(Problem(REJECTS, what))
    return problems


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.verify",
        description="Reads a data set from end to end: shards, records, waveforms, labels, index "
        "and metadata must be whole and agree. Prints what is wrong, one a line, and exits with 1.",
        epilog="""\
example:
  python -m data_prep.verify --data_dir=DATA
  python -m data_prep.verify --data_dir=DATA --repair""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data_dir", required=True, metavar="DATA", help="the --output_dir of data_prep.build")
    add("--num_workers", type=int, metavar="N", help="processes (default: the number of cores)")
    add(
        "--repair",
        action="store_true",
        help="build the broken shards again, from the recordings, and no others; then verify",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = _parse_flags(arguments)
    try:
        if flags.num_workers is not None and flags.num_workers < 1:
            raise InputError(f"--num_workers={flags.num_workers}: expected a number of at least 1")
        problems = (repair if flags.repair else verify)(flags.data_dir, flags.num_workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    for problem in problems:
        print(problem)
    if problems:
        num_files = len({problem.file for problem in problems})
        print(f"{flags.data_dir}: {len(problems)} problems in {num_files} files", file=sys.stderr)
        return 1
    num_clips = pq.read_metadata(pathlib.Path(flags.data_dir) / INDEX).num_rows
    print(f"{flags.data_dir}: all {num_clips:,} clips are as they should be", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
