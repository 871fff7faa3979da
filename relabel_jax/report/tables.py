"""The paper's Tables I, III and IV for finished runs, with the significance of each difference.

- Table I has the clips and labels of each root's two sides under each labeling.
- Table III has the test mAP of the base networks by root and labeling. Each is tested on its own
  labels, so its figures are compared with the paper's, not with each other.
- Table IV has the test mAP of the target networks by root, target labeling and labeling of the
  base. Its first half has `features`, its second half has `scratch` and `finetune`.

In Table IV a transfer is compared with the one from the base with original labels; root, method,
target labeling and seeds are the same. `scratch` has no base, and is compared with `finetune`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from relabel_jax.labels.views import SPLITS
from relabel_jax.metrics import none_if_undefined
from relabel_jax.report.measured import (
    Measured,
    TestSetKey,
    measure,
)
from relabel_jax.report.results import FinishedRun
from relabel_jax.report.statistics import replicates_for
from relabel_jax.report.transfers import (
    HALVES,
    REFERENCE,
    SIGNIFICANT_P,
    beside_the_paper,
    mean,
    num_comparisons,
    standard_deviation,
    transfer_rows,
    wins,
)
from relabel_jax.report.truth import Truth

TABLES = ("table1", "table3", "table4")


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

      - `labelings`: the paper's labelings and those of the runs, in the order of the tables.
      - `table1`, `table3`, `table4`: the rows of the CSV files.
      - `wins`: for each half of Table IV and labeling of the base, see `transfers.wins`.
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
    measured, unusable = measure(runs, truth, replicates_for(num_comparisons(runs)))
    roots = list(dict.fromkeys([*roots, *(run.result.root for run in measured.runs)]))
    halves = {half: transfer_rows(half, roots, measured, paper["table4"][half]) for half in HALVES}
    return {
        "labelings": list(measured.labelings),
        "table1": list(_counts(roots, measured, paper["table1"])),
        "table3": list(_bases(roots, measured, paper["table3"])),
        "table4": [row for rows in halves.values() for row in rows],
        "wins": [
            wins(half, base, rows)
            for half, rows in halves.items()
            for base in measured.base_labelings
            if base != REFERENCE
        ],
        "runs": measured.metrics,
        "curves": [_curve(run) for run in measured.runs],
        "classes": list(_classes(roots, measured)),
        "problems": [*problems, *unusable],
    }


def text(result: Mapping[str, Any]) -> str:
    """Returns Tables III and IV as text: test mAP, with a star at significant differences.

    Rows and columns without any result are left out: a grid may have run only in part.
    """
    bases = list(
        dict.fromkeys(row["labeling"] for row in result["table3"] if row["mAP"] is not None)
    )
    has_scratch = any(row["method"] == "scratch" and row["mAP"] for row in result["table4"])
    of_bases: _TextRows = {}
    for row in result["table3"]:
        of_bases.setdefault((row["root"],), {})[row["labeling"]] = _text_value(row)
    of_transfers: _TextRows = {}
    for row in result["table4"]:
        half = "features" if row["method"] == "features" else "finetune"
        heads = (row["root"], row["labeling"], half)
        of_transfers.setdefault(heads, {})[row["base_labeling"]] = _text_value(row)
    lines = [
        *_text_table(
            "Table III: base networks. Each has its own test labels: do not compare the columns.",
            {"root": 42},
            bases,
            of_bases,
        ),
        *_text_table(
            "Table IV: target networks by labeling of the base (* differs from ol beyond chance)",
            {"root": 24, "labels": 8, "method": 10},
            [*([""] if has_scratch else []), *bases],
            of_transfers,
        ),
    ]
    if not any(row["mAP"] is not None for row in result["table4"]):
        lines.append("no transfer has finished yet, so Table IV is empty")
    lines += [
        f"{win['method']}: {win['base_labeling']} above ol in {win['wins']} of "
        f"{win['comparisons']} (significantly above in {win['significant_wins']}, below in "
        f"{win['significant_losses']})"
        for win in result["wins"]
        if win["comparisons"] > 1
    ]
    compared = [row for row in result["table4"] if row.get("difference") is not None]
    if len(compared) <= _FEW_COMPARISONS:
        lines += [_text_difference(row) for row in compared]
    return "\n".join(lines)


def _text_difference(row: Mapping[str, Any]) -> str:
    """Returns one difference with its interval, and the difference that it could tell from none."""
    half_width = (row["high"] - row["low"]) / 2
    base = f"base with {row['base_labeling']}" if row["base_labeling"] else "scratch"
    return (
        f"{row['root']}, {row['method']}: {base} minus base with ol: {row['difference']:+.3f} "
        f"(95% interval {row['low']:+.3f} to {row['high']:+.3f}).\n"
        f"{row['test_clips']} test clips cannot tell a difference below about {half_width:.2f} "
        "from none."
    )


_FEW_COMPARISONS = 3  # up to this number, the text has the interval of each

_TextRows = dict[tuple[str, ...], dict[str, str]]


def _text_value(row: Mapping[str, Any]) -> str:
    if row["mAP"] is None:
        return "- "
    p_holm = row.get("p_holm")
    return f"{row['mAP']:.4f}" + ("*" if p_holm is not None and p_holm < SIGNIFICANT_P else " ")


def _text_table(
    title: str, heads: Mapping[str, int], labelings: Sequence[str], rows: _TextRows
) -> Iterator[str]:
    """Yields the lines of a table; nothing if it has no result.

    Args:
      title: the first line.
      heads: the least width of each column that names a row, by its title.
      labelings: the other columns; "" is `scratch`.
      rows: the values by labeling, by the names of the row.
    """
    shown = {names: row for names, row in rows.items() if any(v != "- " for v in row.values())}
    if not shown:
        return
    of_names = [
        max(width, *(len(names[i]) + 2 for names in shown))
        for i, width in enumerate(heads.values())
    ]
    of_labelings = [max(9, len(labeling) + 2) for labeling in labelings]

    def line(names: Iterable[str], values: Iterable[str]) -> str:
        left = "".join(f"{name:{w}}" for name, w in zip(names, of_names, strict=True))
        return left + "".join(f"{v:>{w}}" for v, w in zip(values, of_labelings, strict=True))

    yield title
    yield line(heads, (labeling or "scratch" for labeling in labelings))
    for names, row in shown.items():
        yield line(names, (row.get(labeling, "") for labeling in labelings))


def _counts(
    roots: Sequence[str], measured: Measured, paper: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of Table I. A root of the paper always has the row that the paper prints."""
    for root in roots:
        for side in ("base", "target"):
            for labeling in measured.labelings:
                key = TestSetKey(root, side, labeling)
                in_paper = paper.get(root, {}) if key[1:] == ("target", "ol") else {}
                if key in measured.test_sets or in_paper:
                    yield _counts_row(key, measured, in_paper)


