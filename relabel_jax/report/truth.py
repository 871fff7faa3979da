"""True labels of clips, such as those of the miniature's `truth.csv`, to score runs on."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import LabelFile, read_label_file
from relabel_jax.labels.ontology import Ontology


class Truth(NamedTuple):
    """True labels.

    Attributes:
      file: the labels of the clips.
      columns: the class numbers by mid.
    """

    file: LabelFile
    columns: Mapping[str, int]


def read_truth(path: str | pathlib.Path, ontology: Ontology) -> Truth:
    """Reads true labels from a file.

    `data_prep.miniature` writes such a file, `truth.csv`, beside its recordings.

    Args:
      path: a file that `labels.label_files` can read, such as a CSV in AudioSet's form.
      ontology: the ontology of the data set. Labels that it lacks are left out.

    Raises:
      InputError: the file is missing or has another form.
    """
    try:
        file = read_label_file(path, ontology, name="truth", unknown="drop")
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: cannot read the truth: {reason}") from error
    return Truth(file, ontology.index)


def check_truth(truth: Truth, clip_ids: Sequence[str]) -> None:
    """Raises InputError if the truth has no row for one of the clips."""
    absent = np.flatnonzero(truth.file.rows(clip_ids) < 0)
    if len(absent):
        raise InputError(f"the truth has no row for the test clip {str(clip_ids[absent[0]])!r}")


def true_labels(truth: Truth, clip_ids: Sequence[str], mids: Sequence[str]) -> np.ndarray:
    """Returns the true labels of some clips for some classes of the ontology.

    Returns:
      bool[clips, classes].

    Raises:
      InputError: the truth has no row for one of the clips.
    """
    check_truth(truth, clip_ids)
    positive, _ = truth.file.labels(clip_ids)
    columns = np.array([truth.columns[mid] for mid in mids], np.int64)
    return positive[:, columns].toarray()
