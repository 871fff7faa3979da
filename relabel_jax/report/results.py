"""The finished runs below a folder."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from relabel_jax.errors import InputError
from relabel_jax.runs.grid_folder import GridFolder
from relabel_jax.runs.old_configs import flat
from relabel_jax.runs.schema import PUBLISHED, RunResult, Scores
from relabel_jax.runs.workdir import Workdir

# The fields of the config that make the recipe. Runs with the same method and recipe differ only
# in their labels, base and seed.
_RECIPE = (
    "num_epochs",
    "batch_size",
    "learning_rate",
    "learning_rate_decay",
    "loss",
    "optimizer",
    "model",
    "classifier",
)
# These fields change how the network is computed, but not its result.
_NOT_RECIPE = ("model.formulation", "model.fold_norm", "model.precision")


class RunKey(NamedTuple):
    """Identifies a run in a grid; `base_labeling` is "" for a run without a base."""

    root: str
    method: str
    base_labeling: str
    labeling: str
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """A finished run.

    Attributes:
      workdir: its folder.
      result: its metrics and its config.
      curve: a dictionary for each epoch.
    """

    workdir: Workdir
    result: RunResult
    curve: list[dict[str, Any]]

    @classmethod
    def read(cls, workdir: Workdir) -> "FinishedRun":
        """Reads everything but the scores.

        Raises:
          InputError: a file is missing or damaged.
        """
        result = workdir.read_result()
        if result.method == PUBLISHED:
            raise InputError(f"{workdir.path}: has imported weights, no training, and is left out")
        return cls(workdir, result, workdir.read_curve())

    @property
    def key(self) -> RunKey:
        return RunKey(*(getattr(self.result, field) for field in RunKey._fields))

    def read_scores(self) -> Scores:
        """Reads the scores from disk on every call: the scores of all runs may exceed memory.

        Raises:
          InputError: the file is missing or damaged, or does not belong to the result.
        """
        return self.workdir.read_scores(self.result.test["mAP"])


def find_runs(folder: pathlib.Path) -> tuple[list[FinishedRun], list[str]]:
    """Reads all finished runs below a folder. In the workdir of a grid, reads the grid's runs.

    Returns:
      The runs, sorted by key, and one line for each unusable run.

    Raises:
      InputError: there is no finished run, or there are runs on several data sets.
    """
    if not folder.is_dir():
        raise InputError(f"--workdir={folder}: does not exist")
    runs: dict[RunKey, FinishedRun] = {}
    problems = []
    grid = GridFolder(folder)
    data_set = grid.read_description().get("data_set")
    for workdir in grid.finished_runs():
        try:
            run = FinishedRun.read(workdir)
            if data_set not in (None, run.result.data_set):
                raise InputError(
                    f"{workdir.path}: is a run on another data set than the grid's, and is left "
                    "out; move it away"
                )
            if run.key in runs:
                raise InputError(
                    f"{workdir.path}: is the same run as {runs[run.key].workdir.path}, and is left "
                    "out; delete one of them"
                )
            runs[run.key] = run
        except InputError as error:
            problems.append(str(error))
    data_sets = {run.result.data_set: run for run in runs.values()}
    if len(data_sets) > 1:
        first, second, *_ = data_sets.values()
        raise InputError(
            f"{first.workdir.path} and {second.workdir.path} are runs on different data sets; give "
            "a --workdir with the runs of one"
        )
    if not runs:
        found = f" ({len(problems)} cannot be used; the first: {problems[0]})" if problems else ""
        raise InputError(
            f"--workdir={folder}: no run is finished yet{found}; give the --workdir of a grid "
            f"with a {Workdir(folder).result_path.name} in at least one cell"
        )
    return [runs[key] for key in sorted(runs)], problems


def differences(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns a line for each run with another recipe than the first run of its method."""
    first: dict[str, FinishedRun] = {}
    lines = []
    for run in runs:
        other = first.setdefault(run.result.method, run)
        recipe, of_other = dict(_recipe(run.result)), dict(_recipe(other.result))
        for name in recipe:
            if name in of_other and recipe[name] != of_other[name]:
                lines.append(
                    f"{run.workdir.path}: has {name} {recipe[name]}, {other.workdir.path} has "
                    f"{of_other[name]}; what the tables say of such runs is not of the labels alone"
                )
                break
    return lines


def _recipe(result: RunResult) -> Iterator[tuple[str, Any]]:
    for name, value in flat(result.config).items():
        if name.partition(".")[0] in _RECIPE and name not in _NOT_RECIPE:
            yield f"config.{name}", value
    if result.precision is not None:  # absent from results of older versions
        yield "precision", result.precision