def _counts_row(key: TestSetKey, measured: Measured, in_paper: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of Table I.

    `share_percent` is the side's part of all clips, `labels_percent` the part of its label set in
    the label sets of both sides. Both need a run on the other side.
    """
    test_set = measured.test_sets.get(key)
    num_clips = test_set.result.num_clips if test_set else {}
    clips = _num_clips(key.root, key.side, measured)
    num_labels = test_set.result.num_labels if test_set else None
    side = "base" if key.side == "target" else "target"
    other = measured.test_sets.get(key._replace(side=side))
    return {
        "root": key.root,
        "side": key.side,
        "labeling": key.labeling,
        "clips": clips if test_set else None,
        "share_percent": _percent(clips, _num_clips(key.root, side, measured)),
        **{f"{split}_clips": num_clips.get(split) for split in SPLITS},
        "labels": num_labels,
        "labels_percent": _percent(num_labels, other.result.num_labels if other else None),
        "labels_per_test_clip": _per_clip(test_set.labels.labels) if test_set else None,
        "masked_per_test_clip": _per_clip(test_set.labels.masked) if test_set else None,
        **{
            f"paper_{field}": in_paper.get(field)
            for field in ("clips", "share_percent", "labels", "labels_percent")
        },
    }


def _num_clips(root: str, side: str, measured: Measured) -> int | None:
    """Returns the clips of a side, which are the same under all labelings; None without a run."""
    for key, test_set in measured.test_sets.items():
        if (key.root, key.side) == (root, side):
            return sum(test_set.result.num_clips.values())
    return None


def _percent(part: int | None, rest: int | None) -> float | None:
    return None if part is None or rest is None else 100 * part / (part + rest)


def _per_clip(entries: np.ndarray) -> float:
    return float(entries.sum(axis=1).mean())


def _bases(
    roots: Sequence[str], measured: Measured, paper: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yields the rows of Table III."""
    for root in roots:
        for labeling in measured.base_labelings:
            values = [
                run["mAP"]
                for run in measured.metrics
                if (run["root"], run["side"], run["labeling"]) == (root, "base", labeling)
            ]
            test_set = measured.test_sets.get(TestSetKey(root, "base", labeling))
            mean_value = mean(values)
            yield {
                "root": root,
                "labeling": labeling,
                "seeds": len(values),
                "train_clips": test_set.result.num_clips["train"] if test_set else None,
                "mAP": mean_value,
                "mAP_sd": standard_deviation(values),
                **beside_the_paper(mean_value, paper.get(root, {}).get(labeling)),
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
        for method in HALVES:
            for labeling in measured.target_labelings:
                by_base = {
                    base: measured.by_seed(root, method, base, labeling)
                    for base in measured.base_labelings
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
