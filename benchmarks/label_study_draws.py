"""Pools the gains of several draws of the label study, by meta-analysis.

    python benchmarks/label_study_draws.py STUDY1 STUDY2 STUDY3

Each folder has a finished study (`label_study.py`) on other scenes, other splits of the recordings
or other raters. For each gain that at least two of them report, it prints:

  mean       the mean of these draws: weights 1 / variance, and a 95% interval
  overall    the mean of all draws that one could make, and its 95% interval: the random-effects
             model of R. DerSimonian and N. Laird (Meta-analysis in clinical trials, 1986) with the
             interval of J. Hartung and G. Knapp (2001). It is wide if the draws differ or are few.
  tau        the standard deviation of the true gains over draws, estimated

The variance of a gain is (half of its interval / 1.96)^2.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from label_study_report import Key, base_title
from scipy import stats

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import csv_text, read_json

_FIELDS = (*Key._fields, "severity")
_Z = stats.norm.ppf(0.975)


class Pooled(NamedTuple):
    """Gains of several draws, pooled.

    Attributes:
      mean, half_width: of these draws (fixed effects).
      overall, overall_half_width: of all possible draws (random effects).
      tau: standard deviation of the true gains over draws.
    """

    mean: float
    half_width: float
    overall: float
    overall_half_width: float
    tau: float


def pool(gains: np.ndarray, half_widths: np.ndarray) -> Pooled:
    """Pools gains.

    Args:
      gains: float64[draws], at least two.
      half_widths: float64[draws], half of their 95% intervals.
    """
    variances = (half_widths / _Z) ** 2
    weights = 1 / variances
    mean = np.average(gains, weights=weights)
    freedom = len(gains) - 1
    excess = np.sum(weights * (gains - mean) ** 2) - freedom
    tau2 = max(0.0, excess / (weights.sum() - np.sum(weights**2) / weights.sum()))
    weights_overall = 1 / (variances + tau2)
    overall = np.average(gains, weights=weights_overall)
    # At least the variance of the model, so that draws that agree by chance do not look exact.
    spread = np.sum(weights_overall * (gains - overall) ** 2) / freedom
    variance = max(1.0, spread) / weights_overall.sum()
    return Pooled(
        float(mean),
        float(_Z / np.sqrt(weights.sum())),
        float(overall),
        float(stats.t.ppf(0.975, freedom) * np.sqrt(variance)),
        float(np.sqrt(tau2)),
    )


def pool_rows(studies: Sequence[Sequence[dict[str, Any]]]) -> list[tuple[dict[str, Any], Pooled]]:
    """Pools each gain that at least two studies have.

    Args:
      studies: `rows` of each `study.json`.

    Returns:
      The first row of each, and the pooled gain.
    """
    found: dict[tuple, list[dict[str, Any]]] = {}
    for rows in studies:
        for row in rows:
            if "gain" in row:
                found.setdefault(tuple(row[name] for name in _FIELDS), []).append(row)
    pooled = []
    for same in found.values():
        if len(same) > 1:
            gains = np.array([row["gain"] for row in same])
            half_widths = np.array([(row["high"] - row["low"]) / 2 for row in same])
            pooled.append((same[0] | {"draws": len(same)}, pool(gains, half_widths)))
    return pooled


def run(folders: Sequence) -> None:
    """Prints the table as CSV.

    Raises:
      InputError: a study has no report, or no gain is in two of them.
    """
    studies = []
    for folder in folders:
        path = folder / "study.json"
        report = read_json(path)
        if not isinstance(report, dict) or "rows" not in report:
            raise InputError(f"{path}: expected the report of label_study.py")
        studies.append(report["rows"])
    pooled = pool_rows(studies)
    if not pooled:
        raise InputError("no gain is in two of the studies: they have other sizes or parts")
    lines = []
    for row, result in pooled:
        line = {name: row[name] for name in (*_FIELDS, "draws")} | {"base": base_title(row)}
        lines.append(line | {name: f"{value:.4f}" for name, value in result._asdict().items()})
    print(csv_text(lines), end="")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="+", type=cli.path, metavar="STUDY", help="their folders")
    flags = parser.parse_args(arguments)
    return cli.run(lambda: run(flags.studies))


if __name__ == "__main__":
    sys.exit(main())
