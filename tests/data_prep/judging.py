"""A toy that can be judged by hand, and the judge's command on it."""

import pathlib
from typing import Any

from data_prep.judge import main

# Water > Rain > Drop. Steam is below Water and below Engine; Hum is by itself.
ONTOLOGY = """[
    {"id": "/m/w", "name": "Water", "child_ids": ["/m/r", "/m/s"]},
    {"id": "/m/r", "name": "Rain", "child_ids": ["/m/d"]},
    {"id": "/m/d", "name": "Drop", "child_ids": []},
    {"id": "/m/e", "name": "Engine", "child_ids": ["/m/s"]},
    {"id": "/m/s", "name": "Steam", "child_ids": []},
    {"id": "/t/h", "name": "<Hum>", "child_ids": []}]"""
SEGMENTS = """a, 30.000, 40.000, "/m/r"
b, 0.000, 10.000, "/m/s"
c, 0.000, 10.000, "/m/w,/t/h"
d, 0.000, 10.000, "/m/w"
e, 0.000, 10.000, "/m/d"
"""
TRUTH = """a, 30.000, 40.000, "/m/r,/m/w"
b, 0.000, 10.000, "/m/s,/m/w"
c, 0.000, 10.000, "/m/r,/m/w"
d, 0.000, 10.000, "/m/e"
z, 0.000, 10.000, "/m/d,/t/h"
"""


def write_toy(folder: pathlib.Path) -> list[str]:
    """Writes the toy; returns the flags for its ontology and segments."""
    (folder / "ontology.json").write_text(ONTOLOGY)
    (folder / "segments.csv").write_text(SEGMENTS)
    (folder / "truth.csv").write_text(TRUTH)
    return [f"--ontology={folder / 'ontology.json'}", f"--segments={folder / 'segments.csv'}"]


def error_line(arguments: list[str], capsys: Any) -> str:
    """Runs the command, which must fail; returns its only line on stderr."""
    capsys.readouterr()
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line
