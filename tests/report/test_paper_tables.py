"""The paper's figures: every cell, and the means and wins that the paper prints in its text."""

import json
import pathlib

import numpy as np
import pytest

from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.report.transfers import wins
from relabel_jax.report.write import PAPER_TABLES

ROOTS = ("Human sounds", "Sounds of things", "Source-ambiguous sounds", "Natural sounds")
PAPER = json.loads(PAPER_TABLES.read_text())


def column(half, base):
    """The 12 figures of a column of Table IV: each root with each target labeling."""
    return [
        PAPER["table4"][half][root][labeling][base]
        for root in ROOTS
        for labeling in PAPER_LABELINGS
    ]


def test_every_cell_is_there():
    counts = {"clips", "share_percent", "labels", "labels_percent"}
    assert tuple(PAPER["table1"]) == tuple(PAPER["table3"]) == ROOTS
    for root in ROOTS:
        assert PAPER["table1"][root].keys() == counts
        assert all(type(value) is int for value in PAPER["table1"][root].values())
        assert tuple(PAPER["table3"][root]) == PAPER_LABELINGS
        figures = [*PAPER["table3"][root].values()]
        for half, first in (("features", ()), ("finetune", ("scratch",))):
            assert tuple(PAPER["table4"][half][root]) == PAPER_LABELINGS
            for row in PAPER["table4"][half][root].values():
                assert tuple(row) == (*first, *PAPER_LABELINGS)
                figures += row.values()
        assert len(figures) == 3 + 9 + 12
        assert all(0.1 < figure < 0.9 for figure in figures)


def test_shares_of_table_1():
    for row in PAPER["table1"].values():
        assert round(100 * row["clips"] / PAPER["excerpt"]["clips"]) == row["share_percent"]
        assert round(100 * row["labels"] / 527) == row["labels_percent"]


@pytest.mark.parametrize(
    ("half", "base", "printed"),
    [
        ("features", "ol", 0.533),
        ("features", "pel", 0.548),
        ("features", "pe_cml", 0.553),
        ("finetune", "scratch", 0.499),
        ("finetune", "ol", 0.536),
        ("finetune", "pel", 0.541),
        ("finetune", "pe_cml", 0.553),
    ],
)
def test_printed_means(half, base, printed):
    assert round(float(np.mean(column(half, base))), 3) == printed


@pytest.mark.parametrize(
    ("half", "base", "printed"),
    [
        ("features", "pel", 12),
        ("features", "pe_cml", 10),
        ("finetune", "pel", 7),
        ("finetune", "pe_cml", 12),
    ],
)
def test_printed_wins(half, base, printed):
    """Counted here, and as the report counts them in its rows."""
    assert sum(np.greater(column(half, base), column(half, "ol"))) == printed
    rows = [
        {
            "root": root,
            "labeling": labeling,
            "base_labeling": each,
            "difference": None,
            "paper": PAPER["table4"][half][root][labeling][each],
        }
        for root in ROOTS
        for labeling in PAPER_LABELINGS
        for each in PAPER_LABELINGS
    ]
    counted = wins(half, base, rows)
    assert (counted["paper_wins"], counted["paper_comparisons"]) == (printed, 12)
    assert (counted["wins"], counted["comparisons"]) == (0, 0)


def test_the_printed_paper():
    """Against a copy of the paper's tables, where there is one beside the checkout."""
    path = pathlib.Path(__file__).parents[3] / "shared" / "paper" / "tables.json"
    if not path.is_file():
        pytest.skip("needs the file ../shared/paper/tables.json")
    printed = json.loads(path.read_text())
    assert PAPER["excerpt"] == printed["excerpt"]
    assert PAPER["table3"] == printed["table3_base_mAP"]
    for half in ("features", "finetune"):
        assert PAPER["table4"][half] == printed[f"table4_{half}_mAP"]
    names = {"clips": "target_clips", "share_percent": "share_percent", "labels": "target_labels"}
    for root in ROOTS:
        row = {name: PAPER["table1"][root][field] for field, name in names.items()}
        assert row == printed["table1"][root]
