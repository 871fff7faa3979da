"""The rows of Table IV: mean test mAP, and differences with their significance."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from relabel_jax.metrics import none_if_undefined
from relabel_jax.report.measured import Measured, TestSetKey, Transfer
from relabel_jax.report.results import FinishedRun
from relabel_jax.report.statistics import Comparison, compare, holm

HALVES = {"features": ("features",), "finetune": ("scratch", "finetune")}
"""The methods of each half of Table IV. A half has the name of its method with a base."""

REFERENCE = "ol"
"""The labeling of the bases with which the others are compared."""

SIGNIFICANT_P = 0.05
"""A difference counts as significant if its p, by Holm's correction, is below this."""


def num_comparisons(runs: Sequence[FinishedRun]) -> int:
    """Returns the largest number of differences that a half of Table IV can have."""
    cells = {run.key[:-1] for run in runs if run.key.base_labeling != REFERENCE}
    return max(sum(method in half for _, method, *_ in cells) for half in HALVES.values())


def transfer_rows(
    half: str, roots: Sequence[str], measured: Measured, paper: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns the rows of a half of Table IV.

    Args:
      half: a key of `HALVES`.
      roots: display names in the order of the rows.
      measured: the runs.
      paper: the paper's figures for this half.

    Returns:
      A dictionary for each row. None stands for an undefined or missing value.
    """
    rows = []
    for root in roots:
        for labeling in measured.target_labelings:
            for method, base in _columns(half, measured):
                row = _row(root, labeling, method, base, measured, paper)
                if base != REFERENCE:
                    found = _compare(
                        measured.by_seed(root, method, base, labeling),
                        measured.by_seed(root, half, REFERENCE, labeling),
                    )
                    if found is not None:
                        row |= {
                            field: none_if_undefined(value)
                            for field, value in found._asdict().items()
                        }
                rows.append(row)
    compared = [row for row in rows if row["p"] is not None]
    for row, p_holm in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = p_holm
    return rows


def _columns(half: str, measured: Measured) -> Iterator[tuple[str, str]]:
    """Yields the method and the labeling of the base ("" for `scratch`) of each column."""
    for method in HALVES[half]:
        for base in measured.base_labelings if method == half else [""]:
            yield method, base


def wins(half: str, base: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts how often the bases with one labeling beat the bases with original labels.

    Args:
      half: a key of `HALVES`.
      base: labeling of the base.
      rows: the result of `transfer_rows`.

    Returns:
      `wins` counts every higher mAP, as the paper does. `significant_wins` and `significant_losses`
      count the differences that the choice of test clips does not explain. `paper_wins` and
      `paper_comparisons` count in the paper's figures for the same rows.
    """
    of_base = [row for row in rows if row["base_labeling"] == base]
    compared = [row for row in of_base if row["difference"] is not None]
    significant = [
        row["difference"]
        for row in compared
        if row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT_P
    ]
    reference = {
        (row["root"], row["labeling"]): row["paper"]
        for row in rows
        if row["base_labeling"] == REFERENCE
    }
    in_paper = [
        (row["paper"], reference[row["root"], row["labeling"]])
        for row in of_base
        if row["paper"] is not None and reference[row["root"], row["labeling"]] is not None
    ]
    return {
        "method": half,
        "base_labeling": base,
        "wins": sum(row["difference"] > 0 for row in compared),
        "comparisons": len(compared),
        "significant_wins": sum(difference > 0 for difference in significant),
        "significant_losses": sum(difference < 0 for difference in significant),
        "paper_wins": sum(value > of_reference for value, of_reference in in_paper),
        "paper_comparisons": len(in_paper),
    }


def _row(
    root: str,
    labeling: str,
    method: str,
    base: str,
    measured: Measured,
    paper: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns a row, with None for each field of the comparison."""
    same = (root, method, base, labeling)
    metrics = [
        run
        for run in measured.metrics
        if (run["root"], run["method"], run["base_labeling"], run["labeling"]) == same
    ]
    in_paper = paper.get(root, {}).get(labeling, {}).get(base or "scratch")
    by_seed = measured.by_seed(*same)
    values = [transfer.mean_average_precision for transfer in by_seed.values()]
    mean_value = mean(values)
    test_set = measured.test_sets.get(TestSetKey(root, "target", labeling))
    return {
        "root": root,
        "labeling": labeling,
        "method": method,
        "base_labeling": base,
        "seeds": len(by_seed),
        "train_clips": test_set.result.num_clips["train"] if test_set else None,
        "test_clips": test_set.result.num_clips["test"] if test_set else None,
        "mAP": mean_value,
        "mAP_sd": standard_deviation(values),
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "p_holm": None,
        **{
            f"mAP_on_{form}": mean([run["scored_on"].get(form, {}).get("mAP") for run in metrics])
            for form in (*measured.labelings, "truth")
        },
        **beside_the_paper(mean_value, in_paper),
    }


def _compare(
    transfers: Mapping[int, Transfer], reference: Mapping[int, Transfer]
) -> Comparison | None:
    """Compares the means over the seeds that both have; returns None if they are undefined."""
    seeds = sorted(transfers.keys() & reference.keys())
    if not seeds:
        return None
    gain = np.mean(
        [
            transfers[seed].mean_average_precision - reference[seed].mean_average_precision
            for seed in seeds
        ]
    )
    if math.isnan(gain):
        return None
    replicates = np.mean(
        [transfers[seed].replicates - reference[seed].replicates for seed in seeds], axis=0
    )
    return compare(float(gain), replicates)


def beside_the_paper(value: float | None, in_paper: float | None) -> dict[str, float | None]:
    """Returns the paper's figure and the measured value minus it, or None if one is missing."""
    minus_paper = None if value is None or in_paper is None else value - in_paper
    return {"paper": in_paper, "minus_paper": minus_paper}


def mean(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the defined values, or None if there are none."""
    defined = _defined(values)
    return float(np.mean(defined)) if defined else None


def standard_deviation(values: Sequence[float | None]) -> float | None:
    """Returns the standard deviation of the defined values, or None for fewer than two."""
    defined = _defined(values)
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else None


def _defined(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]
