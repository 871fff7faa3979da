"""The rows of Tables III and IV: mean test mAP, and differences with their significance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.report.measured import Measured, TestSetKey, Transfer, none_if_undefined
from relabel_jax.report.statistics import Comparison, compare, holm

TABLES = {
    "table3": [("features", base) for base in PAPER_LABELINGS],
    "table4": [("scratch", ""), *(("finetune", base) for base in PAPER_LABELINGS)],
}
"""The columns of each table: the method, and the labeling of the base ("" for `scratch`)."""

TUNED = {"table3": "features", "table4": "finetune"}
"""The method of each table that starts from a base."""

SIGNIFICANT_P = 0.05
"""A difference counts as significant if its p, by Holm's correction, is below this."""

_REFERENCE = "ol"


def transfer_rows(
    table: str, roots: Sequence[str], measured: Measured, paper: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Returns the rows of a table.

    Args:
      table: a key of `TABLES`.
      roots: display names in the order of the rows.
      measured: the runs.
      paper: the paper's figures for this table.

    Returns:
      A dictionary for each row. None stands for an undefined or missing value.
    """
    labelings = [
        labeling
        for labeling in PAPER_LABELINGS
        if any(key.labeling == labeling for key in measured.transfers)
    ]
    rows = []
    for root in roots:
        for labeling in labelings:
            for method, base in TABLES[table]:
                row = _row(root, labeling, method, base, measured, paper)
                if base != _REFERENCE:
                    found = _compare(
                        measured.by_seed(root, method, base, labeling),
                        measured.by_seed(root, TUNED[table], _REFERENCE, labeling),
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


def wins(table: str, base: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts how often the bases with one labeling beat the bases with original labels.

    Args:
      table: a key of `TABLES`.
      base: labeling of the base.
      rows: the result of `transfer_rows`.

    Returns:
      `wins` counts every higher mAP, as the paper does. `significant_wins` and `significant_losses`
      count the differences that the choice of test clips does not explain.
    """
    compared = [
        row for row in rows if row["base_labeling"] == base and row["difference"] is not None
    ]
    significant = [
        row["difference"]
        for row in compared
        if row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT_P
    ]
    return {
        "table": table,
        "base_labeling": base,
        "wins": sum(row["difference"] > 0 for row in compared),
        "comparisons": len(compared),
        "significant_wins": sum(difference > 0 for difference in significant),
        "significant_losses": sum(difference < 0 for difference in significant),
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
        "target_clips": test_set.result.num_clips["train"] if test_set else None,
        "mAP": mean_value,
        "mAP_sd": standard_deviation(values),
        "difference": None,
        "low": None,
        "high": None,
        "p": None,
        "p_holm": None,
        **{
            f"mAP_on_{form}": mean([run["scored_on"].get(form, {}).get("mAP") for run in metrics])
            for form in (*PAPER_LABELINGS, "truth")
        },
        "paper": in_paper,
        "minus_paper": None if mean_value is None or in_paper is None else mean_value - in_paper,
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
