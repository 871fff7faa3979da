"""The results as a text for people, as a value for JSON, and as a table of classes."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relabel_jax.errors import some
from relabel_jax.metrics import none_if_undefined
from relabel_jax.scoring.comparison import Differences
from relabel_jax.scoring.measure import Matched, Measured, fingerprint

_NUM_IN_JSON = 20
_DIGITS = 12  # of a fingerprint, in the text

Results = Sequence[tuple[Matched, Mapping[str, Measured]]]
"""The files, with their metrics by labeling."""


def as_json(results: Results, differences: Differences | None) -> dict[str, Any]:
    """Everything that `text` shows, with whole fingerprints and more of what was left out.

    None stands for an undefined metric.
    """
    return {
        "files": [_file(matched, measured) for matched, measured in results],
        "differences": None if differences is None else _differences(differences),
    }


def _file(matched: Matched, measured: Mapping[str, Measured]) -> dict[str, Any]:
    return {
        "path": str(matched.file.path),
        "class_order": matched.file.class_order,
        "clips": len(matched.clip_ids),
        "clips_sha256": fingerprint(matched.clip_ids),
        "classes": len(matched.mids),
        "classes_sha256": fingerprint(matched.mids),
        "left_out": {
            what.replace(" ", "_"): {
                "number": len(names),
                "of": total,
                "first": list(names[:_NUM_IN_JSON]),
            }
            for what, names, total in _left_out(matched)
        },
        "labelings": {name: _labeling(each) for name, each in measured.items()},
    }


def _labeling(measured: Measured) -> dict[str, Any]:
    evaluation, hierarchical = measured.evaluation, measured.hierarchical
    return {
        **evaluation.means(),
        "hierarchical_f1": none_if_undefined(hierarchical.f1),
        "hierarchical_precision": none_if_undefined(hierarchical.precision),
        "hierarchical_recall": none_if_undefined(hierarchical.recall),
        "threshold": none_if_undefined(hierarchical.threshold),
        "classes_with_positive": int((measured.positives > 0).sum()),
        "positives": int(measured.positives.sum()),
        "known": int(measured.known.sum()),
        "clips": len(measured.clip_ids),
        "clips_sha256": fingerprint(measured.clip_ids),
        "labels_sha256": measured.labels_fingerprint,
    }


def _differences(differences: Differences) -> dict[str, Any]:
    return {
        "clips": len(differences.clip_ids),
        "clips_sha256": fingerprint(differences.clip_ids),
        "classes": len(differences.mids),
        "classes_sha256": fingerprint(differences.mids),
        "rows": [
            {
                "path": str(row.path),
                "against": str(row.against),
                "labeling": row.labeling,
                "mAP": none_if_undefined(row.mean_average_precision),
                "mAP_against": none_if_undefined(row.mean_average_precision_against),
                "difference": none_if_undefined(row.comparison.difference),
                "low": none_if_undefined(row.comparison.low),
                "high": none_if_undefined(row.comparison.high),
                "p": none_if_undefined(row.comparison.p),
                "p_holm": none_if_undefined(row.p_holm),
            }
            for row in differences.rows
        ],
    }


def classes_csv(results: Results) -> str:
    """A CSV with a row for each file and class, and four columns for each labeling."""
    labelings = list(results[0][1])
    fields = ("positives", "known", "ap", "auc")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["file", "mid", "name", *(f"{name}_{field}" for name in labelings for field in fields)]
    )
    for matched, measured in results:
        for column, number in enumerate(matched.file.columns.tolist()):
            row: list[Any] = [
                matched.file.path,
                matched.ontology.mids[number],
                matched.ontology.display_names[number],
            ]
            for each in measured.values():
                row += [each.positives[column], each.known[column]]
                for metric in (each.evaluation.average_precision, each.evaluation.roc_auc):
                    row.append("" if np.isnan(metric[column]) else float(metric[column]))
            writer.writerow(row)
    return text.getvalue()


def text(results: Results, differences: Differences | None) -> str:
    """The summary: for each file the clips, the classes, what was left out, and the metrics."""
    blocks = [_file_text(matched, measured) for matched, measured in results]
    if differences is not None:
        blocks.append(_differences_text(differences))
    return "\n\n".join(blocks)


def _file_text(matched: Matched, measured: Mapping[str, Measured]) -> str:
    left_out = [
        *_left_out(matched),
        *(
            (f"clips without labels in {name}", each.without_labels, len(matched.clip_ids))
            for name, each in measured.items()
        ),
    ]
    shares = [_share(*each) for each in left_out if each[1]]
    lines = [
        str(matched.file.path),
        _counted("clips", matched.clip_ids),
        f"{_counted('classes', matched.mids)}  order: {matched.file.class_order}",
        *(f"  left out  {line}" for line in shares or ["nothing"]),
        "",
    ]
    cells = [_labeling_cells(name, each) for name, each in measured.items()]
    header = ["labels", "mAP", "AUC", "d'", "hF1", "at", "classes", "clips", "labels' fingerprint"]
    return "\n".join([*lines, *_table([header, *cells])])


def _labeling_cells(name: str, measured: Measured) -> list[str]:
    evaluation, hierarchical = measured.evaluation, measured.hierarchical
    return [
        name,
        *(
            _decimal(value)
            for value in (
                evaluation.mean_average_precision,
                evaluation.mean_auc,
                evaluation.d_prime,
                hierarchical.f1,
                hierarchical.threshold,
            )
        ),
        f"{(measured.positives > 0).sum():,}",
        f"{len(measured.clip_ids):,}",
        measured.labels_fingerprint[:_DIGITS],
    ]


def _differences_text(differences: Differences) -> str:
    lines = [
        "differences of mAP on the clips and classes that all files share",
        _counted("clips", differences.clip_ids),
        _counted("classes", differences.mids),
        "",
    ]
    header = ["labels", "mAP", "against", "difference", "95% interval", "p (Holm)"]
    for path in dict.fromkeys(row.path for row in differences.rows):
        rows = [row for row in differences.rows if row.path == path]
        cells = [
            [
                row.labeling,
                _decimal(row.mean_average_precision),
                _decimal(row.mean_average_precision_against),
                f"{row.comparison.difference:+.4f}",
                f"{row.comparison.low:+.4f} to {row.comparison.high:+.4f}",
                f"{row.p_holm:.3f}",
            ]
            for row in rows
        ]
        lines += [f"  {path} - {rows[0].against}", *_table([header, *cells])]
    return "\n".join(lines)


def _counted(what: str, names: Sequence[str]) -> str:
    return f"  {what:9} {len(names):,}  fingerprint {fingerprint(names)[:_DIGITS]}"


def _left_out(matched: Matched) -> list[tuple[str, Sequence[str], int]]:
    """The parts that were left out: in words, their names, and the number that these are of."""
    ontology = matched.ontology
    num_clips, unknown = len(matched.clip_ids), matched.file.unknown_classes
    absent = [ontology.display_names[i] for i in matched.classes_without_scores]
    return [
        (
            "ids without a segment",
            matched.without_segment,
            num_clips + len(matched.without_segment),
        ),
        (
            "segments without scores",
            matched.without_scores,
            num_clips + len(matched.without_scores),
        ),
        ("classes without scores", absent, int(ontology.is_used.sum())),
        ("classes that the ontology lacks", unknown, len(matched.mids) + len(unknown)),
    ]


def _share(what: str, names: Sequence[str], total: int) -> str:
    return f"{what}: {len(names):,} of {total:,} ({len(names) / total:.1%}): {some(names)}"


def _decimal(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    ]
