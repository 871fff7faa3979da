"""Reads true labels of clips, such as the miniature's `truth.csv`."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from relabel_jax.errors import InputError


def read_truth(path: str | pathlib.Path) -> dict[str, frozenset[str]]:
    """Reads the true mids by clip id from a CSV in the form of AudioSet's segment files.

    `data_prep.miniature` writes such a file, `truth.csv`, beside its recordings.

    Raises:
      InputError: the file is missing or has another form.
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


def check_truth(truth: Mapping[str, frozenset[str]], clip_ids: Sequence[str]) -> None:
    """Raises InputError if the truth has no row for one of the clips."""
    for clip_id in clip_ids:
        if clip_id not in truth:
            raise InputError(f"the truth has no row for the test clip {str(clip_id)!r}")


def true_labels(
    truth: Mapping[str, frozenset[str]], clip_ids: Sequence[str], mids: Sequence[str]
) -> np.ndarray:
    """Returns the true labels of some clips for some classes.

    Returns:
      bool[clips, classes].

    Raises:
      InputError: the truth has no row for one of the clips.
    """
    check_truth(truth, clip_ids)
    return np.array([[mid in truth[clip_id] for mid in mids] for clip_id in clip_ids], bool)
