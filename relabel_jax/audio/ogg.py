"""Splits an Ogg file into its links: complete Ogg streams, one after the other.

Radio stations and `cat` make such files. FFmpeg does not decode a link of another sample rate.
"""

import os
import re
import struct
from collections.abc import Iterator
from typing import IO

MAGIC = b"OggS"
OPUS = b"OpusHead"  # in the first page

_CHUNK = 1 << 16
_FIRST_PAGE = b"OggS\x00\x02"  # of a stream; a link begins with the first pages of its streams
_LATER_PAGE = re.compile(rb"OggS\x00[\x00\x01\x04\x05]")
_MAX_PAGE = 27 + 255 + 255 * 255
_ENDS_STREAM = 0x04
_MAX_HEAD = 512
_OPUS_HZ = 48_000  # positions in Opus have this unit at any sample rate


class Link:
    """One link, read from front to back. It has no `seek`, so FFmpeg does not look beyond it.

    Args:
      file: the Ogg file.
      buffer: bytes that were already read, with which the link begins.
    """

    def __init__(self, file: IO[bytes], buffer: bytes = b""):
        self._file = file
        self._buffer = buffer  # read, but not yet given
        self._end: int | None = None  # of the link in the buffer, once it is known
        self._last = b""  # the last bytes that were given, at least a page
        self._begun = False  # whether a page after the first ones was seen
        self._find_end(0)

    def read(self, size: int = -1) -> bytes:
        """Reads at most `size` bytes; fewer only at the end of the link."""
        while self._end is None and (size < 0 or len(self._buffer) < size + len(_FIRST_PAGE)):
            begin = max(0, len(self._buffer) - len(_FIRST_PAGE) + 1)
            chunk = self._file.read(_CHUNK)
            self._buffer += chunk
            self._find_end(begin)
            if not chunk and self._end is None:
                self._end = len(self._buffer)
        end = len(self._buffer) if self._end is None else self._end
        count = end if size < 0 else min(size, end)
        given, self._buffer = self._buffer[:count], self._buffer[count:]
        if self._end is not None:
            self._end -= count
        self._last = (self._last + given)[-_MAX_PAGE - 1 :]
        return given

    def _find_end(self, begin: int) -> None:
        """Looks for the next link in the buffer, from `begin` on."""
        if not self._begun:
            page = _LATER_PAGE.search(self._buffer)
            if page is None:
                return
            self._begun, begin = True, page.start()
        place = self._buffer.find(_FIRST_PAGE, begin)
        if place >= 0:
            self._end = place

    def finish(self) -> bytes:
        """Reads the rest of the link and returns the bytes after it that were already read."""
        while self.read(_CHUNK):
            pass
        return self._buffer

    @property
    def is_cut(self) -> bool:
        """Whether the link, which was read to its end, ends before its last page does."""
        page = self._last[self._last.rfind(MAGIC) :]
        num_segments = page[26] if len(page) > 26 else 255
        sizes = page[27 : 27 + num_segments]
        is_complete = len(sizes) == num_segments and len(page) >= 27 + num_segments + sum(sizes)
        return not (is_complete and page[5] & _ENDS_STREAM)


def links(file: IO[bytes]) -> Iterator[Link]:
    """Yields the links of an Ogg file; each must be used before the next one is taken."""
    file.seek(0)
    rest = file.read(_CHUNK)
    while rest:
        link = Link(file, rest)
        yield link
        rest = link.finish() or file.read(_CHUNK)


def length_of_opus_s(file: IO[bytes]) -> float:
    """Returns the seconds of the last link, as its last page says; 0 if it is not Opus."""
    file.seek(0)
    if OPUS not in file.read(_MAX_HEAD):
        return 0.0
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _CHUNK))
    end = file.read(_CHUNK)
    page = end[end.rfind(MAGIC) :]
    if len(page) < 14:
        return 0.0
    (position,) = struct.unpack("<q", page[6:14])
    return max(0, position) / _OPUS_HZ


def has_one_page_of_sound(file: IO[bytes]) -> bool:
    """Whether the sound of a short Ogg file is in one page. FFmpeg then misses its exact end."""
    file.seek(0)
    content = file.read(2 * _MAX_PAGE)
    # The other pages are the two or three of the header.
    return len(content) < 2 * _MAX_PAGE and content.count(MAGIC) <= 3
