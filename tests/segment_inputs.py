"""Segment files for the tests, and the command that re-labels them."""

import pathlib
from typing import Any

import pyarrow.parquet as pq

from data_prep.relabel import main

# Water > Rain > Raindrop, Water > Steam; Rain and Steam are used, and so is Hum.
ONTOLOGY = """[
    {"id": "/m/rain", "name": "Rain", "child_ids": ["/m/drop"]},
    {"id": "/m/water", "name": "Water", "child_ids": ["/m/rain", "/m/steam"]},
    {"id": "/m/drop", "name": "Raindrop", "child_ids": []},
    {"id": "/m/steam", "name": "Steam", "child_ids": []},
    {"id": "/t/hum", "name": "Hum", "child_ids": []}]"""
HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
ROWS = [
    '-x_1, 30.000, 40.000, "/t/hum,/m/rain"',
    '_y, 0.000, 7.001, "/m/steam"',
    'z, 0.12345, 10, "/t/hum"',
]
CONTENT = HEADER + "\n".join(ROWS) + "\n"


def write_segment_files(
    folder: pathlib.Path, contents: tuple[str | bytes, ...]
) -> list[pathlib.Path]:
    """Writes `segments0.csv` and so on, with the suffix `.csv.gz` for gzipped bytes."""
    paths = []
    for number, content in enumerate(contents):
        content = content.encode() if isinstance(content, str) else content
        suffix = ".csv.gz" if content.startswith(b"\x1f\x8b") else ".csv"
        paths.append(folder / f"segments{number}{suffix}")
        paths[-1].write_bytes(content)
    return paths


def run_relabel(
    folder: pathlib.Path, capsys: Any, *contents: str | bytes, **flags
) -> tuple[int, str]:
    """Runs the command in a folder with an ontology.json; returns its exit code and its stderr."""
    arguments = {
        "ontology": folder / "ontology.json",
        "segments": ",".join(map(str, write_segment_files(folder, contents))),
        "output": folder / "labels.parquet",
    } | flags
    status = main(
        [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in arguments.items()]
    )
    return status, capsys.readouterr().err


def rows_of(path: pathlib.Path) -> list[tuple]:
    """The rows of a Parquet file."""
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]
