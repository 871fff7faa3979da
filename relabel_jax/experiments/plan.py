"""The plan of an experiment: process 0 looks at the run folders once, all processes act on it."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.experiments.base import Base, base_network, read_base
from relabel_jax.experiments.config import TUNED
from relabel_jax.experiments.experiment import Experiment
from relabel_jax.models import variables as network_variables
from relabel_jax.runs import processes
from relabel_jax.runs.schema import MAY_CHANGE, Identity, RunResult
from relabel_jax.runs.workdir import Workdir


@dataclasses.dataclass(frozen=True, eq=False)
class RunPlan:
    """The runs of an experiment that are finished, and those that are not.

    Attributes:
      results: the result of each run; None if it is not finished.
      base: the base of the runs; None if the method has none or all runs are finished.
    """

    results: list[RunResult | None]
    base: Base | None

    @property
    def unfinished(self) -> list[int]:
        """The numbers of the runs that are not finished."""
        return [m for m, result in enumerate(self.results) if result is None]

    @property
    def finished(self) -> list[RunResult]:
        """The results of the finished runs."""
        return [result for result in self.results if result is not None]

    def with_results(self, results: Sequence[RunResult]) -> list[RunResult]:
        """Returns the results of all runs, given those of the `unfinished` runs."""
        new = iter(results)
        return [next(new) if result is None else result for result in self.results]


def make_plan(experiment: Experiment, stack: contextlib.ExitStack) -> RunPlan:
    """Makes a plan in process 0 from the run folders and the base, and sends it to all processes.

    It changes nothing in the folders.

    Args:
      experiment: the runs.
      stack: holds the locks of the folders until it is closed.

    Raises:
      InputError: in all processes: a folder is in use or belongs to another config or data set, or
        a base that is needed does not fit.
    """
    bases: list[Base] = []  # filled by process 0 alone

    def decide() -> dict[str, Any]:
        for workdir in experiment.workdirs:
            stack.enter_context(workdir.locked())
        found = [
            _look(workdir, experiment.identity(m), experiment)
            for m, workdir in enumerate(experiment.workdirs)
        ]
        results = [result for result, _ in found]
        if experiment.config.method in TUNED:
            try:
                base = read_base(experiment.config, experiment.ontology, experiment.root)
            except InputError:
                if None in results:
                    raise
            else:
                _check_begun_from(base, [begun for _, begun in found], experiment)
                bases.append(base)
        return {
            "results": [result and dataclasses.asdict(result) for result in results],
            "base_labeling": bases[0].labeling if bases else "",
            "base_classes": bases[0].network.num_classes if bases else 0,
        }

    decided = processes.from_primary(decide)
    results = [result and RunResult(**result) for result in decided["results"]]
    if experiment.config.method not in TUNED or None not in results:
        return RunPlan(results, None)
    network = base_network(experiment.config, decided["base_classes"])
    variables = processes.arrays_from_primary(
        lambda: bases[0].variables, network_variables.zeros(network)
    )
    return RunPlan(results, Base(network, variables, decided["base_labeling"]))


def _look(
    workdir: Workdir, identity: Identity, experiment: Experiment
) -> tuple[RunResult | None, Identity | None]:
    """Returns the result of a run if it is finished, and its identity if it was begun."""
    before = workdir.begun_with()
    if before is None:
        return None, None
    before.check_same(identity, MAY_CHANGE, workdir.path, experiment.data_set.path)
    num_epochs, num_epochs_before = (each.config["num_epochs"] for each in (identity, before))
    if num_epochs < num_epochs_before:
        raise InputError(
            f"{workdir.path}: was begun with config.num_epochs {num_epochs_before}, which can grow "
            f"but not shrink to {num_epochs}; give another --workdir"
        )
    if num_epochs == num_epochs_before and workdir.is_finished:
        return workdir.read_result(), before
    return None, before


def _check_begun_from(base: Base, begun: list[Identity | None], experiment: Experiment) -> None:
    for before, workdir in zip(begun, experiment.workdirs, strict=True):
        if before is not None and before.base != base.fingerprint:
            raise InputError(
                f"{workdir.path}: was begun from other weights than config.base="
                f"{experiment.config.base} has now; give another --workdir"
            )
