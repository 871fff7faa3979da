"""The report of the label study: gains with intervals, recomputed from the scores of its runs."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from label_study_inputs import COMPLETE
from label_study_plan import NO_BASE, Design, Stage, target_recipe

from relabel_jax.files import complete_file, write_json
from relabel_jax.labels.labelings import title
from relabel_jax.labels.ontology import Ontology
from relabel_jax.metrics import evaluate
from relabel_jax.progress import track
from relabel_jax.report.statistics import Comparison, bootstrap_map, compare
from relabel_jax.report.truth import Truth, read_truth, true_labels
from relabel_jax.report.web_page import fill_page
from relabel_jax.runs.workdir import Workdir

NUM_REPLICATES = 500
_PAGE = pathlib.Path(__file__).with_name("label_study.html")


class Key(NamedTuple):
    """The runs that differ only in their seeds. `labeling` is that of the target side."""

    method: str
    base_clips: int
    recipe: str
    epochs: int
    target_clips: int
    labeling: str
    base: str


class Cell(NamedTuple):
    """The tests on the truth of runs that differ only in their seeds.

    Attributes:
      values: float64[seeds], mAP.
      replicates: float64[seeds, replicates], mAP over resampled test clips, the same for all runs
        with the same test clips.
      test_clips: the number of test clips.
    """

    values: np.ndarray
    replicates: np.ndarray
    test_clips: int


def over_seeds_and_clips(values: np.ndarray, replicates: np.ndarray, seed: int = 0) -> Comparison:
    """Compares by a bootstrap over seeds and clips together.

    Each replicate draws the test clips, the same for all seeds, and one seed less than there are,
    with replacement. With one less the variance over the seeds is unbiased (J. Rao and C. Wu,
    Resampling inference with complex survey data, 1988).

    Args:
      values: float64[seeds], the differences.
      replicates: float64[seeds, replicates], the differences over resampled clips.
      seed: seed of the draws.
    """
    num_seeds, num_replicates = replicates.shape
    rng = np.random.default_rng(seed)
    drawn = rng.integers(num_seeds, size=(max(1, num_seeds - 1), num_replicates))
    means = replicates[drawn, np.arange(num_replicates)].mean(axis=0)
    return compare(float(values.mean()), means)


def read_cells(folder: pathlib.Path, stages: Iterable[Stage]) -> dict[Key, Cell]:
    """Measures the finished transfers of a study on the truth.

    The replicates of a run are kept in `replicates/` of the study. A cell whose seeds are not all
    finished is left out.

    Args:
      folder: the folder of the study.
      stages: its plan.
    """
    ontology = Ontology.from_json(folder / "ontology.json")
    truths: dict[int, Truth] = {}
    runs: dict[Key, list[pathlib.Path]] = {}
    for stage in stages:
        for transfers in stage.transfers:
            at = folder / stage.transfer_folder(transfers)
            for base in transfers.bases or (NO_BASE,):
                for labeling in transfers.labelings:
                    key = Key(
                        transfers.method,
                        stage.clips if transfers.bases else 0,
                        stage.recipe,
                        stage.epochs if transfers.bases else 0,
                        transfers.target_clips,
                        labeling,
                        base,
                    )
                    paths = [at / f"{base}_seed{k}" / labeling for k in range(stage.num_seeds)]
                    if all(Workdir(path).is_finished for path in paths):
                        runs[key] = paths
    cells = {}
    for key, paths in track(list(runs.items()), "bootstrap", "cells"):
        if key.target_clips not in truths:
            inputs = folder / "data" / f"target_{key.target_clips}_inputs"
            truths[key.target_clips] = read_truth(inputs / "segments.csv", ontology)
        measured = [_measure(path, folder, truths[key.target_clips]) for path in paths]
        cells[key] = Cell(
            np.array([values[0] for values, _ in measured]),
            np.stack([values[1:] for values, _ in measured]),
            measured[0][1],
        )
    return cells


def _measure(path: pathlib.Path, folder: pathlib.Path, truth: Truth) -> tuple[np.ndarray, int]:
    """Returns mAP on the truth followed by its replicates, and the number of test clips."""
    workdir = Workdir(path)
    result = workdir.read_result()
    kept = folder / "replicates" / path.relative_to(folder).with_suffix(".npy")
    if kept.exists() and len(values := np.load(kept)) == NUM_REPLICATES + 1:
        return values, result.num_clips["test"]
    scores = workdir.read_scores(result.test["mAP"])
    labels = true_labels(truth, scores.clip_id.tolist(), scores.mids.tolist())
    nothing = np.zeros_like(labels)
    value = evaluate(scores.scores, labels, nothing).mean_average_precision
    replicates = bootstrap_map(scores.scores, labels, nothing, num_replicates=NUM_REPLICATES)
    values = np.array([value, *replicates])
    kept.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(kept) as temporary, open(temporary, "wb") as file:
        np.save(file, values)
    return values, result.num_clips["test"]


def _parsed(name: str) -> tuple[str, float | None]:
    """("pel", 0.5) of "pel_x50", ("complete", None) of "complete"."""
    labeling, _, percent = name.partition("_x")
    return labeling, int(percent) / 100 if percent else None


def make_rows(cells: dict[Key, Cell], severities: Sequence[float]) -> list[dict[str, Any]]:
    """Returns a row for each cell and severity: its mAP, and its gain over a reference.

    The reference is the base with `ol`, the same severity and everything else in common. The
    exceptions are:

    - `large_loss`, `smoothed` and `max_constraint`: the base that was trained by `bce`;
    - `scratch`: the fine-tuned base;
    - mixup by the rule `known`: the base with the same labeling and the rule `strict`, which itself
      is compared with nothing.

    If one of them has more seeds, the seeds that both have are compared.
    """
    rows = []
    for key, cell in cells.items():
        base, of_base = _parsed(key.base)
        labeling, of_labeling = _parsed(key.labeling)
        known = {at for at in (of_base, of_labeling) if at is not None}
        for severity in known or severities:
            reference = _reference(key, severity, cells)
            if reference is None and key.recipe != "strict":
                continue
            other = cell if reference is None else cells[reference]
            num_seeds = min(len(cell.values), len(other.values))
            seeds = slice(num_seeds)
            row = key._asdict() | {"base": base, "labeling": labeling, "severity": severity}
            row |= {"seeds": num_seeds, "test_clips": cell.test_clips}
            row |= {"mAP": float(cell.values[seeds].mean())}
            if reference not in (None, key):
                gains = cell.values[seeds] - other.values[seeds]
                replicates = cell.replicates[seeds] - other.replicates[seeds]
                compared = over_seeds_and_clips(gains, replicates)
                sd = float(gains.std(ddof=1)) if len(gains) > 1 else None
                row |= {"gain": compared.difference, "low": compared.low, "high": compared.high}
                row |= {"sd_over_seeds": sd}
            rows.append(row)
    return rows


def _reference(key: Key, severity: float, cells: Iterable[Key]) -> Key | None:
    """The cell that a cell is compared with, as `make_rows` says; None if it is not there."""
    if key.recipe == "strict":
        return None
    if key.recipe == "known":
        like = key._replace(recipe="strict")
    else:
        like = key._replace(recipe=target_recipe(key.recipe), base=f"ol_x{round(100 * severity)}")
    for each in cells:
        if key.method == "scratch":
            of_base = {"base_clips": each.base_clips, "epochs": each.epochs}
            like = like._replace(method="finetune", **of_base)
        if each == like:
            return each
    return None


def verdict(row: dict[str, Any]) -> str:
    """`helps`, `hurts`, or `is within chance` if the interval has 0."""
    return "helps" if row["low"] > 0 else "hurts" if row["high"] < 0 else "is within chance"


def summary(rows: Sequence[dict[str, Any]], design: Design) -> str:
    """Returns the paragraph above the table, from the figures alone."""
    main = [
        row
        for row in rows
        if (row["method"], row["recipe"]) == ("features", design.recipe)
        and row["base_clips"] == design.base_clips
        and row["target_clips"] == design.target_clips
        and row["severity"] == design.severities[0]
        and row["labeling"] == COMPLETE
        and "gain" in row
    ]
    if not main:
        return "The part `main` is not complete."
    half = [(row["high"] - row["low"]) / 2 for row in main]
    seeds = " or ".join(str(number) for number in sorted({row["seeds"] for row in main}))
    parts = [
        f"{main[0]['test_clips']:,} test clips and {seeds} seeds. Half of the interval "
        f"of a main gain is {min(half):.3f} to {max(half):.3f}."
    ]
    for row in sorted(main, key=lambda row: (row["epochs"], row["base"])):
        parts.append(
            f"After {row['epochs']} epochs {base_title(row)} {verdict(row)}: {row['gain']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}]."
        )
    parts.append(
        "A gain that is gone after more epochs is a faster start, not a better end. All seeds "
        "share the clips and the raters' labels: the intervals do not include other draws of them."
    )
    return " ".join(parts)


def base_title(row: dict[str, Any]) -> str:
    """The name of a row's base for readers."""
    names = {COMPLETE: "the truth", NO_BASE: "no base", "teacher": "OL masked by a teacher"}
    name = names.get(row["base"], title(row["base"]))
    how = {"large_loss": " with large-loss rejection", "smoothed": " with label smoothing"}
    how |= {"max_constraint": " with C-HMCNN's max constraint"}
    how |= {"strict": " with strict mixup", "known": " with mixup of known labels"}
    return name + how.get(row["recipe"], "")


