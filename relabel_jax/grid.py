"""A grid of runs: base trainings and all transfers from them, and the paper's Table IV of it."""

import itertools
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from relabel_jax.config import paper_config
from relabel_jax.labelings import LABELINGS
from relabel_jax.run import run_population

_LOG = logging.getLogger(__name__)
# Of a cell: root, method, labeling of the base ("" for none), labeling of the run itself.
Cell = tuple[str, str, str, str]


def grid_config(roots: tuple[str, ...], target_labelings: tuple[str, ...]) -> ConfigDict:
    """The paper's recipe for a grid: for each root a base training with each labeling, and on its
    target side `features` and `finetune` from each base, and `scratch`, with each target labeling.
    """
    config = paper_config(root="", method="")
    for field in ("root", "method", "labeling", "labelings", "seeds", "base"):
        del config[field]
    config.roots = roots
    config.target_labelings = target_labelings
    return config


def run_grid(config: ConfigDict, workdir: pathlib.Path) -> dict[Cell, dict[str, Any]]:
    """Runs all cells, or those that are not finished, in this process: programs compile once.

    Each cell is a run in a folder of its own below `workdir`. Those that differ in labeling alone
    train together.

    Returns:
      The content of `result.json` by cell.

    Raises:
      InputError: in a cell; the finished ones are kept.
    """
    results: dict[Cell, dict[str, Any]] = {}
    cells = _cells(config)
    for (root, method, base_labeling), group in itertools.groupby(cells, lambda cell: cell[:3]):
        population = list(group)
        configs = []
        for *_, labeling in population:
            cell_config = ConfigDict({**config.to_dict(), "root": root})
            del cell_config.roots, cell_config.target_labelings
            cell_config.method = method
            cell_config.labeling = labeling
            base = _folder(workdir, (root, "base", "", base_labeling))
            cell_config.base = str(base) if base_labeling else ""
            configs.append(cell_config)
        folders = [_folder(workdir, cell) for cell in population]
        names = ", ".join(str(_folder(pathlib.Path(), cell)) for cell in population)
        _LOG.info("%d of %d cells are done; next: %s", len(results), len(cells), names)
        results |= zip(population, run_population(configs, folders), strict=True)
    return results


def table(results: Mapping[Cell, Mapping[str, Any]]) -> str:
    """Test mAP of the transfers, a column for each labeling of the base (the paper's Table IV)."""
    rows = [f"{'root':24}{'labels':8}{'method':10}" + "".join(f"{name:>9}" for name in LABELINGS)]
    order = dict.fromkeys((root, labeling, method) for root, method, _, labeling in results)
    for root, labeling, method in sorted(order, key=lambda row: row[:2]):
        if method == "base":
            continue
        bases = LABELINGS if method != "scratch" else ("",)
        scores = [results[root, method, base, labeling]["test"]["mAP"] for base in bases]
        cells = "".join(f"{'-' if score is None else format(score, '.4f'):>9}" for score in scores)
        rows.append(f"{root:24}{labeling:8}{method:10}{cells}")
    return "\n".join(rows)


def _cells(config: ConfigDict) -> list[Cell]:
    cells: list[Cell] = []
    for root in config.roots:
        cells += [(root, "base", "", labeling) for labeling in LABELINGS]
        transfers = [(method, base) for method in ("features", "finetune") for base in LABELINGS]
        for method, base in [*transfers, ("scratch", "")]:
            cells += [(root, method, base, labeling) for labeling in config.target_labelings]
    return cells


def _folder(workdir: pathlib.Path, cell: Cell) -> pathlib.Path:
    root, method, base_labeling, labeling = cell
    parts = (method, f"from_{base_labeling}" if base_labeling else "", labeling)
    return workdir / root.lower().replace(" ", "_") / "_".join(filter(None, parts))
