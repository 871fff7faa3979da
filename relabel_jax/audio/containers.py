"""Decodes formats that libsndfile does not read (m4a, mp4, webm, mkv, aac, wma) with PyAV.

PyAV is in the extra `sources`.
"""

import math
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from relabel_jax.errors import Rejected, install_command

EXTENSIONS = (".m4a", ".mp4", ".webm", ".mkv", ".mka", ".aac", ".wma")

# MP4 and QuickTime, Matroska and WebM, ASF, AAC's ADTS.
_FIRST_BYTES = re.compile(
    rb".{4}(ftyp|moov|mdat|wide|free|skip)|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75|\xff[\xf0\xf1\xf8\xf9]",
    re.DOTALL,
)
# FFmpeg also reads playlists, which name other files and addresses. Those must not be opened.
_OPTIONS = {"format_whitelist": "mov,matroska,asf,aac"}


def decode_blocks(
    file: str | IO[bytes], duration_s: float = math.inf
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes the first audio stream of a file and averages its channels, block by block.

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode at most this many seconds.

    Yields:
      `(mono, rate_hz)`: float32[time], and the sample rate, which is the same for all blocks. There
      is at least one block.

    Raises:
      Rejected: `unreadable` (another format, or damaged), `needs_pyav` (PyAV is not installed).
    """
    try:
        if isinstance(file, str):
            with open(file, "rb") as opened:
                yield from decode_blocks(opened, duration_s)
            return
        file.seek(0)
        first_bytes = file.read(8)
        file.seek(0)
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from error
    if not _FIRST_BYTES.match(first_bytes):
        raise Rejected("unreadable", "Format not recognised.")
    try:
        import av
    except ModuleNotFoundError as error:
        what = f"only PyAV reads this format: {install_command('sources')}"
        raise Rejected("needs_pyav", what) from error
    # Tags may have bytes that are not UTF-8. PyAV 19 and later replaces them by default.
    tags: dict[str, Any] = (
        {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    )
    try:
        with av.open(file, mode="r", options=_OPTIONS, **tags) as container:
            if not container.streams.audio:
                raise Rejected("unreadable", "no audio in it")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise Rejected("unreadable", "no decoder for its audio")
            rate_hz = stream.rate
            to_float = av.AudioResampler(format="fltp", rate=rate_hz)
            yield np.zeros(0, np.float32), rate_hz
            wanted = duration_s if duration_s == math.inf else round(duration_s * rate_hz)
            for frame in container.decode(stream):
                for planes in to_float.resample(frame):
                    mono = planes.to_ndarray().mean(axis=0, dtype=np.float32)
                    yield mono[: int(min(len(mono), wanted))], rate_hz
                    wanted -= min(len(mono), wanted)
                if not wanted:
                    break
    except (av.error.FFmpegError, ValueError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise Rejected("unreadable", detail) from error
