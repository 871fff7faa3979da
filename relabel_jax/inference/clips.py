"""Checks the clips that a caller gives to the embedder, and converts them to mono."""

import math
import numbers
from collections.abc import Iterable, Iterator

import numpy as np

from relabel_jax.audio.mix import check_scale
from relabel_jax.audio.resample import resample
from relabel_jax.errors import InputError, Rejected

MIN_DURATION_S = 0.01
_FULL_SCALE = {np.dtype(np.int16): 1 << 15, np.dtype(np.int32): 1 << 31}


def read_clips(
    clips: Iterable[np.ndarray], rate_hz: float, to_rate_hz: float
) -> Iterator[np.ndarray]:
    """Checks clips, averages their channels and resamples them.

    Args:
      clips: recordings; see `Embedder.embed`.
      rate_hz: their sample rate.
      to_rate_hz: sample rate of the result.

    Yields:
      int16[time] for each clip.

    Raises:
      InputError: a clip or the rate has a wrong form, or a clip has a NaN or is too short.
    """
    is_number = isinstance(rate_hz, numbers.Real) and not isinstance(rate_hz, bool)
    if not is_number or not 0 < rate_hz < math.inf:
        raise InputError(f"rate_hz: expected a sample rate above 0 Hz, got {rate_hz!r}")
    if isinstance(clips, np.ndarray):
        if not 1 <= clips.ndim <= 3:
            raise InputError(
                f"clips: expected [time], [clips, time] or [clips, time, channels], got an "
                f"array of shape {clips.shape}"
            )
        clips = clips[None] if clips.ndim == 1 else clips
    for number, clip in enumerate(clips):
        try:
            mono = to_mono(np.asarray(clip))
            if len(mono) / rate_hz < MIN_DURATION_S:
                raise Rejected(
                    "empty",
                    f"{len(mono)} samples at {rate_hz:g} Hz; expected at least "
                    f"{MIN_DURATION_S} s; one recording of several channels is given as "
                    "[samples], with samples of shape [time, channels]",
                )
            waveform = resample(mono, rate_hz, to_rate_hz)
        except Rejected as error:
            raise InputError(f"clip {number}: {error}") from error
        yield waveform


def to_mono(clip: np.ndarray) -> np.ndarray:
    """Returns the mean over the channels of a clip, float32[time] in -1 to 1.

    Args:
      clip: [time] or [time, channels]; float in -1 to 1, int16 or int32.

    Raises:
      Rejected: the clip has another form or no samples.
    """
    if clip.ndim not in (1, 2):
        raise Rejected("rank", f"has shape {clip.shape}; expected [time] or [time, channels]")
    if clip.ndim == 2 and clip.shape[1] > clip.shape[0]:
        raise Rejected("rank", f"has shape {clip.shape}; expected [time, channels]: transpose it")
    if clip.dtype not in _FULL_SCALE and not np.issubdtype(clip.dtype, np.floating):
        raise Rejected("dtype", f"has dtype {clip.dtype}; expected float, int16 or int32")
    if not clip.size:
        raise Rejected("empty", f"has no samples (shape {clip.shape})")
    mono = clip / np.float32(_FULL_SCALE.get(clip.dtype, 1))
    mono = (mono if mono.ndim == 1 else mono.mean(axis=1)).astype(np.float32)
    if np.issubdtype(clip.dtype, np.floating):
        check_scale(mono)
    return mono
