"""Compares re-labelling all of AudioSet, file to Parquet, with reading the files by pandas.

    python benchmarks/relabel_audioset.py ../shared/audioset

Each way runs in separate processes, one after another, so that the peak of the memory is exact. The
times exclude the start of Python and the imports. Pandas and relabel take turns, and a ratio is
that of the medians. Relabel writes the three labelings of the paper, and all five. The last way is
careful plain Python: csv, and a set of ancestors and of descendants for each class; it re-labels
for `pe_cml` but does not write.

With `--check` the exit status says whether the project's bars are met: at most 8 times pandas for
three labelings and 10 times for all, below 3 GB and below 150 MB.
"""

import argparse
import csv
import gzip
import itertools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

NAMES = ("balanced_train_segments.csv", "eval_segments.csv", "unbalanced_train_segments.csv.gz")
COLUMNS = ["clip_id", "start_s", "end_s", "mids"]


def with_pandas(folder: pathlib.Path, output: pathlib.Path) -> dict:
    import pandas as pd

    began = time.perf_counter()
    frames = [
        pd.read_csv(folder / name, skiprows=3, header=None, names=COLUMNS, skipinitialspace=True)
        for name in NAMES
    ]
    return {"seconds": time.perf_counter() - began, "clips": sum(map(len, frames))}


def with_relabel(
    folder: pathlib.Path, output: pathlib.Path, labelings: Sequence[str] | None = None
) -> dict:
    import pandas as pd  # noqa: F401 (pyarrow imports it on first use)

    from data_prep.relabel import relabel_files

    began = time.perf_counter()
    relabel_files(
        segments=[folder / name for name in NAMES],
        output=output,
        labelings=labelings,
        overwrite=True,
    )
    return {"seconds": time.perf_counter() - began, "megabytes": output.stat().st_size / 1e6}


def with_all_labelings(folder: pathlib.Path, output: pathlib.Path) -> dict:
    return with_relabel(folder, output, ("ol", "pel", "pe_cml", "hlp", "entailed"))


def with_python_sets(folder: pathlib.Path, output: pathlib.Path) -> dict:
    began = time.perf_counter()
    nodes = json.loads((folder / "ontology.json").read_text())
    children = {node["id"]: node["child_ids"] for node in nodes}
    below: dict[str, set[str]] = {}

    def descendants(mid: str) -> set[str]:
        if mid not in below:
            below[mid] = set(children[mid]).union(*(descendants(c) for c in children[mid]))
        return below[mid]

    above: dict[str, set[str]] = {mid: set() for mid in children}
    for mid in children:
        for descendant in descendants(mid):
            above[descendant].add(mid)
    clips = num_pel = num_masked = 0
    for name in NAMES:
        path = folder / name
        with gzip.open(path, "rt") if name.endswith(".gz") else open(path) as file:
            for row in csv.reader(itertools.islice(file, 3, None), skipinitialspace=True):
                labels = set(row[3].split(","))
                pel = labels.union(*(above[label] for label in labels))
                masked: set[str] = set()
                for label in labels:
                    if not below[label] & labels:
                        masked |= below[label]
                clips += 1
                num_pel += len(pel)
                num_masked += len(masked)
    return {
        "seconds": time.perf_counter() - began,
        "clips": clips,
        "labels": [num_pel / clips, num_masked / clips],
    }


WAYS = {
    "pandas": with_pandas,
    "relabel": with_relabel,
    "all_labelings": with_all_labelings,
    "python_sets": with_python_sets,
}
BARS = {"relabel": 8, "all_labelings": 10}


def measured(way: str, folder: pathlib.Path, output: pathlib.Path) -> dict:
    """Runs one way in a separate process."""
    command = [sys.executable, __file__, str(folder), f"--way={way}", f"--output={output}"]
    root = str(pathlib.Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path, help="AudioSet's metadata")
    parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=pathlib.Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way:
        result = WAYS[flags.way](flags.folder, flags.output)
        result["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(result))
        return 0

    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        output = pathlib.Path(scratch) / "labels.parquet"
        for _ in range(flags.repeats):
            for way in ("pandas", *BARS):
                runs[way].append(measured(way, flags.folder, output))
        runs["python_sets"].append(measured("python_sets", flags.folder, output))
    seconds = {
        way: statistics.median(run["seconds"] for run in of_way) for way, of_way in runs.items()
    }
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f}; medians of {flags.repeats}, interleaved")
    for way, of_way in runs.items():
        spread = ", ".join(f"{run['seconds']:.2f}" for run in of_way)
        memory = max(run["peak_gb"] for run in of_way)
        print(f"{way:13} {seconds[way]:7.2f} s ({spread}), peak {memory:.2f} GB")
    print(f"plain Python sets / relabel   {seconds['python_sets'] / seconds['relabel']:.1f}")
    is_met = True
    for way, bar in BARS.items():
        ratio = seconds[way] / seconds["pandas"]
        peak = max(run["peak_gb"] for run in runs[way])
        megabytes = runs[way][-1]["megabytes"]
        print(
            f"{way}: {ratio:.2f} times pandas.read_csv (bar: at most {bar}), Parquet of "
            f"{megabytes:.1f} MB (bar: below 150), peak {peak:.2f} GB (bar: below 3)"
        )
        is_met = is_met and ratio <= bar and peak < 3 and megabytes < 150
    return 0 if is_met or not flags.check else 1


if __name__ == "__main__":
    sys.exit(main())
