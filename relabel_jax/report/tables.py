"""The paper's Tables I, III and IV for finished runs, with the significance of each difference.

- Table I has the clips and labels of each root's two sides under each labeling.
- Table III has the test mAP of `features` by root, target labeling and labeling of the base.
- Table IV has the same for `finetune` and `scratch`.

A transfer is compared with the one from the base with original labels; root, method, target
labeling and seeds are the same. `scratch` has no base, and is compared with `finetune`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.report.measured import (
    Measured,
    TestSet,
    TestSetKey,
    measure,
    none_if_undefined,
)
from relabel_jax.report.results import FinishedRun
from relabel_jax.report.transfers import (
    SIGNIFICANT_P,
    TABLES,
    TUNED,
    mean,
    standard_deviation,
    transfer_rows,
    wins,
)
from relabel_jax.report.truth import Truth


def report(
    runs: Sequence[FinishedRun],
    problems: Sequence[str],
    roots: Sequence[str],
    paper: Mapping[str, Any],
    truth: Truth | None,
) -> dict[str, Any]:
    """Returns everything that the tables and the page show.

    Args:
      runs: finished runs on one data set.
      problems: a line for each run that could not be used.
      roots: display names in the order to show. Roots without runs get empty rows.
      paper: the content of `paper_tables.json`.
      truth: the true mids by clip id, or None if they are not known.

    Returns:
      A value for JSON, where None stands for an undefined or missing value:

      - `table1`, `table3`, `table4`: the rows of the CSV files.
      - `wins`: for each table and labeling of the base, see `transfers.wins`.
      - `runs`: the metrics of each run. `scored_on` has its mAP on each form of the test labels and
        on `truth`, over the `classes` that both know.
      - `curves`: the loss and the validation mAP of each run by epoch.
      - `classes`: for each root, method and target labeling, the average precision of each class
        (the mean over seeds) under each labeling of the base, and its positives among the test
        clips.
      - `problems`: the given ones, then those found here.

    Raises:
      InputError: a test clip is not in the truth.
    """
    measured, unusable = measure(runs, truth)
    roots = list(dict.fromkeys([*roots, *(run.result.root for run in measured.runs)]))
    tables = {name: transfer_rows(name, roots, measured, paper[name]) for name in TABLES}
    return {
        "table1": list(_counts(roots, measured, paper["table1"])),
        **tables,
        "wins": [
            wins(name, base, rows) for name, rows in tables.items() for base in PAPER_LABELINGS[1:]
        ],
        "runs": measured.metrics,
        "curves": [_curve(run) for run in measured.runs],
        "classes": list(_classes(roots, measured)),
        "problems": [*problems, *unusable],
    }


def text(result: Mapping[str, Any]) -> str:
    """Returns Tables III and IV as text: test mAP, with a star at significant differences.

    Rows without any result are left out: a grid may have run only in part.
    """
    columns = ("", *PAPER_LABELINGS)
    titles = "".join(f"{base or 'scratch':>9}" for base in columns)
    lines = [f"{'root':24}{'labels':8}{'method':10}{titles}"]
    for name in TABLES:
        shown: dict[tuple[str, str], dict[str, str]] = {}
        for row in result[name]:
            value = "-" if row["mAP"] is None else f"{row['mAP']:.4f}"
            is_significant = row["p_holm"] is not None and row["p_holm"] < SIGNIFICANT_P
            line = shown.setdefault((row["root"], row["labeling"]), {})
            line[row["base_labeling"]] = value + ("*" if is_significant else " ")
        lines += [
            f"{root:24}{labeling:8}{TUNED[name]:10}"
            + "".join(f"{values.get(base, ''):>9}" for base in columns)
            for (root, labeling), values in shown.items()
            if any(value.strip() != "-" for value in values.values())
        ]
    if len(lines) == 1:
        lines = ["no transfer has finished yet, so Tables III and IV are empty"]
    lines += [
        f"{win['table']}: {win['base_labeling']} above ol in {win['wins']} of {win['comparisons']} "
        f"(significantly above in {win['significant_wins']}, below in {win['significant_losses']})"
        for win in result["wins"]
        if win["comparisons"]
    ]
    return "\n".join(lines)


def _counts(
    roots: Sequence[str], measured: Measured, paper: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of Table I."""
    for root in roots:
        for side in ("base", "target"):
            for labeling in PAPER_LABELINGS:
                key = TestSetKey(root, side, labeling)
                test_set = measured.test_sets.get(key)
                if test_set is not None:
                    yield _counts_row(key, test_set, measured, paper.get(root, {}))


def _counts_row(
    key: TestSetKey, test_set: TestSet, measured: Measured, paper: Mapping[str, Any]
) -> dict[str, Any]:
    bases = [
        run["mAP"]
        for run in measured.metrics
        if key.side == "base" and (run["root"], run["side"], run["labeling"]) == key
    ]
    in_paper = paper if (key.side, key.labeling) == ("target", "ol") else {}
    return {
        "root": key.root,
        "side": key.side,
        "labeling": key.labeling,
        **{f"{split}_clips": number for split, number in test_set.result.num_clips.items()},
        "labels": test_set.result.num_labels,
        "labels_per_test_clip": float(test_set.labels.labels.sum(axis=1).mean()),
        "masked_per_test_clip": float(test_set.labels.masked.sum(axis=1).mean()),
        "mAP": mean(bases),
        "mAP_sd": standard_deviation(bases),
        "paper_labels": in_paper.get("labels"),
        "paper_target_clips": in_paper.get("target_clips"),
    }


def _curve(run: FinishedRun) -> dict[str, Any]:
    fields = ("epoch", "train_loss", "validation_mAP")
    return {
        **run.key._asdict(),
        "best_epoch": run.result.best_epoch,
        **{field: [line[field] for line in run.curve] for field in fields},
    }


def _classes(roots: Sequence[str], measured: Measured) -> Iterator[dict[str, Any]]:
    for root in roots:
        for method in TUNED.values():
            for labeling in PAPER_LABELINGS:
                by_base = {
                    base: measured.by_seed(root, method, base, labeling) for base in PAPER_LABELINGS
                }
                if not any(by_base.values()):
                    continue
                labels = measured.test_sets[TestSetKey(root, "target", labeling)].labels
                yield {
                    "root": root,
                    "method": method,
                    "labeling": labeling,
                    "mids": labels.mids.tolist(),
                    "positives": (labels.labels & ~labels.masked).sum(axis=0).tolist(),
                    "average_precision": {
                        base: _mean_by_class([each.average_precision for each in by_seed.values()])
                        for base, by_seed in by_base.items()
                        if by_seed
                    },
                }


def _mean_by_class(average_precisions: Sequence[np.ndarray]) -> list[float | None]:
    return [none_if_undefined(value) for value in np.mean(average_precisions, axis=0)]
