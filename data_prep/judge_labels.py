"""Judges labelings by a reference, on the clips that both have."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.judge_counts import (
    MAX_BAGS,
    Clips,
    Labeling,
    class_rows,
    count_entries,
    count_reference,
    edge_rows,
    labels_per_clip,
    random_bags,
)
from data_prep.judge_intervals import LEVEL, shares
from data_prep.judge_references import Reference
from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments

NUM_REPLICATES = 1000


def judge(
    segments: GroupedSegments,
    reference: Reference,
    ontology: Ontology,
    labelings: Sequence[str] = LABELINGS,
    files: Mapping[str, LabelFile] | None = None,
    *,
    num_replicates: int = NUM_REPLICATES,
    seed: int = 0,
    max_bags: int = MAX_BAGS,
) -> dict[str, Any]:
    """Judges labelings of the clips that the segments, the reference and all files have.

    Args:
      segments: the raters' labels.
      reference: says what is true.
      ontology: the ontology of both.
      labelings: names in `LABELINGS` and in `files`, in the order of the result.
      files: labels from files, by the names of their labelings.
      num_replicates: the number of bootstrap replicates.
      seed: seed of the bootstrap.
      max_bags: see `judge_counts`.

    Returns:
      A value for JSON:

      - `reference`: its `file` and `form`, whether it `is_exhaustive` and `has_negatives`, the
        number of its `clips` and `classes`, its mean number of labels (`labels_per_clip`) on the
        judged clips, and `dropped`, by unknown mid the number of clips that lost it.
      - `segments`: the number of their `clips`, and `dropped` as above.
      - `clips`: the number of judged clips.
      - `bootstrap`: the number of `replicates`, the `seed`, the `level` of the intervals, and the
        number of `units` that are drawn, which are clips or bags of them.
      - `labelings`: for each labeling its `name`, its `labels_per_clip` over the whole ontology,
        and the shares of `judge_intervals.shares`.
      - `classes` and `edges`: the rows of `judge_counts.class_rows` and `judge_counts.edge_rows`.

    Raises:
      InputError: no clip is in all of them, or a labeling is unknown.
    """
    files = files or {}
    for name in labelings:
        if name not in LABELINGS and name not in files:
            known = ", ".join((*LABELINGS, *files))
            raise InputError(f"labelings: {name!r} is none of {known}; name its file too")
    reference_rows = reference.rows(segments)
    file_rows = {name: files[name].rows(segments.clip_ids.to_pylist()) for name in files}
    rows = np.flatnonzero(np.all([r >= 0 for r in (reference_rows, *file_rows.values())], axis=0))
    if not len(rows):
        raise _no_common_clips(segments, reference, files)
    original = Labeling.by_rule("ol", segments, rows, ontology)
    clips = Clips(
        ontology,
        reference,
        original,
        reference.labels.set_numbers[reference_rows[rows]],
        random_bags(len(rows), seed, max_bags),
    )
    judged = [
        Labeling.from_file(name, files[name], file_rows[name][rows])
        if name in files
        else Labeling.by_rule(name, segments, rows, ontology)
        for name in labelings
    ]
    counts = {labeling.name: count_entries(clips, labeling) for labeling in judged}
    of_reference = count_reference(clips)
    of_labelings = shares(clips, counts, of_reference, num_replicates, seed)
    return {
        "reference": {
            "file": reference.labels.path.name,
            "form": reference.form,
            "is_exhaustive": reference.negative_sets is None,
            "has_negatives": reference.has_negatives,
            "clips": len(reference.labels),
            "classes": int(reference.classes.sum()),
            "labels_per_clip": float(of_reference[0].sum(dtype=np.float64)) / len(rows),
            "dropped": dict(reference.labels.dropped),
        },
        "segments": {"clips": len(segments), "dropped": dict(segments.dropped)},
        "clips": len(rows),
        "bootstrap": {
            "replicates": num_replicates,
            "seed": seed,
            "level": LEVEL,
            "units": clips.num_bags,
        },
        "labelings": [
            {
                "name": labeling.name,
                "labels_per_clip": labels_per_clip(labeling),
                **of_labelings[labeling.name],
            }
            for labeling in judged
        ],
        "classes": class_rows(clips, counts, of_reference),
        "edges": edge_rows(clips),
    }


def _no_common_clips(
    segments: GroupedSegments, reference: Reference, files: Mapping[str, LabelFile]
) -> InputError:
    others = {"the reference": reference.labels, **files}
    firsts = ", ".join(f"{name} {file.clip_ids[0].as_py()!r}" for name, file in others.items())
    return InputError(
        f"{reference.labels.path}: no clip is in the segments and in {' and '.join(others)}; the "
        f"first ids are: segments {segments.clip_ids[0].as_py()!r}, {firsts}"
    )
