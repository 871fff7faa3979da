"""The paper's Tables I, III and IV of finished runs, each figure with what chance would give.

- Table I: clips and labels of each root's two sides under each labeling.
- Table III: `features`, test mAP by root, target labeling and labeling of the base.
- Table IV: `finetune` and `scratch`, the same.

A difference is against the base with original labels: same root, method, target labeling and seeds.
`scratch`, which has no base, is compared with `finetune` from that base.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.metrics import evaluate
from relabel_jax.report.results import TEST_AGAIN, Cell, Scores, true_labels
from relabel_jax.report.statistics import bootstrap_map, compare, holm

# The methods of each table with the columns they fill: labelings of the base, or scratch.
TABLES = {
    "table3": [("features", base) for base in LABELINGS],
    "table4": [("scratch", ""), *(("finetune", base) for base in LABELINGS)],
}
_REFERENCE = "ol"
_Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """What is needed of a run's scores.

    Attributes:
      mean_average_precision: on its own test labels.
      replicates: float64[replicates], the same over resampled clips.
      average_precision: float64[classes].
    """

    mean_average_precision: float
    replicates: np.ndarray
    average_precision: np.ndarray


def report(
    cells: Sequence[Cell],
    problems: Sequence[str],
    roots: Sequence[str],
    paper: Mapping[str, Any],
    truth: Mapping[str, frozenset[str]] | None,
) -> dict[str, Any]:
    """Everything that tables and page show.

    Args:
      cells: finished runs on one data set.
      problems: a line on each run that could not be used.
      roots: display names in the order to show; those without runs get empty rows.
      paper: the content of `paper_tables.json`.
      truth: true mids by clip id where known.

    Returns:
      A value for JSON (None is undefined or absent):

      - `table1`, `table3`, `table4`: rows as in the CSV files.
      - `wins`: for each table and labeling of the base, in how many of its `comparisons` mAP is
        above that of the base with original labels.
      - `runs`: every run's metrics; `scored_on` is its mAP on each form of the test labels, and on
        `truth`, over the `classes` that both know.
      - `curves`: loss and validation mAP by epoch of every run.
      - `classes`: for each root, method and target labeling, the average precision of each class
        (the mean over seeds) under each labeling of the base, and its positives among the test
        clips.
      - `problems`: as given, and what was found here.
    """
    problems = list(problems)
    measured: dict[tuple, _Measured] = {}
    forms: dict[tuple[str, str, str], Scores] = {}
    facts: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    runs, usable = [], []
    for cell in cells:  # what the test labels are, before anything is scored on them
        try:
            scores = cell.read_scores()
            form = (cell.facts["root"], cell.facts["side"], cell.facts["labeling"])
            same = forms.setdefault(form, scores._replace(scores=scores.scores[:0]))
            for field in ("clip_id", "mids", "labels", "masked"):
                if not np.array_equal(getattr(same, field), getattr(scores, field)):
                    raise InputError(
                        f"{cell.workdir / 'test_scores.npz'}: its {field} are not those of the "
                        f"other runs with that root and labeling; {TEST_AGAIN}"
                    )
            facts.setdefault(form, cell.facts)
            usable.append(cell)
        except InputError as error:
            problems.append(str(error))
    for cell in tqdm(usable, desc="bootstrap", unit=" runs", disable=None):
        scores = cell.read_scores()
        runs.append(_run(cell, scores, forms, truth))
        if cell.facts["side"] == "target":
            evaluation = scores.evaluate()
            measured[cell.key] = _Measured(
                evaluation.mean_average_precision,
                bootstrap_map(scores.scores, scores.labels, scores.masked),
                evaluation.average_precision,
            )
    roots = list(dict.fromkeys([*roots, *(cell.facts["root"] for cell in usable)]))
    tables: dict[str, list[_Row]] = {
        name: _transfers(name, roots, measured, runs, facts, paper) for name in TABLES
    }
    return {
        "table1": _counts(roots, forms, facts, runs, paper),
        **tables,
        "wins": [
            _wins(name, base, rows) for name, rows in tables.items() for base in LABELINGS[1:]
        ],
        "runs": runs,
        "curves": [_curve(cell) for cell in usable],
        "classes": _classes(roots, measured, forms),
        "problems": problems,
    }


def text(result: Mapping[str, Any]) -> str:
    """Tables III and IV as lines to read: test mAP, a star where the difference is significant."""
    columns = ("", *LABELINGS)
    titles = "".join(f"{base or 'scratch':>9}" for base in columns)
    lines = [f"{'root':24}{'labels':8}{'method':10}{titles}"]
    for name in TABLES:
        method = "features" if name == "table3" else "finetune"
        shown: dict[tuple[str, str], dict[str, str]] = {}
        for row in result[name]:
            mean = "-" if row["mAP"] is None else f"{row['mAP']:.4f}"
            star = "*" if row["p_holm"] is not None and row["p_holm"] < 0.05 else " "
            shown.setdefault((row["root"], row["labeling"]), {})[row["base_labeling"]] = mean + star
        lines += [
            f"{root:24}{labeling:8}{method:10}"
            + "".join(f"{cells.get(base, ''):>9}" for base in columns)
            for (root, labeling), cells in shown.items()
        ]
    lines += [
        f"{win['table']}: {win['base_labeling']} above ol in {win['wins']} of {win['comparisons']}"
        for win in result["wins"]
        if win["comparisons"]
    ]
    return "\n".join(lines)


def _run(
    cell: Cell,
    scores: Scores,
    forms: Mapping[tuple[str, str, str], Scores],
    truth: Mapping[str, frozenset[str]] | None,
) -> _Row:
    root, method, base_labeling, labeling, seed = cell.key
    scored_on = {}
    for form_labeling in LABELINGS:
        form = forms.get((root, cell.facts["side"], form_labeling))
        if form is not None and np.array_equal(form.clip_id, scores.clip_id):
            _, ours, theirs = np.intersect1d(scores.mids, form.mids, return_indices=True)
            scored_on[form_labeling] = _scored(
                scores.scores[:, ours], form.labels[:, theirs], form.masked[:, theirs]
            )
    if truth is not None:
        labels = true_labels(dict(truth), scores.clip_id.tolist(), scores.mids.tolist())
        scored_on["truth"] = _scored(scores.scores, labels, np.zeros_like(labels))
    evaluation = scores.evaluate()
    return {
        "root": root,
        "side": cell.facts["side"],
        "method": method,
        "base_labeling": base_labeling,
        "labeling": labeling,
        "seed": seed,
        "mAP": _or_none(evaluation.mean_average_precision),
        "mean_auc": _or_none(evaluation.mean_auc),
        "d_prime": _or_none(evaluation.d_prime),
        "best_epoch": cell.facts["best_epoch"],
        "scored_on": scored_on,
    }


def _scored(scores: np.ndarray, labels: np.ndarray, masked: np.ndarray) -> _Row:
    evaluation = evaluate(scores, labels, masked)
    return {
        "mAP": _or_none(evaluation.mean_average_precision),
        "classes": int((~np.isnan(evaluation.average_precision)).sum()),
    }


def _transfers(
    name: str,
    roots: Sequence[str],
    measured: Mapping[tuple, _Measured],
    runs: Sequence[_Row],
    facts: Mapping[tuple[str, str, str], Mapping[str, Any]],
    paper: Mapping[str, Any],
) -> list[_Row]:
    """The rows of Table III or IV."""
    rows, to_correct = [], []
    labelings = [labeling for labeling in LABELINGS if any(key[3] == labeling for key in measured)]
    for root in roots:
        for labeling in labelings:
            for method, base in TABLES[name]:
                by_seed = _by_seed(measured, root, method, base, labeling)
                of_cell = [
                    run
                    for run in runs
                    if (run["root"], run["method"], run["base_labeling"], run["labeling"])
                    == (root, method, base, labeling)
                ]
                in_paper = paper[name].get(root, {}).get(labeling, {}).get(base or "scratch")
                means = [m.mean_average_precision for m in by_seed.values()]
                mean = _mean(means)
                of_root = facts.get((root, "target", labeling))
                row = {
                    "root": root,
                    "labeling": labeling,
                    "method": method,
                    "base_labeling": base,
                    "seeds": len(by_seed),
                    "target_clips": of_root["num_clips"]["train"] if of_root else None,
                    "mAP": mean,
                    "mAP_sd": _standard_deviation(means),
                    "difference": None,
                    "low": None,
                    "high": None,
                    "p": None,
                    "p_holm": None,
                    **{
                        f"mAP_on_{form}": _mean(
                            [run["scored_on"].get(form, {}).get("mAP") for run in of_cell]
                        )
                        for form in (*LABELINGS, "truth")
                    },
                    "paper": in_paper,
                    "minus_paper": None if None in (mean, in_paper) else mean - in_paper,
                }
                if base != _REFERENCE:
                    tuned = "features" if name == "table3" else "finetune"
                    against = _by_seed(measured, root, tuned, _REFERENCE, labeling)
                    seeds = sorted(by_seed.keys() & against.keys())
                    if seeds:
                        gain = np.mean(
                            [
                                by_seed[s].mean_average_precision
                                - against[s].mean_average_precision
                                for s in seeds
                            ]
                        )
                        replicates = np.mean(
                            [by_seed[s].replicates - against[s].replicates for s in seeds], axis=0
                        )
                        if not math.isnan(gain):
                            found = compare(float(gain), replicates)
                            row |= {field: _or_none(v) for field, v in found._asdict().items()}
                            to_correct.append(row)
                rows.append(row)
    to_correct = [row for row in to_correct if row["p"] is not None]
    for row, p_holm in zip(to_correct, holm([row["p"] for row in to_correct]), strict=True):
        row["p_holm"] = p_holm
    return rows


def _by_seed(
    measured: Mapping[tuple, _Measured], root: str, method: str, base: str, labeling: str
) -> dict[int, _Measured]:
    cell = (root, method, base, labeling)
    return {key[-1]: value for key, value in measured.items() if key[:-1] == cell}


def _counts(
    roots: Sequence[str],
    forms: Mapping[tuple[str, str, str], Scores],
    facts: Mapping[tuple[str, str, str], Mapping[str, Any]],
    runs: Sequence[_Row],
    paper: Mapping[str, Any],
) -> list[_Row]:
    """The rows of Table I."""
    rows = []
    for root in roots:
        for side in ("base", "target"):
            for labeling in LABELINGS:
                form, of_form = forms.get((root, side, labeling)), facts.get((root, side, labeling))
                if form is None or of_form is None:
                    continue
                of_paper = paper["table1"].get(root, {})
                is_papers = side == "target" and labeling == "ol"
                of_base = [
                    run["mAP"]
                    for run in runs
                    if side == "base"
                    and (run["root"], run["side"], run["labeling"]) == (root, "base", labeling)
                ]
                rows.append(
                    {
                        "root": root,
                        "side": side,
                        "labeling": labeling,
                        **{f"{split}_clips": n for split, n in of_form["num_clips"].items()},
                        "labels": of_form["num_labels"],
                        "labels_per_test_clip": float(form.labels.sum(axis=1).mean()),
                        "masked_per_test_clip": float(form.masked.sum(axis=1).mean()),
                        "mAP": _mean(of_base),
                        "mAP_sd": _standard_deviation(of_base),
                        "paper_labels": of_paper.get("labels") if is_papers else None,
                        "paper_target_clips": of_paper.get("target_clips") if is_papers else None,
                    }
                )
    return rows


def _wins(name: str, base: str, rows: Sequence[_Row]) -> _Row:
    """Wins as the paper counts them: a higher mAP, by however little."""
    differences = [
        row["difference"]
        for row in rows
        if row["base_labeling"] == base and row["difference"] is not None
    ]
    return {
        "table": name,
        "base_labeling": base,
        "wins": sum(difference > 0 for difference in differences),
        "comparisons": len(differences),
    }


def _curve(cell: Cell) -> _Row:
    root, method, base_labeling, labeling, seed = cell.key
    return {
        "root": root,
        "method": method,
        "base_labeling": base_labeling,
        "labeling": labeling,
        "seed": seed,
        "best_epoch": cell.facts["best_epoch"],
        **{
            field: [line[field] for line in cell.curve]
            for field in ("epoch", "train_loss", "validation_mAP")
        },
    }


def _classes(
    roots: Sequence[str],
    measured: Mapping[tuple, _Measured],
    forms: Mapping[tuple[str, str, str], Scores],
) -> list[_Row]:
    groups = []
    for root in roots:
        for method in ("features", "finetune"):
            for labeling in LABELINGS:
                by_base = {
                    base: _by_seed(measured, root, method, base, labeling) for base in LABELINGS
                }
                if not any(by_base.values()):
                    continue
                form = forms[root, "target", labeling]
                groups.append(
                    {
                        "root": root,
                        "method": method,
                        "labeling": labeling,
                        "mids": form.mids.tolist(),
                        "positives": (form.labels & ~form.masked).sum(axis=0).tolist(),
                        "average_precision": {
                            base: [
                                _or_none(value)
                                for value in np.mean(
                                    [m.average_precision for m in by_seed.values()], axis=0
                                )
                            ]
                            for base, by_seed in by_base.items()
                            if by_seed
                        },
                    }
                )
    return groups


def _mean(values: Sequence[float | None]) -> float | None:
    defined = _defined(values)
    return float(np.mean(defined)) if defined else None


def _standard_deviation(values: Sequence[float | None]) -> float | None:
    defined = _defined(values)
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else None


def _defined(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and not math.isnan(value)]


def _or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None
