"""Checks where the samples of a WAV file begin and end, and repairs its header.

Recorders that lose power leave a data chunk of size 0. Some programs write no pad byte after a
chunk of odd length. libsndfile then finds no samples.
"""

import os
import re
import struct
from typing import IO

from relabel_jax.audio.splice import spliced
from relabel_jax.errors import Rejected

_CHUNK_NAME = re.compile(rb"[\x20-\x7e]{4}")
_HEAD_BYTES = 4_096  # most files have their samples after fewer bytes
_MAX_CHUNKS = 1_000
_MAX_FORMAT_BYTES = 1 << 16
# More bytes than this part of the samples, after them and in no chunk, are samples too. Rubbish
# that editors leave at the end is short.
_MAX_RUBBISH = 0.1


def repaired(file: IO[bytes]) -> IO[bytes]:
    """Returns a file with a right header: the file itself if its header is right.

    Args:
      file: an open binary file that can seek; any format.

    Raises:
      Rejected: `unreadable`, if the data chunk is much smaller than the samples that are there. It
        cannot be known then where they end.
    """
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    start = head[:12]
    if len(start) < 12 or start[:4] not in (b"RIFF", b"RIFX") or start[8:] != b"WAVE":
        return file
    order = "<" if start[:4] == b"RIFF" else ">"
    size = file.seek(0, os.SEEK_END)
    format_chunk = b""
    place, is_odd, is_padded = 12, False, True
    for _ in range(_MAX_CHUNKS):
        name, length = _chunk(file, head, place, order)
        if not name and is_odd:  # perhaps the chunk before it has no pad byte
            place, is_padded = place - 1, False
            name, length = _chunk(file, head, place, order)
        if not name:
            return file
        begin = place + 8
        if name == b"data":
            break
        if name == b"fmt " and length < _MAX_FORMAT_BYTES:
            format_chunk = _read(file, head, begin, length)
        place, is_odd = begin + length + length % 2, bool(length % 2)
    else:
        return file
    rest = size - begin - length
    # Zeros may fill the file up to a block of the disk.
    if rest > _MAX_RUBBISH * length and not _begins_chunk(file, head, begin + length, order):
        if length:
            raise Rejected(
                "unreadable",
                f"the header says {length} bytes of samples; {rest} more bytes follow that are in "
                "no chunk: the header is wrong",
            )
    elif is_padded:
        return file
    else:
        rest = 0
    length = min(length + rest, size - begin)
    header = start[8:] + b"fmt " + struct.pack(f"{order}I", len(format_chunk)) + format_chunk
    header += bytes(len(format_chunk) % 2)
    header += b"data" + struct.pack(f"{order}I", min(length, 0xFFFF_FFFF))
    total = min(len(header) + length, 0xFFFF_FFFF)
    return spliced(start[:4] + struct.pack(f"{order}I", total) + header, file, begin, length)


def _read(file: IO[bytes], head: bytes, place: int, length: int) -> bytes:
    """Reads `length` bytes at `place` of a file that begins with `head`."""
    if place + length <= len(head):
        return head[place : place + length]
    file.seek(place)
    return file.read(length)


def _chunk(file: IO[bytes], head: bytes, place: int, order: str) -> tuple[bytes, int]:
    """Returns the name and length of the chunk at `place`; an empty name if there is none."""
    start = _read(file, head, place, 8)
    if len(start) < 8 or not _CHUNK_NAME.match(start):
        return b"", 0
    return start[:4], struct.unpack(f"{order}I", start[4:])[0]


def _begins_chunk(file: IO[bytes], head: bytes, place: int, order: str) -> bool:
    """Whether a chunk, or an ID3 tag, begins at `place`, with or without a pad byte before it."""
    if _read(file, head, place, 3) in (b"ID3", b"TAG"):
        return True
    return any(_chunk(file, head, place + pad, order)[0] for pad in (0, 1))
