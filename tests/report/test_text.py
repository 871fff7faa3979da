"""The tables as text."""

from relabel_jax.report.tables import text


def base(labeling, value):
    return {"root": "Music", "labeling": labeling, "mAP": value}


def transfer(labeling, base_labeling, value, p_holm=None, method="features"):
    return {
        "root": "Music",
        "labeling": labeling,
        "method": method,
        "base_labeling": base_labeling,
        "mAP": value,
        "p_holm": p_holm,
        "difference": None if base_labeling in ("", "ol") or value is None else value - 0.25,
        "low": -0.05,
        "high": 0.45,
        "test_clips": 11,
    }


def wins(comparisons):
    return {
        "method": "features",
        "base_labeling": "pel",
        "wins": 1,
        "comparisons": comparisons,
        "significant_wins": 1,
        "significant_losses": 0,
    }


def test_only_rows_with_results_are_shown():
    table3 = [base("ol", 0.125), base("pel", 0.75), base("a_teacher", None)]
    table4 = [
        transfer("ol", "ol", 0.25),
        transfer("ol", "pel", 0.5, 0.01),
        transfer("ol", "a_teacher", None),
        transfer("pel", "ol", None),
        transfer("pel", "pel", None),
        transfer("a_teacher", "", 0.0625, method="scratch"),
        transfer("a_teacher", "ol", 0.5, method="finetune"),
    ]
    shown = text({"table3": table3, "table4": table4, "wins": [wins(2), wins(0)]})
    assert shown.splitlines() == [
        "Table III: base networks. Each has its own test labels: do not compare the columns.",
        "root                                             ol      pel",
        "Music                                       0.1250   0.7500 ",
        "Table IV: target networks by labeling of the base (* differs from ol beyond chance)",
        "root                    labels     method      scratch       ol      pel",
        "Music                   ol         features             0.2500   0.5000*",
        "Music                   a_teacher  finetune    0.0625   0.5000          ",
        "features: pel above ol in 1 of 2 (significantly above in 1, below in 0)",
        "Music, features: base with pel minus base with ol: +0.250 (95% interval -0.050 to "
        "+0.450).",
        "11 test clips cannot tell a difference below about 0.25 from none.",
    ]


def test_nothing_to_show():
    shown = text(
        {"table3": [base("ol", None)], "table4": [transfer("ol", "ol", None)], "wins": [wins(0)]}
    )
    assert shown == "no transfer has finished yet, so Table IV is empty"
