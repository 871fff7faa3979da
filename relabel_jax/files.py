"""Files that are complete under their final name or not there at all."""

import contextlib
import fcntl
import json
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import Any

from relabel_jax.errors import InputError


@contextlib.contextmanager
def complete_file(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path to write to; when the block ends well it is on disk under the name `path`.

    On an error nothing is left behind and what stood under the name before stays. Only a process
    that is killed leaves its `.*.tmp` beside `path`. The folder is made where absent.

    Raises:
      InputError: an OSError while writing: no folder, no permission, no space.
    """
    path = pathlib.Path(path)
    # Not the process id: two hosts that share the folder may have the same one.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        # Its folder may be no folder; then the error above says so.
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def only_process(lock_file: pathlib.Path, name: pathlib.Path, busy: str) -> Iterator[None]:
    """Makes the file and holds it for this process; the system lets go however the process ends.

    Args:
      lock_file: its folder is made where absent. It stays, as another may be waiting for it.
      name: what errors are about.
      busy: what to say where another process holds it, and what to do then.

    Raises:
      InputError: it cannot be made, or another process holds it.
    """
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_file, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise InputError(f"{name}: cannot write there: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{name}: {busy}") from error
        except OSError as error:  # as on Lustre, unless it is mounted with -o flock
            raise InputError(
                f"{name}: files cannot be locked there: {error.strerror}; mount it so that they "
                "can, or write to another disk"
            ) from error
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def reading(path: str | pathlib.Path) -> Iterator[None]:
    """An OSError within becomes an InputError: no permission, a name too long, a bad disk."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror or error}") from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON (no NaN), complete or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with complete_file(path) as temporary:
        temporary.write_text(text)


def read_json(path: pathlib.Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
      InputError: it is absent or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot read it: {error}") from error


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
