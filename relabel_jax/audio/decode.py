"""Recordings in any format to mono samples at the recording's own rate.

libsndfile decodes WAV, FLAC, Ogg, MP3, AIFF and CAF. What it does not recognise (m4a, webm, mkv)
goes to containers.py.

AudioSet's recordings are cut to their segment when they are downloaded, so a clip is the beginning
of its file. A segment's `start_s` and `end_s` help to find the file and cut nothing.
"""

import math
import os
from collections.abc import Iterator
from typing import IO

import numpy as np
import soundfile

from relabel_jax.audio import containers
from relabel_jax.audio.resample import to_waveform
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError, Rejected

# Of several recordings with one name, the one whose extension comes first is preferred.
EXTENSIONS = (
    ".wav",
    ".flac",
    ".aiff",
    ".aif",
    ".caf",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    *containers.EXTENSIONS,
)

_BLOCK_SAMPLES = 1 << 20
_NOT_RECOGNISED = (1, 7)  # libsndfile's error codes; it gives the second one for a bad .mp3


def read_waveform(path: str, waveform_format: WaveformFormat) -> tuple[np.ndarray, float]:
    """Decodes the beginning of a recording and makes a waveform of it.

    Args:
      path: a file that libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF, CAF; any depth, rate, number of
        channels) or, where PyAV is installed, FFmpeg (m4a, mp4, webm, mkv, aac, wma).
      waveform_format: sample rate and length of the waveform.

    Returns:
      `(waveform, duration_s)`, as `resample.to_waveform`.

    Raises:
      Rejected: as `decode` and `resample.to_waveform`.
    """
    return to_waveform(*decode(path, waveform_format.read_s), waveform_format)


def decode(file: str | IO[bytes], duration_s: float = math.inf) -> tuple[np.ndarray, int]:
    """Decodes a recording and averages its channels.

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode this many seconds at most.

    Returns:
      `(mono, rate_hz)`: float32[time], and the sample rate.

    Raises:
      Rejected: `unreadable` (no such file, not audio, damaged), `empty` (0 bytes), `needs_pyav`.
    """
    pieces, rates_hz = zip(*decode_blocks(file, duration_s), strict=True)
    # Mostly there is one piece, and copying it would cost up to 5% of the decoding.
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), rates_hz[0]


def decode_blocks(
    file: str | IO[bytes], duration_s: float = math.inf, block_samples: int = _BLOCK_SAMPLES
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a recording as `decode` does, piece by piece.

    The memory does not depend on the length of the recording or its number of channels (WAV allows
    1,024).

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode this many seconds at most.
      block_samples: libsndfile decodes this many samples at once, counted over all channels.

    Yields:
      `(mono, rate_hz)`: float32[time], and the sample rate, which is the same for all pieces. There
      is at least one piece.

    Raises:
      Rejected: as `decode`, when the decoder reaches the damage.
    """
    try:
        size = os.path.getsize(file) if isinstance(file, str) else file.seek(0, os.SEEK_END)
        if not size:
            raise Rejected("empty", "the file has 0 bytes")
        if not isinstance(file, str):
            file.seek(0)
        elif file.lower().endswith(".raw"):
            raise Rejected("unreadable", "a .raw file does not say its rate; convert it to WAV")
        else:
            open(file, "rb").close()  # raises OSError with the cause, which libsndfile does not say
        with _Stream(os.fsencode(file) if isinstance(file, str) else file) as stream:
            yield from _read_blocks(stream, duration_s, block_samples)
            return
    except soundfile.LibsndfileError as error:
        if error.code not in _NOT_RECOGNISED:
            raise Rejected("unreadable", error.error_string) from error
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from error
    yield from containers.decode_blocks(file, duration_s)


class _Stream(soundfile.SoundFile):
    """Reads from front to back.

    soundfile seeks after each read, and libsndfile then decodes an MP3 to other samples. Its
    `blocks()` fills the end of a file that is shorter than its header says with stray memory.
    """

    def seekable(self) -> bool:
        return False


def _read_blocks(
    stream: _Stream, duration_s: float, block_samples: int
) -> Iterator[tuple[np.ndarray, int]]:
    block = max(1, block_samples // stream.channels)
    # A whole number: with a fraction left over, no read would be short and the loop never end.
    wanted = math.inf if duration_s == math.inf else round(duration_s * stream.samplerate)
    while wanted:
        asked = int(min(block, wanted))
        frames = stream.read(asked, dtype="float32", always_2d=True)
        # Channel by channel: mean(axis=1) takes twenty times as long.
        mono = sum(frames.T[1:], start=frames[:, 0])
        if stream.channels > 1:
            mono /= np.float32(stream.channels)
        yield mono, stream.samplerate
        wanted -= asked
        if len(frames) < asked:
            break


def list_recordings(top: str, extensions: tuple[str, ...] = EXTENSIONS) -> Iterator[str]:
    """Yields the files below a folder that have one of `extensions`, sorted by name.

    Args:
      top: the folder. Links to folders are followed, each folder is listed once.
      extensions: in lower case, with the dot.

    Raises:
      InputError: a folder cannot be listed.
    """

    def refuse(error: OSError):
        raise InputError(f"{error.filename}: cannot list the recordings: {error.strerror}")

    seen: set[str] = set()
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        real_folder = os.path.realpath(folder)
        if real_folder in seen:  # linked folders may form a circle
            folders.clear()
            continue
        seen.add(real_folder)
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in extensions:
                yield os.path.join(folder, name)
