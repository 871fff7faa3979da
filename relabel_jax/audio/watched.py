"""A file for libraries that hide read errors, or print them."""

from typing import Any


class Watched:
    """A file that seems to end where reading fails, and keeps the error.

    FFmpeg and libsndfile are written in C. They read a Python file through functions that cannot
    raise.

    Args:
      file: a file, or an object that only has `read`.
    """

    def __init__(self, file: Any):
        self._file = file
        self._fault: OSError | None = None
        for name in ("seek", "tell"):
            if hasattr(file, name):
                setattr(self, name, getattr(file, name))

    def read(self, size: int) -> bytes:
        """Reads at most `size` bytes; none after a failure."""
        try:
            return b"" if self._fault else self._file.read(size)
        except OSError as error:
            self._fault = error
            return b""

    def check(self) -> None:
        """Raises the OSError if reading failed."""
        if self._fault:
            raise self._fault
