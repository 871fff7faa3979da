"""A new metric: label-weighted label-ranking average precision of a finished run.

For each positive label of a clip: the share of positives among the labels that score at least as
high. The metric is the mean over all positive labels. Masked labels take no part in the ranking.

    python docs/examples/lwlrap.py W/base
"""

import pathlib
import sys

import numpy as np

from relabel_jax.runs.workdir import Workdir


def lwlrap(scores: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> float:
    """Computes the metric.

    Args:
      scores: float32[clips, classes].
      labels: bool[clips, classes].
      masked: bool[clips, classes]; True is left out.

    Returns:
      A number in [0, 1]; NaN if no label is positive.
    """
    precisions = []
    for clip_scores, clip_labels, clip_masked in zip(scores, labels, masked, strict=True):
        known = clip_scores[~clip_masked]
        positive = clip_scores[clip_labels & ~clip_masked]
        for score in positive:
            precisions.append(np.sum(positive >= score) / np.sum(known >= score))
    return float(np.mean(precisions)) if precisions else float("nan")


def of_run(workdir: str) -> float:
    """The metric of the test scores of a run."""
    run = Workdir(pathlib.Path(workdir))
    test = run.read_scores(expected_map=run.read_result().test["mAP"])
    return lwlrap(test.scores, test.labels, test.masked)


if __name__ == "__main__":
    print(f"{of_run(sys.argv[1]):.4f}")
