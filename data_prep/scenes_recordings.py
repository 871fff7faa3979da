"""The recordings that scenes are made of: their files, labels and groups, from a table of labels.

The table is a CSV with a header line, and may be in several files. These columns are read:

- the file, from the first of `path`, `filename`, `fname` and `clip_id` that the table has. It is a
  path below the folder of the recordings, or the name of a file anywhere in it, with or without its
  extension.
- the labels, from the first of `mids`, `label_names`, `category`, `labels` and `label`: mids or
  display names, separated by semicolons; mids may also be separated by commas or blanks. Categories
  of ESC-50 have the mids of `data_prep.datasets.ESC50_MIDS`, and a class map may name the mids of
  any other label.
- the group, from the first of `group`, `uploader`, `fold` and `split` that a file has. In files
  without this column, the name of the file is the group. If no file has one, each recording is a
  group.
"""

import collections
import csv
import functools
import io
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from data_prep.datasets import ESC50_MIDS
from data_prep.listing import audio_files
from relabel_jax.errors import InputError, Rejected, some
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.text_files import read_text

_FILE_COLUMNS = ("path", "filename", "fname", "clip_id")
_LABEL_COLUMNS = ("mids", "label_names", "category", "labels", "label")
GROUP_COLUMNS = ("group", "uploader", "fold", "split")
_DELIMITERS = ",;\t"


class Labelled(NamedTuple):
    """A row of the table of labels.

    Attributes:
      name: the file, as the table names it.
      labels: the class numbers of the most precise labels, ascending. Their ancestors follow.
      group: recordings of one group are in one split.
    """

    name: str
    labels: tuple[int, ...]
    group: str


def read_labels(
    paths: Sequence[pathlib.Path],
    ontology: Ontology,
    *,
    class_map: pathlib.Path | None = None,
    group_column: str | None = None,
    unknown: str = "refuse",
) -> list[Labelled]:
    """Reads the table of labels.

    Args:
      paths: its files.
      ontology: the ontology of the labels.
      class_map: a CSV of `label,mids`, for labels that are neither mids nor display names.
      group_column: the column of the groups; None for the first of `GROUP_COLUMNS`.
      unknown: `refuse` labels that the ontology lacks, or `drop` them. A row without a label left
        is left out.

    Raises:
      InputError: a file cannot be read or lacks a column, a row has no file or no label, a file is
        named twice, or a label is unknown.
    """
    tables = {path: _rows(path) for path in paths}
    with_column = _tables_with_group(tables, group_column)
    find = _finder(ontology, class_map)
    recordings: dict[str, Labelled] = {}
    for path, rows in tables.items():
        columns = list(rows[0][1])
        file_column = _first(path, columns, _FILE_COLUMNS)
        label_column = _first(path, columns, _LABEL_COLUMNS)
        for line, row in rows:
            where = f"{path}: line {line}"
            if not (name := (row[file_column] or "").strip()):
                raise InputError(f"{where}: {file_column} is empty; expected a recording")
            if name in recordings:
                raise InputError(f"{where}: {name!r} occurs twice; remove a row")
            if not (texts := _texts(row[label_column] or "")):
                raise InputError(f"{where}: {label_column} is empty; expected labels")
            labels: set[int] = set()
            for text in texts:
                try:
                    labels.update(find(text))
                except InputError as error:
                    if unknown != "drop":
                        raise InputError(
                            f"{where}: {error}; or name its mids by --class_map, or leave such "
                            "labels out by --unknown=drop"
                        ) from None
            if labels:
                column = with_column.get(path)
                group = (row[column] or "").strip() if column else path.stem if with_column else ""
                precise = labels.difference(*(ontology.ancestor_sets[each] for each in labels))
                recordings[name] = Labelled(name, tuple(sorted(precise)), group or name)
    if not recordings:
        raise InputError(f"{some(paths)}: no recording has a label of the ontology")
    return list(recordings.values())


def _rows(path: pathlib.Path) -> list[tuple[int, dict[str, str | None]]]:
    """The rows of a CSV, each with the number of its line."""
    text = read_text(path, "labels")
    delimiter = max(_DELIMITERS, key=text[: text.find("\n") + 1].count)
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: cannot read it as a CSV: {error}") from error
    if not rows:
        raise InputError(f"{path}: has no rows; expected a header line and a row a recording")
    return rows


def _first(path: pathlib.Path, columns: Sequence[str], wanted: Sequence[str]) -> str:
    for name in wanted:
        if name in columns:
            return name
    raise InputError(
        f"{path}: has none of the columns {', '.join(wanted)} (found {some(columns)}); expected a "
        "header line with one of them"
    )


def _tables_with_group(
    tables: Mapping[pathlib.Path, list], group_column: str | None
) -> dict[pathlib.Path, str]:
    """The column of the groups, by file that has it."""
    wanted = (group_column,) if group_column else GROUP_COLUMNS
    for name in wanted:
        found = {path: name for path, rows in tables.items() if name in rows[0][1]}
        if found:
            return found
    if group_column:
        raise InputError(f"--group_column={group_column}: no file of --labels has this column")
    return {}


def _texts(text: str) -> list[str]:
    """The labels of a field. Display names may have commas and blanks, mids have none."""
    separator = r"[;,\s]+" if text.lstrip().startswith("/") else r";"
    return [part for each in re.split(separator, text) if (part := each.strip())]


def _finder(ontology: Ontology, class_map: pathlib.Path | None) -> Callable[[str], tuple[int, ...]]:
    """A function that returns the class numbers of a label, or raises InputError."""
    mids: dict[str, Sequence[str]] = dict(ESC50_MIDS)
    if class_map is not None:
        of_user = read_columns(class_map, "mids", "label")
        mids = {label: _texts(text) for label, text in of_user.items()}

    @functools.cache
    def find(label: str) -> tuple[int, ...]:
        return tuple(ontology.find(each) for each in mids.get(label, (label,)))

    return find


def find_files(
    recordings: Sequence[Labelled], folder: pathlib.Path
) -> Iterator[tuple[Labelled, str | Rejected]]:
    """Yields each recording with the path of its file, or the reason why it has none.

    The files in the folder are listed, and names are looked up in the list. So no name leads out of
    the folder.

    Raises:
      InputError: the folder cannot be listed.
    """
    single, _ = audio_files(folder)
    root = os.path.abspath(folder)
    by_path, by_name = {}, collections.defaultdict(list)
    for _, path in single:
        by_path[os.path.relpath(path, root)] = path
        name = os.path.basename(path)
        for each in dict.fromkeys((name, os.path.splitext(name)[0])):
            by_name[each].append(path)
    for recording in recordings:
        found = by_path.get(os.path.normpath(recording.name))
        several = by_name.get(os.path.basename(recording.name), [])
        if found is None and len(several) == 1:
            (found,) = several
        if found is not None:
            yield recording, found
        elif several:
            yield recording, Rejected("ambiguous", f"{len(several)} files have this name")
        else:
            yield recording, Rejected("no_file", f"no recording of that name in {folder}")
