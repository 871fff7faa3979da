"""Data files of AST, PSLA and AudioMAE: `{"data": [{"wav": PATH, "labels": "mid,mid"}, ...]}`."""

import json
import pathlib

import pyarrow as pa

from relabel_jax.errors import InputError
from relabel_jax.labels import clip_names
from relabel_jax.labels.text_files import read_text

_WRONG_FORM = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def is_json(path: pathlib.Path) -> bool:
    """Whether the name of a file says that it is JSON, gzipped or not."""
    return path.name.lower().endswith((".json", ".json.gz"))


def read_ast_json(path: pathlib.Path, what: str = "labels") -> pa.Table:
    """Reads a data file.

    Args:
      path: the file, gzipped or not.
      what: the content of the file, for messages.

    Returns:
      A table of strings: clip_id (the name of the recording without folder and extension), path,
      positive and masked (each `mid,mid`). `masked` is empty where the file has none.

    Raises:
      InputError: the file cannot be read or has another form.
    """
    text = read_text(path, what)
    try:
        rows = [
            (each["wav"], _joined(each["labels"]), _joined(each.get("masked", "")))
            for each in json.loads(text)["data"]
        ]
        columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    except (*_WRONG_FORM, pa.ArrowException) as error:
        raise InputError(
            f"{path}: is not a data file of AST or PSLA ({error}); expected "
            '{"data": [{"wav": PATH, "labels": "mid,mid"}]}'
        ) from error
    columns = columns or [pa.array([], pa.string())] * 3
    names = pa.array([clip_names.stem(wav) for wav in columns[0].to_pylist()], pa.string())
    return pa.table([names, *columns], names=["clip_id", "path", "positive", "masked"])


def _joined(labels: str | list[str]) -> str:
    return labels if isinstance(labels, str) else ",".join(labels)
