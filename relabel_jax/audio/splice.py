"""A part of a file, with other bytes before it, as a file."""

import io
import os
from typing import IO


def spliced(header: bytes, file: IO[bytes], begin: int, length: int) -> IO[bytes]:
    """Returns a file that has `header`, and then `length` bytes of `file` from `begin` on."""
    return io.BufferedReader(_Spliced(header, file, begin, length))


class _Spliced(io.RawIOBase):
    def __init__(self, header: bytes, file: IO[bytes], begin: int, length: int):
        self._header, self._file, self._begin = header, file, begin
        self._size = len(header) + length
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), self._size - self._place)
        if wanted <= 0:
            return 0
        if self._place < len(self._header):
            found = self._header[self._place : self._place + wanted]
        else:
            self._file.seek(self._begin + self._place - len(self._header))
            found = self._file.read(wanted)
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)
