"""Evaluates the scores of finished runs: metrics, bootstrap replicates, and the test labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import PAPER_LABELINGS, in_order
from relabel_jax.metrics import evaluate, none_if_undefined
from relabel_jax.progress import track
from relabel_jax.report.results import FinishedRun, RunKey
from relabel_jax.report.statistics import bootstrap_map
from relabel_jax.report.truth import Truth, true_labels
from relabel_jax.runs.schema import RunResult, Scores
from relabel_jax.runs.workdir import TEST_AGAIN


class TestSetKey(NamedTuple):
    """Names a test set. Runs with the same key have the same test clips and labels."""

    root: str
    side: str
    labeling: str


class TestSet(NamedTuple):
    """The test clips and labels that several runs share.

    Attributes:
      labels: the test clips, classes and labels, without scores.
      result: the result of one of these runs. All of them have its numbers of clips and labels.
    """

    labels: Scores
    result: RunResult


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """The metrics of one run on the target side.

    Attributes:
      mean_average_precision: mAP on the run's own test labels.
      replicates: float64[replicates], the mAP over resampled clips.
      average_precision: float64[classes].
    """

    mean_average_precision: float
    replicates: np.ndarray
    average_precision: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """The measurements that the tables show.

    Attributes:
      runs: the runs with usable scores.
      metrics: a dictionary for JSON for each of `runs` (see `tables.report`).
      transfers: the runs of the target side by key.
      test_sets: the test labels by root, side and labeling.
    """

    runs: list[FinishedRun]
    metrics: list[dict[str, Any]]
    transfers: dict[RunKey, Transfer]
    test_sets: dict[TestSetKey, TestSet]

    @property
    def target_labelings(self) -> tuple[str, ...]:
        """The paper's labelings and those of the transfers, in the order of the tables."""
        return in_order([*PAPER_LABELINGS, *(key.labeling for key in self.transfers)])

    @property
    def base_labelings(self) -> tuple[str, ...]:
        """The paper's labelings and those of the bases, in the order of the tables."""
        trained = [key.labeling for key in self.test_sets if key.side == "base"]
        started_from = [key.base_labeling for key in self.transfers if key.base_labeling]
        return in_order([*PAPER_LABELINGS, *trained, *started_from])

    @property
    def labelings(self) -> tuple[str, ...]:
        """All labelings, in the order of the tables."""
        return in_order([*self.target_labelings, *self.base_labelings])

    def by_seed(self, root: str, method: str, base: str, labeling: str) -> dict[int, Transfer]:
        """Returns the runs on the target side that differ only in their seeds."""
        same = (root, method, base, labeling)
        return {key.seed: value for key, value in self.transfers.items() if key[:-1] == same}


def measure(
    runs: Sequence[FinishedRun], truth: Truth | None, num_replicates: int
) -> tuple[Measured, list[str]]:
    """Reads and evaluates the scores of runs on one data set.

    Args:
      runs: finished runs.
      truth: the true labels, or None if they are not known.
      num_replicates: bootstrap replicates of each run.

    Returns:
      The measurements, and one line for each run with unusable scores.

    Raises:
      InputError: a test clip is not in the truth.
    """
    usable, test_sets, problems = _test_sets(runs)
    metrics, transfers = [], {}
    for run in track(usable, "bootstrap", "runs"):
        scores = run.read_scores()
        metrics.append(_metrics(run, scores, test_sets, truth))
        if run.result.side == "target":
            evaluation = scores.evaluate()
            transfers[run.key] = Transfer(
                evaluation.mean_average_precision,
                bootstrap_map(
                    scores.scores, scores.labels, scores.masked, num_replicates=num_replicates
                ),
                evaluation.average_precision,
            )
    return Measured(usable, metrics, transfers, test_sets), problems


def _test_sets(
    runs: Sequence[FinishedRun],
) -> tuple[list[FinishedRun], dict[TestSetKey, TestSet], list[str]]:
    """Reads all test sets, because a run is scored on the labels of other runs, too.

    Returns:
      The usable runs, the test sets, and a line for each of the other runs.
    """
    usable, problems = [], []
    test_sets: dict[TestSetKey, TestSet] = {}
    for run in runs:
        try:
            scores = run.read_scores()
            key = TestSetKey(run.result.root, run.result.side, run.result.labeling)
            if key in test_sets:
                _check_same_labels(run, scores, test_sets[key].labels)
            else:
                test_sets[key] = TestSet(scores._replace(scores=scores.scores[:0]), run.result)
            usable.append(run)
        except InputError as error:
            problems.append(str(error))
    return usable, test_sets, problems


def _check_same_labels(run: FinishedRun, scores: Scores, expected: Scores) -> None:
    for field in ("clip_id", "mids", "labels", "masked"):
        if not np.array_equal(getattr(expected, field), getattr(scores, field)):
            raise InputError(
                f"{run.workdir.scores_path}: its {field} are not those of the other runs with "
                f"that root and labeling; {TEST_AGAIN}"
            )


def _metrics(
    run: FinishedRun,
    scores: Scores,
    test_sets: Mapping[TestSetKey, TestSet],
    truth: Truth | None,
) -> dict[str, Any]:
    result = run.result
    scored_on = {}
    for labeling in in_order(key.labeling for key in test_sets):
        test_set = test_sets.get(TestSetKey(result.root, result.side, labeling))
        if test_set is not None and np.array_equal(test_set.labels.clip_id, scores.clip_id):
            other = test_set.labels
            _, own, others = np.intersect1d(scores.mids, other.mids, return_indices=True)
            scored_on[labeling] = _scored(
                scores.scores[:, own], other.labels[:, others], other.masked[:, others]
            )
    if truth is not None:
        labels = true_labels(truth, scores.clip_id.tolist(), scores.mids.tolist())
        scored_on["truth"] = _scored(scores.scores, labels, np.zeros_like(labels))
    evaluation = scores.evaluate()
    return {
        "root": result.root,
        "side": result.side,
        "method": result.method,
        "base_labeling": result.base_labeling,
        "labeling": result.labeling,
        "seed": result.seed,
        **evaluation.means(),
        "best_epoch": result.best_epoch,
        "scored_on": scored_on,
    }


def _scored(scores: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> dict[str, Any]:
    evaluation = evaluate(scores, labels, masked)
    return {
        "mAP": none_if_undefined(evaluation.mean_average_precision),
        "classes": int((~np.isnan(evaluation.average_precision)).sum()),
    }
