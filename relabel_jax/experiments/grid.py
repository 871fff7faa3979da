"""A grid of runs: base trainings, the transfers from them, and the report."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from relabel_jax.data.data_set import DataSet, open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments import labelings
from relabel_jax.experiments.cells import (
    Cell,
    all_cells,
    check_folders,
    populations,
    run_config,
)
from relabel_jax.experiments.config import check, plain
from relabel_jax.experiments.progress import GridProgress
from relabel_jax.experiments.run import run_population
from relabel_jax.files import complete_file, left_behind
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.views import SPLITS
from relabel_jax.report.truth import check_truth, read_truth
from relabel_jax.report.web_page import require_plotly
from relabel_jax.report.write import write_report
from relabel_jax.runs import processes
from relabel_jax.runs.grid_folder import GridFolder
from relabel_jax.runs.old_configs import flat
from relabel_jax.runs.schema import MAY_CHANGE, Identity
from relabel_jax.runs.workdir import Workdir

_LOG = logging.getLogger(__name__)
# Fields that may change in a grid that continues. Unlike in a single run, the number of epochs may
# not grow: it would change the bases, and all transfers would have to start again.
_MAY_CHANGE = {*MAY_CHANGE, "num_seeds", "only", "truth"} - {"num_epochs"}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy", "scipy")


def run_grid(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Runs all cells that are not finished, in this process, and writes the report.

    Cells that differ only in labeling are trained as one population. For base trainings and for
    `scratch` the population also covers the seeds. If a cell fails, the report names it, and the
    other cells continue, except the transfers from a base that failed.

    Args:
      config: the config of the grid; see `relabel_jax.experiments.cells.grid_config`.
      workdir: the folder of the grid.

    Returns:
      The report (see `relabel_jax.report.write.write_report`), whose `problems` name the cells that
      failed; None in all processes except process 0.

    Raises:
      InputError: nothing can be run, or the workdir belongs to another grid or is in use. If cells
        failed, it is also raised in all processes except process 0.
      Interrupted: a SIGTERM stopped the program, after its work was saved.
    """
    grid = processes.together(lambda: _Grid.open(config))
    processes.check_same(
        {
            f"config.{field}": value
            for field, value in flat(plain(config)).items()
            if field not in ("data_dir", "truth", "labeling_files", "teacher")
        }
        | labelings.facts(grid.label_files)
    )
    with contextlib.ExitStack() as stack:  # holds the lock of the folder
        processes.on_primary(lambda: _begin(grid, workdir, stack))
        with GridProgress(grid.config, grid.data_set, workdir, grid.cells) as progress:
            problems = _run_cells(grid, workdir, progress)
        if not progress.done:
            raise InputError(problems[0])
        processes.on_primary(lambda: _note_problems(workdir, problems))
        if processes.is_primary():
            return write_report(workdir)
    if problems:
        raise InputError("some runs failed, see process 0")
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class _Grid:
    """A grid, its data set and its labels, which are the same in every process.

    Attributes:
      config: the config, with display names for roots.
      cells: the runs, in their order.
      data_set: the data set.
      label_files: the files of the labelings that have one, by labeling.
    """

    config: ConfigDict
    cells: list[Cell]
    data_set: DataSet
    label_files: dict[str, LabelFile]

    @classmethod
    def open(cls, config: ConfigDict) -> "_Grid":
        cells = all_cells(config)
        data_set = open_data_set(config.data_dir)
        ontology = data_set.ontology
        names = {root: ontology.display_names[ontology.find(root)] for root in config.roots}
        config = config.copy_and_resolve_references()
        config.roots = tuple(names.values())
        check_folders(config.roots)
        cells = [cell._replace(root=names[cell.root]) for cell in cells]
        check(run_config(config, cells[0], pathlib.Path()))  # a wrong field would fail every cell
        used = (*config.base_labelings, *config.target_labelings)
        label_files = labelings.read_files(config, used, ontology)
        for file in label_files.values():  # refuses a file that lacks a clip before any run begins
            file.labels(data_set.clip_ids.tolist())
        return cls(config, cells, data_set, label_files)


