"""What the scores of finished runs give: metrics, bootstrap replicates, and the test labels."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.metrics import evaluate
from relabel_jax.report.results import FinishedRun, RunKey
from relabel_jax.report.statistics import bootstrap_map
from relabel_jax.report.truth import true_labels
from relabel_jax.runs.schema import RunResult, Scores
from relabel_jax.runs.workdir import TEST_AGAIN

Truth = Mapping[str, frozenset[str]]


class ViewKey(NamedTuple):
    """Runs of one view have the same test clips and labels."""

    root: str
    side: str
    labeling: str


class View(NamedTuple):
    """What the runs of a view share.

    Attributes:
      labels: the test clips, classes and labels, with no rows of scores.
      result: the result of one of these runs; its numbers of clips and labels are those of all.
    """

    labels: Scores
    result: RunResult


@dataclasses.dataclass(frozen=True, eq=False)
class Transfer:
    """What the scores of one run on the target side give.

    Attributes:
      mean_average_precision: on the run's own test labels.
      replicates: float64[replicates], the same over resampled clips.
      average_precision: float64[classes].
    """

    mean_average_precision: float
    replicates: np.ndarray
    average_precision: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """What the tables are made of.

    Attributes:
      runs: the runs whose scores could be used.
      metrics: for each of `runs`, a dictionary for JSON (see `tables.report`).
      transfers: by key, the runs of the target side.
      views: the test labels by root, side and labeling.
    """

    runs: list[FinishedRun]
    metrics: list[dict[str, Any]]
    transfers: dict[RunKey, Transfer]
    views: dict[ViewKey, View]

    def by_seed(self, root: str, method: str, base: str, labeling: str) -> dict[int, Transfer]:
        """The runs on the target side that differ in their seeds alone."""
        same = (root, method, base, labeling)
        return {key.seed: value for key, value in self.transfers.items() if key[:-1] == same}


def measure(runs: Sequence[FinishedRun], truth: Truth | None) -> tuple[Measured, list[str]]:
    """Reads and evaluates the scores of runs on one data set.

    Args:
      runs: finished runs.
      truth: the true mids by clip id, where they are known.

    Returns:
      The measurements, and one line on each run whose scores cannot be used.

    Raises:
      InputError: a test clip is not in the truth.
    """
    usable, views, problems = _views(runs)
    metrics, transfers = [], {}
    for run in tqdm(usable, desc="bootstrap", unit=" runs", disable=None):
        scores = run.read_scores()
        metrics.append(_metrics(run, scores, views, truth))
        if run.result.side == "target":
            evaluation = scores.evaluate()
            transfers[run.key] = Transfer(
                evaluation.mean_average_precision,
                bootstrap_map(scores.scores, scores.labels, scores.masked),
                evaluation.average_precision,
            )
    return Measured(usable, metrics, transfers, views), problems


def _views(
    runs: Sequence[FinishedRun],
) -> tuple[list[FinishedRun], dict[ViewKey, View], list[str]]:
    """Reads the test labels of all views before anything is scored on them.

    Returns:
      The runs that can be used, the views, and a line on each of the other runs.
    """
    usable, problems = [], []
    views: dict[ViewKey, View] = {}
    for run in runs:
        try:
            scores = run.read_scores()
            key = ViewKey(run.result.root, run.result.side, run.result.labeling)
            if key in views:
                _check_same_labels(run, scores, views[key].labels)
            else:
                views[key] = View(scores._replace(scores=scores.scores[:0]), run.result)
            usable.append(run)
        except InputError as error:
            problems.append(str(error))
    return usable, views, problems


def _check_same_labels(run: FinishedRun, scores: Scores, expected: Scores) -> None:
    for field in ("clip_id", "mids", "labels", "masked"):
        if not np.array_equal(getattr(expected, field), getattr(scores, field)):
            raise InputError(
                f"{run.workdir.scores_path}: its {field} are not those of the other runs with "
                f"that root and labeling; {TEST_AGAIN}"
            )


def _metrics(
    run: FinishedRun, scores: Scores, views: Mapping[ViewKey, View], truth: Truth | None
) -> dict[str, Any]:
    result = run.result
    scored_on = {}
    for labeling in LABELINGS:
        view = views.get(ViewKey(result.root, result.side, labeling))
        if view is not None and np.array_equal(view.labels.clip_id, scores.clip_id):
            _, own, others = np.intersect1d(scores.mids, view.labels.mids, return_indices=True)
            scored_on[labeling] = _scored(
                scores.scores[:, own], view.labels.labels[:, others], view.labels.masked[:, others]
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
        "mAP": none_if_undefined(evaluation.mean_average_precision),
        "mean_auc": none_if_undefined(evaluation.mean_auc),
        "d_prime": none_if_undefined(evaluation.d_prime),
        "best_epoch": result.best_epoch,
        "scored_on": scored_on,
    }


def _scored(scores: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> dict[str, Any]:
    evaluation = evaluate(scores, labels, masked)
    return {
        "mAP": none_if_undefined(evaluation.mean_average_precision),
        "classes": int((~np.isnan(evaluation.average_precision)).sum()),
    }


def none_if_undefined(value: float) -> float | None:
    """The value, or None for NaN and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else None
