"""The tables as text."""

from relabel_jax.report.tables import text


def row(labeling, base, value, p_holm=None):
    return {
        "root": "Music",
        "labeling": labeling,
        "base_labeling": base,
        "mAP": value,
        "p_holm": p_holm,
    }


def wins(comparisons):
    return {
        "table": "table3",
        "base_labeling": "pel",
        "wins": 1,
        "comparisons": comparisons,
        "significant_wins": 1,
        "significant_losses": 0,
    }


def test_only_rows_with_results_are_shown():
    table3 = [
        row("ol", "ol", 0.25),
        row("ol", "pel", 0.5, 0.01),
        row("ol", "pe_cml", None),
        row("pel", "ol", None),
        row("pel", "pel", None),
    ]
    shown = text({"table3": table3, "table4": [row("ol", "", None)], "wins": [wins(1)]})
    assert shown.splitlines() == [
        "root                    labels  method      scratch       ol      pel   pe_cml",
        "Music                   ol      features             0.2500   0.5000*       - ",
        "table3: pel above ol in 1 of 1 (significantly above in 1, below in 0)",
    ]


def test_nothing_to_show():
    shown = text({"table3": [row("ol", "ol", None)], "table4": [], "wins": [wins(0)]})
    assert shown == "no transfer has finished yet, so Tables III and IV are empty"
