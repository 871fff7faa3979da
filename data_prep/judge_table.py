"""A judgement as text: the table on stdout, and what its reader should know."""

from collections.abc import Mapping, Sequence
from typing import Any

from relabel_jax.errors import some

_COLUMNS = (
    ("recall", ("", "recall")),
    ("precision", ("", "precision")),
    ("entailed", ("added: true", "if entailed")),
    ("not_entailed", ("added: true", "if not")),
    ("elsewhere", ("added: true", "elsewhere")),
    ("masked", ("masked:", "true")),
    ("unmasked_negatives", ("unmasked", "neg.: true")),
)
_LEGEND = {
    "recall": "recall: the share of the true labels that the labeling has",
    "precision": "precision: the share of its labels that are true",
    "entailed": "added: ancestors that the labeling adds to the raters' labels; an ancestor is "
    "entailed\n       if it is on every path from the label to a root",
    "elsewhere": "elsewhere: labels that it adds and that are not ancestors",
    "masked": "masked: entries that it leaves out as unknown, against its other negatives of the "
    "same\n        classes. The more often they are true, the better it is to leave them out.",
}


def table(result: Mapping[str, Any]) -> str:
    """The table of all labelings, with a line about the reference and a legend.

    A share is in percent, with half the width of its interval. Columns without a share are left
    out.

    Args:
      result: of `data_prep.judge.judge`.
    """
    reference, labelings = result["reference"], result["labelings"]
    columns = [
        (key, title)
        for key, title in _COLUMNS
        if any(row[key]["share"] is not None for row in labelings)
    ]
    lines = [
        ["", "labels", *(upper for _, (upper, _) in columns)],
        ["labeling", "a clip", *(lower for _, (_, lower) in columns)],
    ]
    for row in labelings:
        cells = [_percent(row[key]) for key, _ in columns]
        lines.append([row["name"], f"{row['labels_per_clip']:.2f}", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text.insert(2, "-" * max(map(len, text)))
    legend = [_LEGEND[key] for key, _ in columns if key in _LEGEND]
    about = (
        f"{result['clips']:,} clips, judged by {reference['file']} ({reference['form']}): "
        f"{reference['classes']} classes, {reference['labels_per_clip']:.2f} true labels a clip"
    )
    of_interval = f"percent ± half of the {result['bootstrap']['level']:.0%} interval"
    return "\n".join([about, "", *text, "", f"{of_interval}, by a bootstrap over clips", *legend])


def _percent(share: Mapping[str, float | None]) -> str:
    value, low, high = share["share"], share["low"], share["high"]
    if value is None:
        return "–"
    digits = 2 if value < 0.1 else 1
    if low is None or high is None:
        return f"{100 * value:.{digits}f}"
    return f"{100 * value:.{digits}f} ±{50 * (high - low):.{digits}f}"


def warnings(result: Mapping[str, Any]) -> Sequence[str]:
    """Lines about clips and labels that were left out, and about what the reference cannot say."""
    reference, segments = result["reference"], result["segments"]
    lines = []
    for what, clips in (("segments", segments["clips"]), ("reference", reference["clips"])):
        if left := clips - result["clips"]:
            lines.append(
                f"left out {left:,} of the {clips:,} clips of the {what}: not in all files"
            )
    for what, dropped in (
        ("segments", segments["dropped"]),
        ("reference", reference["dropped"]),
    ):
        if dropped:
            lines.append(
                f"dropped {sum(dropped.values()):,} labels of the {what}: {len(dropped)} mids are "
                f"not in the ontology ({some(sorted(dropped))})"
            )
    if not reference["has_negatives"]:
        lines.append("the reference says of no class that it is absent: precision is always 100%")
    return lines
