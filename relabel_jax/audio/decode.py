"""One recording in any format -> one waveform as the data set stores it.

libsndfile decodes WAV, FLAC, Ogg, MP3, AIFF and CAF; what it does not know (m4a, webm, mkv) is
left to containers.py.

The waveform (design.md, section 1) is mono, 8 kHz, 10 s, int16. AudioSet's recordings are cut to
their segment when they are downloaded, so a clip is the beginning of its file; `start_s` and
`end_s` help to find the file and cut nothing.
"""

import math
import os
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import soundfile
import soxr

from relabel_jax.audio import containers
from relabel_jax.data.schema import DURATION_S, SAMPLE_RATE_HZ, WAVEFORM_SAMPLES
from relabel_jax.errors import InputError, Rejected

# Those of several recordings with one name that are preferred come first.
EXTENSIONS = (
    *(".wav", ".flac", ".aiff", ".aif", ".caf", ".ogg", ".oga", ".opus", ".mp3"),
    *containers.EXTENSIONS,
)

# The low-pass at the 10th second looks some 20 ms ahead.
READ_S = DURATION_S + 1

_BLOCK_SAMPLES = 1 << 20  # over all channels; WAV allows 1,024 of them
# A damaged header may say 1 Hz: a megabyte would be resampled to 8,000 times as much, and for days.
_MIN_RATE_HZ = 1_000
_NOT_RECOGNISED = (1, 7)  # libsndfile's codes; the second is what it says of a bad .mp3


def read_waveform(path: str) -> tuple[np.ndarray, float]:
    """Decodes the beginning of a recording and resamples it: `to_waveform(*decode(path))`.

    Args:
      path: a file that libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF, CAF; any depth, rate, layout),
        or PyAV where that is installed (m4a, mp4, webm, mkv, aac, wma).

    Returns:
      `(waveform, duration_s)` of `to_waveform`.

    Raises:
      Rejected: as `decode` and `to_waveform` do.
    """
    return to_waveform(*decode(path))


def to_waveform(mono: np.ndarray, rate_hz: int) -> tuple[np.ndarray, float]:
    """Resamples, pads or cuts, and quantises.

    soxr's "VHQ" low-passes before it resamples: above 4 kHz nothing folds back into the band. A
    recording that is at 8 kHz already is not touched. Shorter recordings are zero-padded at the
    end, longer ones cut at 10 s.

    Args:
      mono: float32[time], full scale is 1; of a longer recording at least the first `READ_S`.
      rate_hz: its sample rate.

    Returns:
      `(waveform, duration_s)`: int16[80000], and the seconds of it that come from the recording.

    Raises:
      Rejected: `empty` (no samples), `not_finite` (a NaN or an infinity among the samples),
        `unreadable` (a rate that cannot be resampled, or below 1 kHz).
    """
    samples = resample(mono, rate_hz)[:WAVEFORM_SAMPLES]
    waveform = np.zeros(WAVEFORM_SAMPLES, np.int16)
    waveform[: len(samples)] = samples
    return waveform, len(samples) / SAMPLE_RATE_HZ


def resample(mono: np.ndarray, rate_hz: float) -> np.ndarray:
    """The same of a recording of any length, neither padded nor cut: int16[time] at 8 kHz."""
    samples = mono
    _check_rate(rate_hz)
    if rate_hz != SAMPLE_RATE_HZ and len(mono):
        try:
            samples = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, "VHQ")
        except (RuntimeError, ValueError) as error:
            raise Rejected("unreadable", f"cannot resample {rate_hz} Hz: {error}") from error
    # Every sample that is not finite makes some after it so, and of these there are fewer.
    if not np.isfinite(samples).all() and not np.isfinite(mono).all():
        raise _not_finite(mono)
    if not len(samples):
        raise Rejected("empty", "no samples")
    return to_int16(samples)


def to_int16(samples: np.ndarray) -> np.ndarray:
    """float32[time] in [-1, 1) -> int16[time]: times 32768, to the nearest, saturated."""
    scaled = samples * 32768.0
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def decode(file: str | IO[bytes]) -> tuple[np.ndarray, int]:
    """The mean over the channels of the first 11 s of a recording.

    Args:
      file: a path, or an open file that can seek.

    Returns:
      `(mono, rate_hz)`: float32[time], and the sample rate.

    Raises:
      Rejected: `unreadable` (no such file, not audio, damaged), `empty` (0 bytes), `needs_pyav`.
    """
    pieces, rates_hz = zip(*decode_blocks(file, READ_S), strict=True)
    # Mostly there is one, and a copy costs as much as 5% of the decoding.
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces), rates_hz[0]


