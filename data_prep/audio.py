"""One recording in any format of libsndfile -> one waveform as the data set stores it.

The waveform (design.md, section 1) is mono, 8 kHz, 10 s, int16. AudioSet's recordings are cut to
their segment when they are downloaded, so a clip is the beginning of its file; `start_s` and
`end_s` help to find the file and cut nothing.
"""

import os

import numpy as np
import soundfile
import soxr

from relabel_jax.records import DURATION_S, SAMPLE_RATE_HZ, WAVEFORM_SAMPLES

_READ_S = DURATION_S + 1  # the low-pass at the 10th second looks some 20 ms ahead


class Rejected(Exception):
    """Why a clip is not in the data set.

    Attributes:
      reason: a short slug, the `reason` column of rejects.csv.
      detail: one line for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


def read_waveform(path: str) -> tuple[np.ndarray, float]:
    """Decodes the beginning of a recording and resamples it.

    Channels are averaged. soxr's "VHQ" low-passes before it resamples: above 4 kHz nothing folds
    back into the band. A file that is at 8 kHz already is not touched. Shorter recordings are
    zero-padded at the end, longer ones cut at 10 s.

    Args:
      path: a file that libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF, CAF; any depth, rate, layout).

    Returns:
      `(waveform, duration_s)`: int16[80000], and the seconds of it that come from the recording.

    Raises:
      Rejected: `unreadable` (no such file, not audio, damaged), `empty` (no samples), `not_finite`
        (a NaN or an infinity among the samples).
    """
    mono, rate_hz = _read_mono(path)
    if not np.isfinite(mono).all():
        raise Rejected("not_finite", f"{int((~np.isfinite(mono)).sum())} samples are NaN or inf")
    if rate_hz != SAMPLE_RATE_HZ and len(mono):
        try:
            mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ, "VHQ")
        except (RuntimeError, ValueError) as error:
            raise Rejected("unreadable", f"cannot resample {rate_hz} Hz: {error}") from error
    if not len(mono):
        raise Rejected("empty", "no samples")
    mono = mono[:WAVEFORM_SAMPLES]
    waveform = np.zeros(WAVEFORM_SAMPLES, np.int16)
    waveform[: len(mono)] = to_int16(mono)
    return waveform, len(mono) / SAMPLE_RATE_HZ


def to_int16(samples: np.ndarray) -> np.ndarray:
    """float32[time] in [-1, 1) -> int16[time]: times 32768, to the nearest, saturated."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


def _read_mono(path: str) -> tuple[np.ndarray, int]:
    """The mean over the channels, float32[time], of the first 11 s, and the sample rate in Hz."""
    try:
        if not os.path.getsize(path):
            raise Rejected("empty", "the file has 0 bytes")
        with soundfile.SoundFile(os.fsencode(path)) as file:
            # One read: soundfile seeks after each, and after a seek an MP3 decodes otherwise. Not
            # blocks(): a file that ends before its header says comes out with stray memory.
            frames = file.read(_READ_S * file.samplerate, dtype="float32", always_2d=True)
            rate_hz = file.samplerate
    except soundfile.LibsndfileError as error:
        detail = error.error_string
        if detail.startswith("File does not exist"):  # what libsndfile says of a bad .mp3
            detail = "Format not recognised."
        raise Rejected("unreadable", detail) from error
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from error
    except MemoryError as error:
        raise Rejected("unreadable", "its header claims more samples than fit in memory") from error
    # Channel by channel: mean(axis=1) takes twenty times as long, a third of the time of a clip.
    mono = sum(frames.T[1:], start=frames[:, 0])
    return mono / np.float32(frames.shape[1]), rate_hz
