"""The finished runs below a folder, as they left themselves there."""

import csv
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.files import read_json
from relabel_jax.metrics import Evaluation, evaluate

GRID_NAME = "grid.json"
_FACTS = {
    "root": str,
    "root_mid": str,
    "side": str,
    "method": str,
    "base_labeling": str,
    "labeling": str,
    "seed": int,
    "num_clips": dict,
    "num_labels": int,
    "best_epoch": int,
    "data_set": str,
    "config": dict,
    "test": dict,
}
# The same recipe: what lies between runs of one method is then labels, base and seed alone.
_RECIPE = (
    *("num_epochs", "batch_size", "learning_rate", "learning_rate_decay"),
    *("filters", "dense_units", "norm_order"),
)
TEST_AGAIN = "delete result.json beside it and run the same command again, which tests anew"
_SCORES = ("clip_id", "mids", "scores", "labels", "masked")


class Scores(NamedTuple):
    """A run's `test_scores.npz`: str[clips], str[classes]; float32, bool, bool [clips, classes]."""

    clip_id: np.ndarray
    mids: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masked: np.ndarray

    def evaluate(self) -> Evaluation:
        return evaluate(self.scores, self.labels, self.masked)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """A finished run.

    Attributes:
      workdir: its folder.
      facts: the content of its `result.json`.
      curve: the lines of its `metrics.jsonl`.
    """

    workdir: pathlib.Path
    facts: dict[str, Any]
    curve: list[dict[str, Any]]

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """(root, method, labeling of the base or "", labeling, seed): unique in a grid."""
        facts = self.facts
        return (
            facts["root"],
            facts["method"],
            facts["base_labeling"],
            facts["labeling"],
            facts["seed"],
        )

    def read_scores(self) -> Scores:
        """Reads the scores, which may be large, anew.

        Raises:
          InputError: they are absent, damaged, or not those of `result.json`.
        """
        path = self.workdir / "test_scores.npz"
        try:
            with open(path, "rb") as file, np.load(file) as arrays:
                scores = Scores(*(arrays[name] for name in _SCORES))
            measured = scores.evaluate().mean_average_precision
        except Exception as error:  # of zip, zlib, NumPy: whatever a damaged file brings about
            raise InputError(f"{path}: cannot read it ({error}); {TEST_AGAIN}") from error
        if scores.scores.shape != (len(scores.clip_id), len(scores.mids)):
            raise InputError(f"{path}: its arrays do not fit together; {TEST_AGAIN}")
        expected = self.facts["test"].get("mAP")
        if not np.isclose(
            measured, np.nan if expected is None else expected, rtol=0, atol=1e-6, equal_nan=True
        ):
            raise InputError(
                f"{path}: its mAP is {measured:.6f}, but result.json says {expected}; {TEST_AGAIN}"
            )
        return scores


def find_cells(workdir: pathlib.Path) -> tuple[list[Cell], list[str]]:
    """All finished runs below a folder, by key, and one line on each that cannot be used. In the
    workdir of a grid they are its own.

    Raises:
      InputError: there is none, or they are of several data sets.
    """
    if not workdir.is_dir():
        raise InputError(f"--workdir={workdir}: does not exist")
    cells: dict[tuple, Cell] = {}
    problems = []
    pattern = "*/*/result.json" if (workdir / GRID_NAME).exists() else "**/result.json"
    for path in sorted(workdir.glob(pattern)):
        try:
            cell = _read_cell(path.parent)
            if cell.key in cells:
                raise InputError(
                    f"{path.parent}: is the same run as {cells[cell.key].workdir}, and is left "
                    "out; delete one of them"
                )
            cells[cell.key] = cell
        except InputError as error:
            problems.append(str(error))
    data_sets = {cell.facts["data_set"]: cell for cell in cells.values()}
    if len(data_sets) > 1:
        first, second, *_ = data_sets.values()
        raise InputError(
            f"{first.workdir} and {second.workdir} are runs on different data sets; give a "
            "--workdir with the runs of one"
        )
    if not cells:
        found = f" ({len(problems)} cannot be used; the first: {problems[0]})" if problems else ""
        raise InputError(
            f"--workdir={workdir}: no run is finished yet{found}; give the --workdir of a grid "
            "with a result.json in at least one cell"
        )
    return [cells[key] for key in sorted(cells)], problems


def differences(cells: Sequence[Cell]) -> list[str]:
    """A line on each run that was not trained as the first of its method."""
    first: dict[str, Cell] = {}
    lines = []
    for cell in cells:
        other = first.setdefault(cell.facts["method"], cell)
        recipe, of_other = _recipe(cell), _recipe(other)
        both_say = recipe.keys() & of_other.keys()
        if different := [n for n in recipe if n in both_say and recipe[n] != of_other[n]]:
            name = different[0]
            lines.append(
                f"{cell.workdir}: has {name} {recipe[name]}, {other.workdir} has {of_other[name]}; "
                "what the tables say of such runs is not of the labels alone"
            )
    return lines


def _recipe(cell: Cell) -> dict[str, Any]:
    config = cell.facts["config"]
    recipe = {f"config.{field}": config.get(field) for field in _RECIPE}
    if "precision" in cell.facts:  # older results do not say which one it was
        recipe["precision"] = cell.facts["precision"]
    return recipe


def _read_cell(workdir: pathlib.Path) -> Cell:
    path = workdir / "result.json"
    facts = read_json(path)
    for field, kind in _FACTS.items():
        if not isinstance(facts, dict) or not isinstance(facts.get(field), kind):
            raise InputError(
                f"{path}: has no field {field!r} of type {kind.__name__}: it was written by an "
                "older version or is damaged; delete it and run the same command again, which "
                "tests anew"
            )
    path = workdir / "metrics.jsonl"
    try:
        curve = [json.loads(line) for line in path.read_text().splitlines()]
        for line in curve:
            line["epoch"], line["train_loss"], line["validation_mAP"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot read it ({error!r}); delete the folder, with a base's those of the "
            "runs that start from it too, and run the same command again"
        ) from error
    return Cell(workdir, facts, curve)


def read_truth(path: str | pathlib.Path) -> dict[str, frozenset[str]]:
    """The true mids by clip id, from a CSV in the form of AudioSet's segment files.

    `data_prep.miniature` writes such a file, `truth.csv`, beside its recordings.

    Raises:
      InputError: it is absent or has another form.
    """
    truth = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.reader(file, skipinitialspace=True)
            for row in rows:
                if row and not row[0].startswith("#"):
                    clip_id, _, _, mids = row
                    truth[clip_id] = frozenset(mids.split(","))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot read the truth ({error}); expected the form of AudioSet's segment "
            "files: YTID, start_seconds, end_seconds, positive_labels"
        ) from error
    return truth


def check_truth(truth: dict[str, frozenset[str]], clip_ids: Sequence[str]) -> None:
    """Raises InputError where a clip is not in the truth."""
    for clip_id in clip_ids:
        if clip_id not in truth:
            raise InputError(f"the truth has no row for the test clip {str(clip_id)!r}")


def true_labels(
    truth: dict[str, frozenset[str]], clip_ids: Sequence[str], mids: Sequence[str]
) -> np.ndarray:
    """bool[clips, classes].

    Raises:
      InputError: as of `check_truth`.
    """
    check_truth(truth, clip_ids)
    return np.array([[mid in truth[clip_id] for mid in mids] for clip_id in clip_ids], bool)
