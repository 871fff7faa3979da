"""Decide once, then act: what process 0 finds in the run folders, as one plan for all processes."""

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
class Plan:
    """What is to be done for the runs of an experiment.

    Attributes:
      results: by run, its result; None where there is work left.
      base: what the runs start from, where there is work left that starts from a base.
    """

    results: list[RunResult | None]
    base: Base | None

    @property
    def unfinished(self) -> list[int]:
        """The numbers of the runs with work left."""
        return [m for m, result in enumerate(self.results) if result is None]

    @property
    def finished(self) -> list[RunResult]:
        """The results of the finished runs."""
        return [result for result in self.results if result is not None]

    def with_results(self, results: Sequence[RunResult]) -> list[RunResult]:
        """The results of all runs, with those of the `unfinished` ones that are given."""
        new = iter(results)
        return [next(new) if result is None else result for result in self.results]


def make_plan(experiment: Experiment, stack: contextlib.ExitStack) -> Plan:
    """Looks at run folders and base in process 0 and tells all processes what it found.

    Nothing in the folders is changed.

    Args:
      experiment: the runs.
      stack: holds the folders' locks until it is closed.

    Raises:
      InputError: in all processes: a folder is in use, or belongs to another config or data set; or
        a base that is needed does not fit.
    """
    bases: list[Base] = []  # read by process 0

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
        }

    decided = processes.from_primary(decide)
    results = [result and RunResult(**result) for result in decided["results"]]
    if experiment.config.method not in TUNED or None not in results:
        return Plan(results, None)
    network = base_network(experiment.config, experiment.ontology, experiment.root)
    variables = processes.arrays_from_primary(
        lambda: bases[0].variables, network_variables.zeros(network)
    )
    return Plan(results, Base(network, variables, decided["base_labeling"]))


def _look(
    workdir: Workdir, identity: Identity, experiment: Experiment
) -> tuple[RunResult | None, Identity | None]:
    """The result of a run if nothing is left to do, and what it was begun with, if it was."""
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
