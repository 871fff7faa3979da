"""Writes the labels of synthetic clips as a segment file."""

import pathlib
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
from scipy import sparse

from relabel_jax.files import complete_file
from relabel_jax.labels import segments_csv
from relabel_jax.labels.ontology import Ontology


def label_matrix(labels: Sequence[Collection[int]], ontology: Ontology) -> np.ndarray:
    """bool[clips, classes] of the class numbers of each clip."""
    matrix = np.zeros((len(labels), len(ontology)), bool)
    for row, numbers in enumerate(labels):
        matrix[row, list(numbers)] = True
    return matrix


def write_segment_file(
    path: pathlib.Path,
    title: str,
    clip_ids: Sequence[str],
    end_s: Sequence[float],
    labels: np.ndarray,
    ontology: Ontology,
) -> None:
    """Writes a segment file, with the mids in alphabetical order as in AudioSet's.

    Args:
      path: the file.
      title: the origin of the labels, for the first line.
      clip_ids: the ids of the clips.
      end_s: where each clip ends; it begins at 0 s.
      labels: bool[clips, classes].
      ontology: the ontology of the classes.

    Raises:
      InputError: the file cannot be written.
    """
    columns = np.argsort(ontology.mids)
    with complete_file(path) as temporary, open(temporary, "wb") as file:
        segments_csv.write_segments(
            file,
            clip_ids=pa.array(clip_ids),
            start_s=np.zeros(len(clip_ids)),
            end_s=np.array(end_s),
            label_columns={"positive_labels": sparse.csr_array(labels[:, columns])},
            set_numbers=np.arange(len(clip_ids), dtype=np.int32),
            mids=[ontology.mids[column] for column in columns],
            title=f"Segments csv: {title}",
        )
