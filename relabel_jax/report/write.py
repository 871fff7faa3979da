"""Writes the report of a folder of finished runs."""

import csv
import io
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, read_json, write_json
from relabel_jax.labels.ontology import Ontology
from relabel_jax.report import tables
from relabel_jax.report.page import page
from relabel_jax.report.results import GRID_NAME, differences, find_cells, read_truth

_LOG = logging.getLogger(__name__)
PAPER_TABLES = pathlib.Path(__file__).with_name("paper_tables.json")
ONTOLOGY_NAME = "ontology.json"


def write_report(
    workdir: pathlib.Path,
    *,
    truth: str | pathlib.Path | None = None,
    paper: str | pathlib.Path = PAPER_TABLES,
) -> dict[str, Any]:
    """Writes `report/` of a folder with finished runs, from their results alone.

    `table1.csv`, `table3.csv`, `table4.csv`, `results.json` and `index.html`. What a grid
    left in the folder (`grid.json`: roots, command, versions, hardware; `ontology.json`) is used
    where it is there; the ontology otherwise comes from the data set.

    Args:
      workdir: the `--workdir` of a grid, or any folder with run folders below it.
      truth: a CSV of the clips' true labels; "" is none, None the one of the grid.
      paper: the paper's figures, in the form of `paper_tables.json`.

    Returns:
      The content of `results.json`, as of `tables.report`.

    Raises:
      InputError: no run is finished, or a file is missing or damaged.
    """
    cells, problems = find_cells(workdir)
    ontology = _find_ontology(workdir, cells[0].facts["config"].get("data_dir", ""))
    grid = read_json(workdir / GRID_NAME) if (workdir / GRID_NAME).exists() else {}
    if not isinstance(grid, dict):
        raise InputError(f"{workdir / GRID_NAME}: is not what a grid writes there; run it again")
    of_clips = None
    try:
        if path := (grid.get("config") or {}).get("truth", "") if truth is None else truth:
            of_clips = read_truth(path)
    except InputError as error:
        raise InputError(f"{error}; --truth=CSV gives another, --truth= none") from error
    known = set(ontology.mids)
    for cell in cells:
        if cell.facts["root_mid"] not in known:
            raise InputError(
                f"{workdir / ONTOLOGY_NAME}: has no class {cell.facts['root_mid']!r}, the root of "
                f"{cell.workdir}; it is not the ontology of these runs"
            )
    of_paper = read_json(pathlib.Path(paper))
    _check_form(of_paper, str(paper))
    result = tables.report(
        cells,
        [*grid.get("problems", []), *problems],
        grid.get("roots", []),
        of_paper,
        of_clips,
    )
    result |= {
        "notes": differences(cells),
        "paper": of_paper,
        "provenance": {
            field: grid.get(field) for field in ("command", "versions", "hardware", "config")
        },
        "data_set": cells[0].facts["data_set"],
    }
    folder = workdir / "report"
    for name in ("table1", *tables.TABLES):
        _write_text(folder / f"{name}.csv", _csv(result[name]))
    write_json(folder / "results.json", result)
    _write_text(folder / "index.html", page(result, ontology))
    return result


def _check_form(given: Any, where: str) -> None:
    """Raises InputError where the paper's figures have not the form of `paper_tables.json`."""
    keep = f"keep to the form of {PAPER_TABLES.name}"
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected an object, got {given!r}; {keep}")
    for name in ("table1", *tables.TABLES):
        if name not in given:
            raise InputError(f"{where}: has no {name!r}; {keep}")
        _check_figures(given[name], 1 if name == "table1" else 2, f"{where}: {name}", keep)


def _check_figures(given: Any, depth: int, where: str, keep: str) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected an object, got {given!r}; {keep}")
    for name, value in given.items():
        if depth:
            _check_figures(value, depth - 1, f"{where}, {name!r}", keep)
        elif value is not None and type(value) not in (int, float):
            raise InputError(f"{where}: {name!r} is {value!r}, expected a number or null; {keep}")


def _find_ontology(workdir: pathlib.Path, data_dir: str) -> Ontology:
    for folder in (workdir, pathlib.Path(data_dir)):
        if (folder / ONTOLOGY_NAME).is_file():
            return Ontology.from_json(folder / ONTOLOGY_NAME)
    raise InputError(
        f"{workdir / ONTOLOGY_NAME}: is not there, nor is the data set {data_dir}; copy the "
        "ontology.json of the data set there"
    )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _write_text(path: pathlib.Path, text: str) -> None:
    with complete_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
