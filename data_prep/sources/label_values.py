"""Which labels of a recording are positive, in all ways in which files write labels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.sources import Labels
from relabel_jax.errors import InputError, Rejected

_MAX_PLAIN = 2  # a list of so few zeros and ones may be the class numbers 0 and 1


def positive_labels(
    labels: Labels, num_classes: int | None, threshold: float | None, where: str
) -> Sequence[str | int]:
    """Returns the positive labels: mids, display names or class numbers.

    Labels are one of

    - a list of mids, display names or class numbers;
    - a vector with a value for each class: an array, a list of floats or booleans, or a list of
      more than two integers that are all 0 or 1 (class numbers do not repeat);
    - a mapping of mids or display names to values.

    Values are 0 and 1, or scores. Scores of at least `threshold` are positive.

    Args:
      labels: the labels.
      num_classes: number of classes; None if it is unknown.
      threshold: the smallest score of a positive label; None if the user does not say it.
      where: the recording, for messages.

    Raises:
      Rejected: `bad_labels`: a value is NaN, or a vector has another number of classes.
      InputError: labels are scores, and `threshold` is None.
    """
    if isinstance(labels, Mapping):
        names = list(labels)
        return [names[n] for n in _positive(list(labels.values()), threshold, where)]
    if not isinstance(labels, np.ndarray) and not _is_vector(labels, num_classes):
        return labels  # type: ignore[return-value]
    if num_classes is not None and len(labels) != num_classes:
        raise Rejected(
            "bad_labels",
            f"has labels with {len(labels)} values, but --class_indices has {num_classes} classes",
        )
    return _positive(labels, threshold, where)


def _is_vector(labels: Sequence[str | int | float], num_classes: int | None) -> bool:
    kinds = {type(label) for label in labels}
    if float in kinds or bool in kinds:
        if str in kinds:
            raise Rejected("bad_labels", "has names and values in one list of labels")
        return True
    if kinds != {int} or len(labels) <= _MAX_PLAIN:
        return False
    # A list of all classes with repeated numbers cannot be class numbers. It may hold votes.
    is_whole = len(labels) == num_classes and len(set(labels)) < len(labels)
    return is_whole or set(labels) <= {0, 1}


def _positive(
    values: Sequence[str | int | float] | np.ndarray, threshold: float | None, where: str
) -> list[int]:
    """Returns the positions of the positive values."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise Rejected("bad_labels", "has labels with values that are not numbers") from error
    if array.ndim != 1 or np.isnan(array).any():
        raise Rejected("bad_labels", "has labels with a value that is NaN or no number")
    scores = array[(array != 0) & (array != 1)]
    if not len(scores):
        return np.flatnonzero(array).tolist()
    if threshold is None:
        raise InputError(
            f"{where}: its labels are scores ({scores[0]:g}, for example), not 0 and 1; say from "
            "which score on a label is positive with --label_threshold=0.5 or another number"
        )
    if math.isnan(threshold):
        raise InputError(f"--label_threshold={threshold}: expected a number")
    return np.flatnonzero(array >= threshold).tolist()
