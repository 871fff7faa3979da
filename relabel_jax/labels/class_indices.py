"""AudioSet's `class_labels_indices.csv`: the order of the classes in most networks' outputs.

The file lists the 527 classes that raters used. Its order is the ontology's own.
"""

import csv
import io
import os
import pathlib
from collections.abc import Iterable

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

FILE_NAME = "class_labels_indices.csv"


def read_class_indices(path: str | os.PathLike[str]) -> list[str]:
    """Reads the mids of a `class_labels_indices.csv`, in the order of their indices.

    Raises:
      InputError: the file cannot be read, lacks a column, or its indices are not 0, 1, 2 and so on.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        found = reader.fieldnames or ()
        rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read it as a CSV: {error}") from error
    for column in ("index", "mid"):
        if column not in found:
            raise InputError(
                f"{path}: no column {column!r} (found {', '.join(found) or 'none'}); expected "
                "a header line with the columns index and mid"
            )
    by_index = {row["index"]: row["mid"] for row in rows}
    if len(by_index) < len(rows):
        raise InputError(
            f"{path}: {len(rows) - len(by_index)} rows repeat an index; expected one row a class; "
            "remove the duplicate rows"
        )
    if not by_index:
        raise InputError(f"{path}: has no classes; expected a row for each class")
    try:
        return [by_index[str(number)] for number in range(len(by_index))]
    except KeyError as error:
        raise InputError(
            f"{path}: no index {error}; expected AudioSet's {FILE_NAME}, with the "
            f"indices 0 to {len(by_index) - 1}"
        ) from error


def audioset_mids() -> list[str]:
    """The mids of AudioSet's own `class_labels_indices.csv`, in its order."""
    ontology = Ontology.audioset()
    return [mid for mid, is_used in zip(ontology.mids, ontology.is_used, strict=True) if is_used]


def class_indices_text(ontology: Ontology, used: Iterable[int]) -> str:
    """The content of the file for some classes of an ontology, in the ontology's order.

    Args:
      ontology: the ontology.
      used: class numbers, in any order.
    """
    text = io.StringIO()
    text.write("index,mid,display_name\n")
    for index, number in enumerate(sorted(used)):
        name = ontology.display_names[number].replace('"', '""')
        text.write(f'{index},{ontology.mids[number]},"{name}"\n')
    return text.getvalue()
