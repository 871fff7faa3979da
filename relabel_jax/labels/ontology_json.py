"""The form of AudioSet's `ontology.json`: a list of objects with `id`, `name`, maybe `child_ids`.

Every type is checked here, once, so that no other module has to.
"""

import json
import pathlib
from collections.abc import Iterable

from relabel_jax.errors import InputError

_MAX_CLASSES = 1 << 14  # the matrices of an ontology have a byte for each pair of classes
_MAX_CHARACTERS = 1 << 28


def read_text(path: str | pathlib.Path) -> str:
    """Reads the text of an ontology.

    Raises:
      InputError: the file cannot be read or is too long.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # not UTF-8, or no name of a file
        raise InputError(f"{path}: cannot read the ontology: {error}") from error
    if len(text) > _MAX_CHARACTERS:
        raise InputError(
            f"{path}: has more than {_MAX_CHARACTERS:,} characters; expected an ontology.json"
        )
    return text


def read_nodes(text: str) -> list[dict]:
    """Reads the classes from JSON text.

    Raises:
      InputError: the text has another form.
    """
    try:
        nodes = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number may have too many digits
        raise InputError(f"ontology: not JSON: {error}") from error
    if not isinstance(nodes, list) or not nodes:
        raise InputError("ontology: expected a non-empty JSON list of classes")
    if len(nodes) > _MAX_CLASSES:
        raise InputError(f"ontology: has {len(nodes):,} classes, at most {_MAX_CLASSES:,} fit")
    for position, node in enumerate(nodes):
        _check_types(position, node)
    return nodes


def _check_types(position: int, node: object) -> None:
    """Raises InputError if a class does not have the fields of AudioSet's ontology.json.

    Args:
      position: its place in the file, for messages.
      node: a value of JSON.
    """
    fields = node if isinstance(node, dict) else {}
    for field in ("id", "name"):
        value = fields.get(field)
        if not isinstance(value, str):
            raise InputError(
                f"ontology: class number {position} has no field {field!r} of JSON type string"
            )
        if not _is_text(value):
            raise InputError(
                f"ontology: class number {position} has the {field} {value!r}, expected text"
            )
    for field in ("child_ids", "restrictions"):
        value = fields.get(field)
        if value is None:
            continue
        if not isinstance(value, list):
            raise InputError(
                f"ontology: class number {position} has no field {field!r} of JSON type list"
            )


def _is_text(value: str) -> bool:
    """Whether the text is not empty and can be written as UTF-8."""
    return bool(value) and not any("\ud800" <= character <= "\udfff" for character in value)


def children(node: dict) -> list:
    """The `child_ids` of a class, of any type; none if they are missing or null."""
    return node.get("child_ids") or []


def json_text(nodes: Iterable[dict]) -> str:
    return json.dumps(list(nodes), indent=1) + "\n"
