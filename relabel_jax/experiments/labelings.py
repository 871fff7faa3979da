"""The labelings that a config names: those of the package, and those of `labeling_files`."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import LabelFile, labeling_files, read_label_file
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology


def files(config: ConfigDict) -> dict[str, pathlib.Path]:
    """Returns the files of `config.labeling_files` by the names of their labelings.

    Raises:
      InputError: the field has another form, or a name is taken or cannot be one.
    """
    try:
        return labeling_files(config.labeling_files)
    except InputError as error:
        raise InputError(f"config.{error}") from error


def check_labelings(config: ConfigDict, field: str, labelings: Sequence[str]) -> None:
    """Checks the labelings of a field of a config.

    Args:
      config: the config.
      field: the name of the field, for messages.
      labelings: the labelings that it names.

    Raises:
      InputError: a labeling is unknown or is there twice.
    """
    known = (*LABELINGS, *files(config))
    for position, labeling in enumerate(labelings):
        if labeling not in known:
            raise InputError(
                f"config.{field}: {labeling!r} is none of {', '.join(known)}; "
                "config.labeling_files=NAME=FILE adds your own labeling"
            )
        if labeling in labelings[:position]:
            raise InputError(f"config.{field}: {labeling!r} is there twice")


def read_files(
    config: ConfigDict, labelings: Iterable[str], ontology: Ontology
) -> dict[str, LabelFile]:
    """Reads the files of those labelings that have one.

    Raises:
      InputError: a file cannot be read, or has a mid that is not in the ontology.
    """
    paths = files(config)
    return {
        name: read_label_file(paths[name], ontology, name)
        for name in dict.fromkeys(labelings)
        if name in paths
    }


def recorded(
    fields: dict[str, Any], label_files: dict[str, LabelFile]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns what a run or a grid records of its label files.

    Args:
      fields: the config, as JSON has it.
      label_files: the files of the run or the grid.

    Returns:
      The fields, with only these files in `labeling_files` and without that field if there are
      none, and the digests of the files by name.
    """
    fields = {name: value for name, value in fields.items() if name != "labeling_files"}
    if label_files:
        named = [f"{name}={file.path}" for name, file in label_files.items()]
        fields["labeling_files"] = ",".join(named)
    return fields, {name: file.digest for name, file in label_files.items()}


def facts(label_files: dict[str, LabelFile]) -> dict[str, str]:
    """Returns what must be the same in all processes, by its name in messages."""
    return {f"labels {name!r} of digest": file.digest for name, file in label_files.items()}
