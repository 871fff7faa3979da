"""Opens text files as spreadsheets, editors and scripts leave them.

A file is gzipped if its content says so, whatever its name. Text is UTF-8, or UTF-16 with or
without a byte order mark.
"""

import contextlib
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from relabel_jax.errors import InputError

UTF8_MARK = b"\xef\xbb\xbf"

_READ_ERRORS = (OSError, EOFError, zlib.error)
# A table of clips becomes 3 to 20 times as long. A file that is made to fill the memory becomes
# 1,000 times as long.
_MAX_GROWTH = 200
_FREE_BYTES = 1 << 26
_BUFFER_BYTES = 1 << 20
_START_BYTES = 1 << 16
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextlib.contextmanager
def opened(path: pathlib.Path, what: str = "file") -> Iterator[BinaryIO]:
    """Opens a file for reading bytes, and decompresses it if it is gzipped.

    Args:
      path: the file.
      what: the content of the file, for messages.

    Raises:
      InputError: the file cannot be read, or becomes too long. This includes errors within the
        block.
    """
    try:
        with open(path, "rb") as file:
            if file.peek(2)[:2] == b"\x1f\x8b":
                limit = most_bytes(os.fstat(file.fileno()).st_size)
                with gzip.GzipFile(fileobj=file) as content:
                    yield cast(BinaryIO, io.BufferedReader(_Bounded(content, limit), _BUFFER_BYTES))
            else:
                yield file
    except _READ_ERRORS as error:
        raise InputError(f"{path}: cannot read the {what}: {error}") from error


def most_bytes(size: int) -> int:
    """The most bytes that the content of a compressed file of this size may have."""
    return max(_FREE_BYTES, _MAX_GROWTH * size)


class _Bounded(io.RawIOBase):
    """A stream that raises OSError where its content is longer than a limit."""

    def __init__(self, content: gzip.GzipFile, limit: int):
        self._content = content
        self._limit = self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        number = self._content.readinto(buffer)
        self._left -= number
        if self._left < 0:
            raise OSError(
                f"its gzipped content has more than {self._limit:,} bytes, over {_MAX_GROWTH} "
                "times its size; decompress it first if that is right"
            )
        return number


def read_text(path: pathlib.Path, what: str = "file") -> str:
    """Reads a text file; a byte order mark is left out.

    Args:
      path: the file.
      what: the content of the file, for messages.

    Raises:
      InputError: the file cannot be read, or is not UTF-8 or UTF-16. The message names the row.
    """
    with opened(path, what) as file:
        content = file.read()
    encoding = _encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        problem = f"row {row} has the byte 0x{content[error.start]:02x}, which is not UTF-8"
    else:
        if "\0" not in text:
            return text
        problem = "it is a binary file"
    raise InputError(
        f"{path}: cannot read the {what}: {problem}; expected a text file in UTF-8; export it again"
    )


def read_start(path: pathlib.Path, what: str = "file") -> str:
    """Reads the first 64 KiB of a text file, which tell its form.

    Bytes that are not text become replacement characters. A byte order mark is left out.

    Args:
      path: the file.
      what: the content of the file, for messages.

    Raises:
      InputError: the file cannot be read.
    """
    with opened(path, what) as file:
        content = file.read(_START_BYTES)
    return content.decode(_encoding(content), errors="replace")


def _encoding(content: bytes) -> str:
    """The encoding by the byte order mark, or by the place of the zero bytes of ASCII letters."""
    if content.startswith(_UTF16_MARKS):
        return "utf-16"
    # A text begins with ASCII characters: `#`, an id or `{`.
    first = content[:64]
    if len(first) >= 4 and len(content) % 2 == 0:
        if not any(first[1::2]) and all(first[::2]):
            return "utf-16-le"
        if not any(first[::2]) and all(first[1::2]):
            return "utf-16-be"
    return "utf-8-sig"
