"""Compares files of scores on the clips and classes that they share, by a paired bootstrap."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.metrics import evaluate, in_unit_interval
from relabel_jax.progress import Progress
from relabel_jax.report.statistics import (
    Comparison,
    compare,
    holm,
    resampled,
    weighted_average_precision,
)
from relabel_jax.scoring.measure import Matched, labels_of

NUM_REPLICATES = 1000
SEED = 0
_MAX_WEIGHTS = 2**23  # 32 MiB


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of two files' mAP under one labeling.

    Attributes:
      path, against: the two files.
      labeling: the labeling.
      mean_average_precision, mean_average_precision_against: over the shared clips and classes.
      comparison: the difference `path` - `against`, its 95% interval, and its p-value.
      p_holm: the p-value corrected for the number of all differences.
    """

    path: pathlib.Path
    against: pathlib.Path
    labeling: str
    mean_average_precision: float
    mean_average_precision_against: float
    comparison: Comparison
    p_holm: float


@dataclasses.dataclass(frozen=True, eq=False)
class Differences:
    """The differences of all files to the first one.

    Attributes:
      clip_ids, mids: the clips and classes that all files share.
      rows: a difference for each later file and labeling.
    """

    clip_ids: Sequence[str]
    mids: Sequence[str]
    rows: Sequence[Difference]


def compare_files(
    files: Sequence[Matched],
    labelings: Mapping[str, LabelFile],
    num_replicates: int = NUM_REPLICATES,
) -> Differences:
    """Compares every later file with the first one, under every labeling.

    Args:
      files: two or more files.
      labelings: the labels by labeling.
      num_replicates: how often the clips are drawn, the same for all files and labelings.

    Raises:
      InputError: the files share no clip or no class.
    """
    clip_ids = sorted(set.intersection(*(set(file.clip_ids) for file in files)))
    columns = sorted(set.intersection(*(set(file.file.columns.tolist()) for file in files)))
    for shared, what in ((clip_ids, "clips"), (columns, "classes")):
        if not shared:
            paths = ", ".join(str(file.file.path) for file in files)
            raise InputError(f"{paths}: no common {what}; expected scores of the same {what}")
    scores = [
        in_unit_interval(file.restricted_to(clip_ids, np.array(columns)).scores) for file in files
    ]
    truths = {name: _Truth.of(clip_ids, labels, columns) for name, labels in labelings.items()}
    # [labelings, files, replicates], and the measured ones.
    replicates = np.concatenate(
        list(_replicates(scores, list(truths.values()), num_replicates)), axis=2
    )
    measured = {
        name: [
            evaluate(each, truth.positive, ~truth.known).mean_average_precision for each in scores
        ]
        for name, truth in truths.items()
    }
    found = [
        (
            number,
            name,
            compare(
                measured[name][number] - measured[name][0],
                replicates[row, number] - replicates[row, 0],
            ),
        )
        for number in range(1, len(files))
        for row, name in enumerate(labelings)
    ]
    # An undefined difference is not tested, so it is not counted either.
    tested = [i for i, (_, _, result) in enumerate(found) if not np.isnan(result.p)]
    corrected = dict(zip(tested, holm([found[i][2].p for i in tested]), strict=True))
    return Differences(
        clip_ids=clip_ids,
        mids=[files[0].ontology.mids[i] for i in columns],
        rows=[
            Difference(
                path=files[number].file.path,
                against=files[0].file.path,
                labeling=name,
                mean_average_precision=measured[name][number],
                mean_average_precision_against=measured[name][0],
                comparison=result,
                p_holm=corrected.get(i, np.nan),
            )
            for i, (number, name, result) in enumerate(found)
        ],
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Truth:
    """bool[clips, classes]: the known entries of a labeling, and which of them are positive."""

    known: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, clip_ids: Sequence[str], labels: LabelFile, columns: Sequence[int]) -> "_Truth":
        positive, masked, _ = labels_of(clip_ids, labels)
        known = ~masked[:, columns].toarray()
        return cls(known, positive[:, columns].toarray() & known)


def _replicates(
    scores: Sequence[np.ndarray], truths: Sequence[_Truth], num_replicates: int
) -> Iterator[np.ndarray]:
    """Yields blocks float64[labelings, files, replicates] of mAP over resampled clips.

    They are those of `report.statistics.bootstrap_map` with the same draws. A class often has the
    same labels under several labelings; then its average precision is computed once.
    """
    num_clips, num_classes = scores[0].shape
    with Progress("bootstrap", num_replicates * num_classes, "classes") as progress:
        for weights in resampled(num_clips, num_replicates, SEED, _MAX_WEIGHTS):
            total = np.zeros((len(truths), len(scores), weights.shape[1]))
            count = np.zeros_like(total)
            for column in range(num_classes):
                computed: dict[bytes, np.ndarray] = {}
                for row, truth in enumerate(truths):
                    known, positive = truth.known[:, column], truth.positive[:, column]
                    if not positive.any():
                        continue
                    key = known.tobytes() + positive.tobytes()
                    if key not in computed:
                        of_known = weights if known.all() else weights[known]
                        computed[key] = np.stack(
                            [
                                weighted_average_precision(
                                    each[known, column], positive[known], of_known
                                )
                                for each in scores
                            ]
                        )
                    is_defined = ~np.isnan(computed[key])
                    total[row] += np.where(is_defined, computed[key], 0)
                    count[row] += is_defined
                progress.update(weights.shape[1])
            yield np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