def decode_blocks(
    file: str | IO[bytes], duration_s: float = math.inf
) -> Iterator[tuple[np.ndarray, int]]:
    """The same of the whole recording or its first `duration_s`, piece by piece.

    Args:
      file: a path, or an open file that can seek.
      duration_s: so many seconds, at most.

    Yields:
      `(mono, rate_hz)`: float32[time], and the sample rate, the same for all; once at least. Of any
      recording they take the same memory.

    Raises:
      Rejected: as `decode` does, when the place of the damage is reached.
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
            open(file, "rb").close()  # if this fails, libsndfile does not say why
        with _Stream(os.fsencode(file) if isinstance(file, str) else file) as stream:
            block = max(1, _BLOCK_SAMPLES // stream.channels)
            # In whole samples: of a part of one no read would be short, and none the last.
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
            return
    except soundfile.LibsndfileError as error:
        if error.code not in _NOT_RECOGNISED:
            raise Rejected("unreadable", error.error_string) from error
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from error
    yield from containers.decode_blocks(file, duration_s)


def resample_blocks(blocks: Iterable[tuple[np.ndarray, int]]) -> Iterator[np.ndarray]:
    """Resamples a recording of any length to 8 kHz as `to_waveform` does, piece by piece.

    Args:
      blocks: what `decode_blocks` yields.

    Yields:
      int16[time] at 8 kHz; some pieces may be empty.

    Raises:
      Rejected: `empty`, `not_finite`, `unreadable`, as `to_waveform`; and what `blocks` raises.
    """
    stream = None
    num_read = num_samples = 0
    for mono, rate_hz in blocks:
        num_read += len(mono)
        _check_rate(rate_hz)
        if not np.isfinite(mono).all():
            raise _not_finite(mono)
        samples = mono
        if rate_hz != SAMPLE_RATE_HZ:
            try:
                if stream is None:
                    stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, quality="VHQ")
                samples = stream.resample_chunk(mono)
            except (RuntimeError, ValueError) as error:
                raise Rejected("unreadable", f"cannot resample {rate_hz} Hz: {error}") from error
        num_samples += len(samples)
        yield to_int16(samples)
    if stream is not None and num_read:
        samples = stream.resample_chunk(np.zeros(0, np.float32), last=True)
        num_samples += len(samples)
        yield to_int16(samples)
    if not num_samples:
        raise Rejected("empty", "no samples")


def cut_windows(pieces: Iterable[np.ndarray], hop: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of 10 s, one after another until the whole recording is covered.

    Args:
      pieces: int16[time], a recording at 8 kHz, whole or in pieces; it is not kept.
      hop: samples from one window to the next, at most 80,000.

    Yields:
      `(start, window)`: the first sample's number, and int16[80000], the last one zero-padded.
    """
    kept = np.zeros(0, np.int16)
    start = 0  # of `kept` in the recording, and of the next window
    covered = 0  # up to this sample
    for piece in pieces:
        kept = np.concatenate([kept, piece])
        used = 0
        while len(kept) - used >= WAVEFORM_SAMPLES:
            yield start + used, kept[used : used + WAVEFORM_SAMPLES]
            covered = start + used + WAVEFORM_SAMPLES
            used += hop
        start += used
        kept = kept[used:]
    if start + len(kept) > covered:
        window = np.zeros(WAVEFORM_SAMPLES, np.int16)
        window[: len(kept)] = kept
        yield start, window


def list_recordings(top: str, extensions: tuple[str, ...] = EXTENSIONS) -> Iterator[str]:
    """The files below a folder that have one of `extensions`, in an order by their names alone.

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


def _check_rate(rate_hz: float) -> None:
    if rate_hz < _MIN_RATE_HZ:
        raise Rejected("unreadable", f"{rate_hz} Hz: expected a rate of at least {_MIN_RATE_HZ} Hz")


def _not_finite(mono: np.ndarray) -> Rejected:
    number = int((~np.isfinite(mono)).sum())
    return Rejected("not_finite", f"{number} samples are NaN or inf")


class _Stream(soundfile.SoundFile):
    """Reads from front to back. soundfile seeks after each read, and then an MP3 decodes otherwise;
    its blocks() fills a file that ends before its header says with stray memory."""

    def seekable(self) -> bool:
        return False