def _traces(rows: Sequence[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    """Plotly's traces of the gain against a field, one for each base."""
    traces = []
    for base in dict.fromkeys(row["base"] for row in rows):
        of_base = sorted((row for row in rows if row["base"] == base), key=lambda r: r[field])
        traces.append(
            {
                "name": base_title(of_base[0]),
                "x": [f"{row[field]:g}" for row in of_base],
                "y": [row["gain"] for row in of_base],
                "error_y": {
                    "array": [row["high"] - row["gain"] for row in of_base],
                    "arrayminus": [row["gain"] - row["low"] for row in of_base],
                    "symmetric": False,
                },
            }
        )
    return traces


def write_study(folder: pathlib.Path, stages: Sequence[Stage], design: Design) -> list[dict]:
    """Writes `study.json` and `study.html` of what is finished; returns the rows."""
    rows = make_rows(read_cells(folder, stages), design.severities)
    write_json(folder / "study.json", {"design": dataclasses.asdict(design), "rows": rows})
    fixed = {
        "method": "features",
        "base_clips": design.base_clips,
        "recipe": design.recipe,
        "target_clips": design.target_clips,
        "severity": design.severities[0],
        "labeling": COMPLETE,
    }
    plots = []
    for heading, axis, field in (
        ("Severity", "factor of the odds of the raters' omissions", "severity"),
        ("Target size", "target clips to train on", "target_clips"),
        ("Base size", "base clips to train on", "base_clips"),
        ("Speed and end", "epochs of the base", "epochs"),
    ):
        like = {name: each for name, each in fixed.items() if name != field}
        shown = [
            row
            for row in rows
            if "gain" in row
            and all(row[name] == like[name] for name in like)
            and (field == "epochs" or row["epochs"] == design.epochs_of(row["base_clips"]))
        ]
        plots.append({"title": heading, "axis": axis, "traces": _traces(shown, field)})
    table = [
        [
            row["method"],
            base_title(row),
            row["recipe"],
            row["labeling"] if row["labeling"] != COMPLETE else "the truth",
            f"{row['severity']:g}",
            f"{row['base_clips']:,}",
            f"{row['epochs']}",
            f"{row['target_clips']:,}",
            f"{row['mAP']:.3f}",
            f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if "gain" in row else "",
        ]
        for row in rows
    ]
    data = {"summary": summary(rows, design), "plots": plots, "rows": table}
    with complete_file(folder / "study.html") as temporary:
        temporary.write_text(fill_page(_PAGE, data, "report"), encoding="utf-8")
    return rows
