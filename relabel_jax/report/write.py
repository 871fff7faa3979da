"""Writes the report of a folder of finished runs."""

import pathlib
from collections.abc import Sequence
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, csv_text, read_json, write_json
from relabel_jax.labels.ontology import Ontology
from relabel_jax.report import tables
from relabel_jax.report.page import page
from relabel_jax.report.results import FinishedRun, differences, find_runs
from relabel_jax.report.tables import TABLES
from relabel_jax.report.transfers import HALVES
from relabel_jax.report.truth import read_truth
from relabel_jax.runs.grid_folder import GridFolder

PAPER_TABLES = pathlib.Path(__file__).with_name("paper_tables.json")


def write_report(
    workdir: pathlib.Path,
    *,
    truth: str | pathlib.Path | None = None,
    paper: str | pathlib.Path = PAPER_TABLES,
) -> dict[str, Any]:
    """Writes the report of a folder with finished runs from their results.

    The report has `table1.csv`, `table3.csv`, `table4.csv`, `results.json` and `index.html`. A grid
    leaves its roots, provenance and ontology in its folder. For other folders the ontology comes
    from the data set.

    Args:
      workdir: the `--workdir` of a grid, or any folder with run folders below it.
      truth: a CSV with the clips' true labels. "" stands for none, None for the grid's own.
      paper: a file with the paper's figures, in the form of `paper_tables.json`.

    Returns:
      The content of `results.json`: see `tables.report`.

    Raises:
      InputError: no run is finished, or a file is missing or damaged.
    """
    folder = GridFolder(workdir)
    grid = folder.read_description()  # compares the digest of the ontology too
    runs, problems = find_runs(workdir)
    ontology = _find_ontology(folder, runs[0].result.config["data_dir"])
    true_mids = None
    try:
        if path := grid.get("config", {}).get("truth", "") if truth is None else truth:
            true_mids = read_truth(path, ontology)
    except InputError as error:
        raise InputError(f"{error}; --truth=CSV gives another, --truth= none") from error
    _check_roots(runs, ontology, folder)
    figures = read_json(pathlib.Path(paper))
    _check_form(figures, str(paper))
    result = tables.report(
        runs, [*grid.get("problems", []), *problems], grid.get("roots", []), figures, true_mids
    )
    result |= {
        "notes": differences(runs),
        "paper": figures,
        "provenance": {
            field: grid.get(field) for field in ("command", "versions", "hardware", "config")
        },
        "data_set": runs[0].result.data_set,
    }
    for name in TABLES:
        _write_text(folder.report_path / f"{name}.csv", csv_text(result[name]))
    write_json(folder.report_path / "results.json", result)
    _write_text(page_path(workdir), page(result, ontology))
    return result


def page_path(workdir: pathlib.Path) -> pathlib.Path:
    """Returns the path of the page that `write_report` writes for this workdir."""
    return GridFolder(workdir).report_path / "index.html"


def _check_roots(runs: Sequence[FinishedRun], ontology: Ontology, folder: GridFolder) -> None:
    """Raises InputError if the root of a run is not a class of the ontology."""
    known = set(ontology.mids)
    for run in runs:
        if run.result.root_mid not in known:
            raise InputError(
                f"{folder.ontology_path}: has no class {run.result.root_mid!r}, the root of "
                f"{run.workdir.path}; it is not the ontology of these runs"
            )


def _check_form(given: Any, where: str) -> None:
    """Raises InputError if the paper's figures do not have the form of `paper_tables.json`."""
    keep = f"keep to the form of {PAPER_TABLES.name}"
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected an object, got {given!r}; {keep}")
    for name in TABLES:
        if name not in given:
            raise InputError(f"{where}: has no {name!r}; {keep}")
        _check_figures(given[name], 3 if name == "table4" else 1, f"{where}: {name}", keep)
    for half in HALVES:
        if half not in given["table4"]:
            raise InputError(f"{where}: table4: has no {half!r}; {keep}")


def _check_figures(given: Any, depth: int, where: str, keep: str) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected an object, got {given!r}; {keep}")
    for name, value in given.items():
        if depth:
            _check_figures(value, depth - 1, f"{where}, {name!r}", keep)
        elif value is not None and type(value) not in (int, float):
            raise InputError(f"{where}: {name!r} is {value!r}, expected a number or null; {keep}")


def _find_ontology(folder: GridFolder, data_dir: str) -> Ontology:
    # The file has the same name in a data set.
    for path in (folder.ontology_path, pathlib.Path(data_dir, folder.ontology_path.name)):
        if path.is_file():
            return Ontology.from_json(path)
    raise InputError(
        f"{folder.ontology_path}: does not exist, and {data_dir} does not either; copy the data "
        f"set's {folder.ontology_path.name} there"
    )


def _write_text(path: pathlib.Path, text: str) -> None:
    with complete_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
