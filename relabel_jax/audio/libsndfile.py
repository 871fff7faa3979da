"""Decodes WAV, FLAC, Ogg Vorbis, AIFF, CAF and other formats with libsndfile."""

import io
import math
import os
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
import soundfile

from relabel_jax.audio import ogg
from relabel_jax.audio.facts import Facts
from relabel_jax.audio.mix import check_scale
from relabel_jax.audio.watched import Watched
from relabel_jax.errors import Rejected
from relabel_jax.faults import check_memory

_FLOATS = ("FLOAT", "DOUBLE")
_SYSTEM = 2  # libsndfile's SF_ERR_SYSTEM
_CHUNK = 1 << 20
# libsndfile logs where a header says more than there is.
_TOO_LONG = re.compile(
    r"^\s*(?:data|SSND|BODY|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
# Programs that write to a pipe do not know the length; SoX writes 0x7FFFF000, FFmpeg 0xFFFFFFFF.
_UNKNOWN_LENGTH = 0x7FFF_0000
# libFLAC reads 8 KiB at once, so in a smaller file nothing is left unread.
_SMALL_FLAC_BYTES = 1 << 14


def blocks(
    file: IO[bytes], duration_s: float, block_samples: int, facts: Facts, min_samples: int = 0
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a recording; for the other arguments see `decode.decode_blocks`.

    Args:
      min_samples: the samples that must be there. libsndfile estimates the length of some MP3s.

    Yields:
      `(channels, rate_hz)`: float32[channels, time], and the sample rate.

    Raises:
      Rejected: `unreadable`: libsndfile cannot decode it, or stops before its end; or `scale`, see
        `mix.check_scale`.
    """
    source = _from_start(file)
    try:
        with _Stream(source, closefd=False) as stream:
            if stream.frames < min_samples:
                raise Rejected("unreadable", "stops before the end")
            facts.length_s = stream.frames / stream.samplerate
            facts.has_exact_length = stream.format != "MPEG"
            block = max(1, block_samples // stream.channels)
            # A whole number of samples, so that the loop ends at 0.
            wanted = math.inf if duration_s == math.inf else round(duration_s * stream.samplerate)
            num_left = stream.frames
            while True:
                asked = int(min(block, wanted, num_left))
                frames = stream.read(asked, dtype="float32", always_2d=True)
                if stream.subtype in _FLOATS:
                    check_scale(frames)
                if isinstance(source, Watched):
                    source.check()
                yield frames.T, stream.samplerate
                wanted -= asked
                num_left -= asked
                if not wanted:
                    break
                if len(frames) < asked or not num_left:
                    _check_end(file, stream, facts)
                    break
    except soundfile.LibsndfileError as error:
        if isinstance(source, Watched):
            source.check()
        if error.code == _SYSTEM:  # reading failed, or a damaged header names an impossible place
            file.seek(0)
            while file.read(_CHUNK):  # raises OSError if the file cannot be read
                pass
        check_memory()
        raise Rejected("unreadable", error.error_string) from error


class _Stream(soundfile.SoundFile):
    """A file that is read from front to back, without seeking.

    soundfile seeks after each read of a seekable file, which takes time, and libsndfile does not
    seek exactly in some formats. `blocks()` is not used either: if a file is shorter than its
    header says, it returns uninitialized memory at the end.
    """

    def seekable(self) -> bool:
        return False


def _from_start(file: IO[bytes]) -> io.BytesIO | Watched | int:
    """Returns what soundfile opens: the descriptor of a file on disk, which is fastest.

    Without the name of the file, libsndfile goes by its content.
    """
    file.seek(0)
    if isinstance(file, io.FileIO):
        return file.fileno()
    return file if isinstance(file, io.BytesIO) else Watched(file)


def _check_end(file: IO[bytes], stream: _Stream, facts: Facts) -> None:
    """Looks for signs that the recording does not end where libsndfile does."""
    if stream.format == "FLAC":
        place = file.tell()
        size = file.seek(0, os.SEEK_END)
        if place < size or size < _SMALL_FLAC_BYTES:
            raise Rejected("unreadable", "stops at the length that the header says")
    elif stream.format == "OGG":
        link = next(ogg.links(file))
        if link.finish():
            raise Rejected("unreadable", "stops at the end of the first stream")
        facts.partial |= link.is_cut
    else:
        facts.partial |= any(
            int(there) < int(claimed) < _UNKNOWN_LENGTH
            for claimed, there in _TOO_LONG.findall(stream.extra_info)
        )
