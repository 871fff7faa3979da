"""What the commands that write one output have in common."""

import pathlib

from relabel_jax.errors import InputError


def refuse_existing(path: pathlib.Path) -> None:
    """Raises InputError if there is something under that name."""
    if path.exists():
        raise InputError(f"{path}: exists already; give --overwrite or another --output")
