"""Decodes recordings in any format to mono samples at the recording's own rate.

libsndfile decodes WAV, FLAC, Ogg, MP3, AIFF and CAF. `containers.py` decodes the other formats
(m4a, webm, mkv).

Downloads of AudioSet are already cut to their segments, so a clip is the beginning of its file.
The `start_s` and `end_s` of a segment only help to find the file.
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

# If several recordings have the same name, the one whose extension comes first is used.
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
_NOT_RECOGNISED = (1, 7)  # error codes of libsndfile; a damaged .mp3 gives the second one


def read_waveform(path: str, waveform_format: WaveformFormat) -> tuple[np.ndarray, float]:
    """Decodes the beginning of a recording and converts it to a waveform.

    Args:
      path: a file of any bit depth, sample rate and number of channels. Formats: WAV, FLAC, Ogg,
        MP3, AIFF, CAF; and m4a, mp4, webm, mkv, aac, wma if PyAV is installed.
      waveform_format: sample rate and length of the waveform.

    Returns:
      `(waveform, duration_s)`: see `resample.to_waveform`.

    Raises:
      Rejected: see `decode` and `resample.to_waveform`.
    """
    return to_waveform(*decode(path, waveform_format.read_s), waveform_format)


def decode(file: str | IO[bytes], duration_s: float = math.inf) -> tuple[np.ndarray, int]:
    """Decodes a recording and averages its channels.

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode at most this many seconds.

    Returns:
      `(mono, rate_hz)`: float32[time], and the sample rate.

    Raises:
      Rejected: `unreadable` (no such file, not audio, damaged), `empty` (0 bytes), `needs_pyav`.
    """
    blocks, rates_hz = zip(*decode_blocks(file, duration_s), strict=True)
    # There is usually one block. Copying it would add up to 5% to the time of decoding.
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rates_hz[0]


def decode_blocks(
    file: str | IO[bytes], duration_s: float = math.inf, block_samples: int = _BLOCK_SAMPLES
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a recording as `decode` does, block by block.

    The memory depends neither on the length of the recording nor on its number of channels, which
    may be 1,024 in a WAV file.

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode at most this many seconds.
      block_samples: the number of samples of a block, counted over all channels.

    Yields:
      `(mono, rate_hz)`: float32[time], and the sample rate, which is the same for all blocks. There
      is at least one block.

    Raises:
      Rejected: see `decode`. It is raised when the decoder reaches the damaged block.
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
            open(file, "rb").close()  # raises an OSError with the cause, which libsndfile hides
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
    """A file that is read from front to back, without seeking.

    soundfile seeks after each read of a seekable file. libsndfile then decodes an MP3 to other
    samples. `blocks()` is not used either: if a file is shorter than its header says, it returns
    uninitialized memory at the end.
    """

    def seekable(self) -> bool:
        return False


def _read_blocks(
    stream: _Stream, duration_s: float, block_samples: int
) -> Iterator[tuple[np.ndarray, int]]:
    block = max(1, block_samples // stream.channels)
    # A whole number of samples, so that the loop ends at 0.
    wanted = math.inf if duration_s == math.inf else round(duration_s * stream.samplerate)
    while wanted:
        asked = int(min(block, wanted))
        frames = stream.read(asked, dtype="float32", always_2d=True)
        # One channel after the other, because mean(axis=1) takes twenty times as long.
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
      top: the folder. Links to folders are followed, but each folder is listed only once.
      extensions: in lower case, with the dot.

    Raises:
      InputError: a folder cannot be listed.
    """

    def refuse(error: OSError):
        raise InputError(f"{error.filename}: cannot list the recordings: {error.strerror}")

    seen: set[str] = set()
    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        real_folder = os.path.realpath(folder)
        if real_folder in seen:  # links may form a cycle
            folders.clear()
            continue
        seen.add(real_folder)
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in extensions:
                yield os.path.join(folder, name)
