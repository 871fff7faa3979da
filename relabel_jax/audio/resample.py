"""Resamples decoded samples to another rate with soxr's best quality and rounds them to int16.

The quality "VHQ" filters out all frequencies above half of the new rate, so there is no aliasing.
Samples that already have the new rate are only rounded.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from relabel_jax.audio.waveform_format import MIN_SAMPLE_RATE_HZ, WaveformFormat
from relabel_jax.errors import Rejected

_QUALITY = "VHQ"


def to_waveform(
    mono: np.ndarray, rate_hz: float, waveform_format: WaveformFormat
) -> tuple[np.ndarray, float]:
    """Resamples a recording, pads or cuts it to one length, and rounds it to int16.

    Args:
      mono: float32[time] in -1 to 1; the whole recording or at least its first
        `waveform_format.read_s` seconds.
      rate_hz: its sample rate.
      waveform_format: sample rate and length of the result.

    Returns:
      `(waveform, duration_s)`: int16[waveform_format.num_samples], zero-padded at the end, and the
      seconds of it that come from the recording.

    Raises:
      Rejected: see `resample`.
    """
    samples = resample(mono, rate_hz, waveform_format.sample_rate_hz)
    samples = samples[: waveform_format.num_samples]
    waveform = np.zeros(waveform_format.num_samples, np.int16)
    waveform[: len(samples)] = samples
    return waveform, len(samples) / waveform_format.sample_rate_hz


def resample(mono: np.ndarray, rate_hz: float, to_rate_hz: float) -> np.ndarray:
    """Resamples a recording of any length and rounds it to int16.

    Args:
      mono: float32[time] in -1 to 1.
      rate_hz: its sample rate.
      to_rate_hz: sample rate of the result.

    Returns:
      int16[time].

    Raises:
      Rejected: `empty` (no samples), `not_finite` (a sample is NaN or infinite), `unreadable`
        (soxr cannot resample this rate, or it is below 1 kHz).
    """
    samples = mono
    _check_rate(rate_hz)
    if rate_hz != to_rate_hz and len(mono):
        try:
            samples = soxr.resample(mono, rate_hz, to_rate_hz, _QUALITY)
        except (RuntimeError, ValueError) as error:
            raise _cannot_resample(rate_hz, error) from error
    # A NaN or an infinity spreads to the result. The result is checked first: it is shorter.
    if not np.isfinite(samples).all() and not np.isfinite(mono).all():
        raise _not_finite(mono)
    if not len(samples):
        raise Rejected("empty", "no samples")
    return to_int16(samples)


def resample_blocks(
    blocks: Iterable[tuple[np.ndarray, int]], to_rate_hz: float
) -> Iterator[np.ndarray]:
    """Resamples a recording of any length as `resample` does, block by block.

    Args:
      blocks: the blocks that `decode.decode_blocks` yields.
      to_rate_hz: sample rate of the result.

    Yields:
      int16[time]; some blocks may be empty.

    Raises:
      Rejected: see `resample`; or `blocks` raises it.
    """
    stream = None
    num_read = num_samples = 0
    for mono, rate_hz in blocks:
        num_read += len(mono)
        _check_rate(rate_hz)
        if not np.isfinite(mono).all():
            raise _not_finite(mono)
        samples = mono
        if rate_hz != to_rate_hz:
            try:
                if stream is None:
                    stream = soxr.ResampleStream(rate_hz, to_rate_hz, 1, quality=_QUALITY)
                samples = stream.resample_chunk(mono)
            except (RuntimeError, ValueError) as error:
                raise _cannot_resample(rate_hz, error) from error
        num_samples += len(samples)
        yield to_int16(samples)
    if stream is not None and num_read:
        samples = stream.resample_chunk(np.zeros(0, np.float32), last=True)
        num_samples += len(samples)
        yield to_int16(samples)
    if not num_samples:
        raise Rejected("empty", "no samples")


def at_one_rate(
    blocks: Iterable[tuple[np.ndarray, int]],
) -> Iterator[tuple[np.ndarray, int]]:
    """Resamples the blocks that have another rate than the first block.

    Args:
      blocks: `(samples, rate_hz)`, float32[time] each. Blocks of one rate that follow each other
        are one piece of sound.

    Yields:
      `(samples, rate_hz)` with the rate of the first block.

    Raises:
      Rejected: see `resample`.
    """
    first_hz = 0
    stream, stream_hz = None, 0

    def finish() -> Iterator[tuple[np.ndarray, int]]:
        if stream is not None:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True), first_hz

    for samples, rate_hz in blocks:
        first_hz = first_hz or rate_hz
        if rate_hz != stream_hz and stream is not None:
            yield from finish()
            stream, stream_hz = None, 0
        if rate_hz == first_hz:
            yield samples, rate_hz
            continue
        if stream is None:
            _check_rate(rate_hz)
            try:
                stream = soxr.ResampleStream(rate_hz, first_hz, 1, quality=_QUALITY)
            except (RuntimeError, ValueError) as error:
                raise _cannot_resample(rate_hz, error) from error
            stream_hz = rate_hz
        yield stream.resample_chunk(np.ascontiguousarray(samples)), first_hz
    yield from finish()


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Multiplies float32[time] by 32768 and rounds to int16. Values out of range are clipped."""
    scaled = samples * 32768.0
    np.rint(scaled, out=scaled)
    return np.clip(scaled, -32768, 32767, out=scaled).astype(np.int16)


def _check_rate(rate_hz: float) -> None:
    if rate_hz < MIN_SAMPLE_RATE_HZ:
        raise Rejected(
            "unreadable", f"{rate_hz} Hz: expected a rate of at least {MIN_SAMPLE_RATE_HZ} Hz"
        )


def _cannot_resample(rate_hz: float, error: Exception) -> Rejected:
    return Rejected("unreadable", f"cannot resample {rate_hz} Hz: {error}")


def _not_finite(mono: np.ndarray) -> Rejected:
    number = int((~np.isfinite(mono)).sum())
    return Rejected("not_finite", f"{number} samples are NaN or inf")
