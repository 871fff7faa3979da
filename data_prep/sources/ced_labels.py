"""The labels of CED's HDF5 files, which are in a TSV that CED's script writes with them.

The script writes `hdf5/NAME_0.h5`, `hdf5/NAME_1.h5` and so on, and `labels/NAME.tsv`. The TSV may
also lie beside the HDF5 files. It has the columns `filename` and `labels`, which are class numbers
separated by semicolons.
"""

import csv
import pathlib
import re

from relabel_jax.errors import InputError

_NUMBER = re.compile(r"_\d+$")


def labels_of_file(path: str) -> dict[str, list[str | int]]:
    """Reads the labels of an HDF5 file's recordings.

    Args:
      path: the HDF5 file.

    Returns:
      The labels by the name of the recording without folders; empty if there is no TSV.

    Raises:
      InputError: the TSV cannot be read, or has no such columns.
    """
    file = pathlib.Path(path)
    name = f"{_NUMBER.sub('', file.stem)}.tsv"
    places = (file.parent / name, file.parent.parent / "labels" / name)
    table = next((place for place in places if place.is_file()), None)
    if table is None:
        return {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened, delimiter="\t")
            missing = {"filename", "labels"} - set(rows.fieldnames or ())
            if missing:
                raise InputError(
                    f"{table}: no column {' and '.join(sorted(missing))}; expected the filename "
                    f"and the labels of each recording of {path}"
                )
            return {
                (row["filename"] or "").rpartition("/")[2]: _split(row["labels"] or "")
                for row in rows
            }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: cannot read the labels of {path}: {error}") from error


def _split(labels: str) -> list[str | int]:
    texts = filter(None, map(str.strip, labels.split(";")))
    return [int(text) if text.isdecimal() else text for text in texts]
