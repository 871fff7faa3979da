"""Reads and writes files. A file is either complete under its final name, or absent."""

import contextlib
import csv
import fcntl
import glob
import io
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relabel_jax.errors import InputError


@contextlib.contextmanager
def complete_file(path: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to, and renames the file to `path` when the block ends.

    On an error the temporary file is deleted and an older file at `path` stays. Only a killed
    process leaves its `.*.tmp` beside `path`. A missing folder is created.

    Raises:
      InputError: the file cannot be written: no folder, no permission, no space.
    """
    path = pathlib.Path(path)
    # Random, because two hosts that share the folder may have processes with the same id.
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
        # The parent may not be a folder. Then the error above says so.
        with contextlib.suppress(OSError):
            temporary.unlink()


def left_behind(path: pathlib.Path) -> list[pathlib.Path]:
    """The temporary files of `path` that killed processes left. Others may be in use now."""
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.*.tmp"))


def refuse_existing(*outputs: pathlib.Path) -> None:
    """Raises InputError if there is something under one of these names.

    Outputs that a killed `written_together` left do not count.
    """
    if _marker(outputs).exists():
        return
    for path in outputs:
        if path.exists():
            raise InputError(f"{path}: exists already; give --overwrite or another --output")


@contextlib.contextmanager
def written_together(*outputs: pathlib.Path) -> Iterator[None]:
    """Marks several outputs as unfinished within the block, which writes them.

    If the block is killed or fails after the first output, the mark stays. Then `refuse_existing`
    lets the same command write them again. The temporary files of a killed block are deleted.

    Raises:
      InputError: the mark cannot be written.
    """
    marker = _marker(outputs)
    try:
        for path in outputs if marker.exists() else ():
            for temporary in left_behind(path):
                temporary.unlink(missing_ok=True)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise InputError(f"{outputs[0]}: cannot write: {error.strerror}") from error
    try:
        yield
    except BaseException:
        if not any(path.exists() for path in outputs):
            marker.unlink(missing_ok=True)
        raise
    marker.unlink(missing_ok=True)


def _marker(outputs: Sequence[pathlib.Path]) -> pathlib.Path:
    """The file that is there while a command writes these outputs."""
    return outputs[0].with_name(f".{outputs[0].name}.unfinished")


@contextlib.contextmanager
def only_process(
    lock_file: pathlib.Path,
    name: pathlib.Path,
    busy: str,
    *,
    shared: bool = False,
    wait: bool = False,
) -> Iterator[None]:
    """Locks a file for this process. The system releases the lock however the process ends.

    Args:
      lock_file: the file to lock. It is created with its folder if it does not exist. It is never
        deleted, because another process may be waiting for it.
      name: the file or folder that error messages name.
      busy: the error message if another process holds the lock.
      shared: whether other processes may hold it too, if they also ask for a shared lock.
      wait: whether to wait until the other process releases the lock.

    Raises:
      InputError: the file cannot be created or locked, or another process holds the lock.
    """
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_file, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise InputError(f"{name}: cannot write there: {error.strerror}") from error
    try:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
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
    """Turns an OSError in the block into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror or error}") from error


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes strict JSON (no NaN). The file is complete or absent."""
    with complete_file(path) as temporary:
        temporary.write_text(json_text(value))


def json_text(value: Any) -> str:
    """Returns the text that `write_json` writes."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> str:
    """Returns a CSV with a header line.

    Args:
      rows: the values of each row by the name of the column.
      fields: the columns. By default they are those of the first row; without rows, the text is
        empty.
    """
    text = io.StringIO()
    if columns := fields or [column for row in rows[:1] for column in row]:
        writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: the file is absent or damaged.
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
