"""Output files that are either complete or not there."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from relabel_jax.errors import InputError


def refuse_existing(path: pathlib.Path) -> None:
    """Raises InputError if there is something under that name."""
    if path.exists():
        raise InputError(f"{path}: exists already; give --overwrite or another --output")


@contextlib.contextmanager
def complete_file(path: str | pathlib.Path) -> Iterator[BinaryIO]:
    """A binary file that gets its name when all is written and on the disk.

    On an error nothing is left behind and what stood under the name before stays.

    Raises:
      InputError: the folder cannot be made or written to, or the disk is full.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def joined_bytes(values: pa.Array) -> memoryview:
    """The bytes of all values of a string or binary array, one behind the other."""
    _, offsets, content = values.buffers()
    start, end = np.frombuffer(offsets, np.int32)[[values.offset, values.offset + len(values)]]
    return memoryview(content or b"")[start:end]