def _run_cells(grid: _Grid, workdir: pathlib.Path, progress: GridProgress) -> list[str]:
    """Runs the cells; returns a line for each cell that failed, and a line that counts them."""
    problems: dict[str, None] = {}  # an ordered set
    failed: set[Cell] = set()
    for population in populations(grid.cells):
        population = [cell for cell in population if cell.base not in failed]
        # Trains the cells together. If that fails, trains each alone, so that one failure does not
        # stop the others.
        for part in (population, *([cell] for cell in population)):
            if not part or any(cell in failed or cell in progress.done for cell in part):
                continue
            progress.begin(part)
            problem = _run_part(grid, part, workdir, progress)
            if problem is None:
                progress.finish(part)
            elif len(part) == 1:
                failed |= set(part)
                _LOG.error("%s failed: %s", part[0].folder, problem)
                problems[problem] = None
        failed |= {cell for cell in grid.cells if cell.base in failed}
    if failed and progress.done:
        problems[f"{len(failed)} of {len(grid.cells)} runs failed or have no base"] = None
    return list(problems)


def _run_part(
    grid: _Grid, part: Sequence[Cell], workdir: pathlib.Path, progress: GridProgress
) -> str | None:
    """Runs cells together; returns the reason if they failed, else None."""
    try:
        run_population(
            [run_config(grid.config, cell, workdir) for cell in part],
            [workdir / cell.folder for cell in part],
            progress.on_clips,
        )
    except (InputError, jax.errors.JaxRuntimeError) as error:
        # JAX may raise an error, such as a lost connection, in some of the processes only.
        if processes.are_several() and not isinstance(error, InputError):
            raise
        return str(error).splitlines()[0]
    return None


def _begin(grid: _Grid, workdir: pathlib.Path, stack: contextlib.ExitStack) -> None:
    """Checks that the grid can run in this workdir, and writes the description of the grid there.

    Args:
      grid: the grid.
      workdir: its folder.
      stack: holds the lock of the folder until it is closed.

    Raises:
      InputError: the report could not be written at the end, or the workdir is in use, or belongs
        to another grid or to a single run.
    """
    require_plotly("report")
    config, data_set = grid.config, grid.data_set
    if config.truth:
        try:
            is_test = data_set.clip_splits == SPLITS.index("test")
            truth = read_truth(config.truth, data_set.ontology)
            check_truth(truth, data_set.clip_ids[is_test].tolist())
        except InputError as error:
            raise InputError(f"config.truth={config.truth}: {error}") from error
    folder = GridFolder(workdir)
    fields, digests = labelings.recorded(plain(config), grid.label_files)
    identity = Identity(fields, data_set.fingerprint, label_files=digests)
    if config.truth:  # an absolute path, so that a report can be written from another folder
        identity.config["truth"] = os.path.abspath(config.truth)
    if folder.is_grid:
        folder.read_description()  # compares its digests
        before = Identity.read(folder.grid_path)
        before.check_same(identity, _MAY_CHANGE, workdir, data_set.path)
    elif Workdir(workdir).is_begun:
        raise InputError(f"{workdir}: is the workdir of a single run; give another --workdir")
    stack.enter_context(Workdir(workdir).locked())
    for path in (*left_behind(folder.ontology_path), *left_behind(folder.grid_path)):
        path.unlink(missing_ok=True)
    with complete_file(folder.ontology_path) as temporary:
        temporary.write_text(data_set.ontology.text, encoding="utf-8")
    folder.write_description(
        {
            "config": identity.config,
            "data_set": identity.data_set,
            "label_files": identity.label_files,
            "roots": list(config.roots),
            "command": shlex.join([*_program(), *sys.argv[1:]]),
            "versions": {"Python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in _PACKAGES},
            "hardware": _hardware(),
            "problems": [],
        }
    )


def _note_problems(workdir: pathlib.Path, problems: Sequence[str]) -> None:
    folder = GridFolder(workdir)
    folder.write_description(folder.read_description() | {"problems": list(problems)})


def _program() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return ["python", "-m", module.name] if module else [sys.argv[0]]


def _hardware() -> dict[str, str]:
    devices = jax.devices()
    cpu = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "system": platform.platform(),
    }
