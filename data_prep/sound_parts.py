"""The parts that the miniature's sounds are made of: noise, filters, envelopes, tones, sequences.

Every waveform is float32[time] at 16 kHz, and every length is in seconds.
"""

import functools
from collections.abc import Sequence

import numpy as np
from scipy import signal

SAMPLE_RATE_HZ = 16_000

Range = tuple[float, float]


def num_samples(seconds: float) -> int:
    """The number of samples of a length of time; at least 1."""
    return max(int(seconds * SAMPLE_RATE_HZ), 1)


def noise(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """White noise with a root mean square of about 1."""
    return rng.standard_normal(num_samples(seconds), dtype=np.float32)


@functools.cache
def _butterworth(low_hz: float, high_hz: float) -> np.ndarray:
    """float32[4, 6]: second-order sections of a band-pass, or of a low-pass if `low_hz` is 0."""
    if low_hz:
        sos = signal.butter(4, (low_hz, high_hz), "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    else:
        sos = signal.butter(4, high_hz, "lowpass", fs=SAMPLE_RATE_HZ, output="sos")
    return sos.astype(np.float32)


def band(sound: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """The sound between two frequencies; with `low_hz` 0, all below `high_hz`."""
    # The cache can hold the filters of all frequencies rounded to 10 Hz.
    return signal.sosfilt(_butterworth(round(low_hz, -1), round(high_hz, -1)), sound)


def resonate(sound: np.ndarray, centres_hz: Sequence[float], width_hz: float) -> np.ndarray:
    """A cascade of two-pole resonators, each with gain 1 at its centre."""
    radius = np.exp(-np.pi * width_hz / SAMPLE_RATE_HZ)
    angles = 2 * np.pi * np.asarray(centres_hz) / SAMPLE_RATE_HZ
    sos = np.zeros((len(angles), 6))
    sos[:, 3] = 1
    sos[:, 4] = -2 * radius * np.cos(angles)
    sos[:, 5] = radius**2
    turn = np.exp(-1j * angles)
    sos[:, 0] = np.abs(1 + sos[:, 4] * turn + sos[:, 5] * turn**2)
    return signal.sosfilt(sos.astype(np.float32), sound)


def unit(sound: np.ndarray) -> np.ndarray:
    """The sound scaled to a root mean square of 1."""
    return sound / (np.sqrt(np.mean(np.square(sound))) + 1e-9)


def curve(
    rng: np.random.Generator, seconds: float, points_per_s: float, between: Range
) -> np.ndarray:
    """A piecewise linear course through random values of the range `between`."""
    num_points = int(np.ceil(seconds * points_per_s)) + 2
    times = np.arange(num_samples(seconds)) * (points_per_s / SAMPLE_RATE_HZ)
    points = rng.uniform(*between, num_points)
    return np.interp(times, np.arange(num_points), points).astype(np.float32)


def decay(seconds: float, time_constant_s: float) -> np.ndarray:
    """An envelope that falls exponentially from 1."""
    samples = np.arange(num_samples(seconds), dtype=np.float32)
    return np.exp(samples * np.float32(-1 / (time_constant_s * SAMPLE_RATE_HZ)))


def fade(sound: np.ndarray, seconds: float) -> np.ndarray:
    """Fades both ends of the sound in place, and returns it."""
    length = min(num_samples(seconds), len(sound) // 2)
    ramp = np.linspace(0, 1, length, dtype=np.float32)
    sound[:length] *= ramp
    sound[len(sound) - length :] *= ramp[::-1]
    return sound


def phase_cycles(frequency_hz: np.ndarray) -> np.ndarray:
    """float64[time]: the phase, in cycles, of a tone of varying frequency."""
    return np.cumsum(frequency_hz, dtype=np.float64) / SAMPLE_RATE_HZ


def saw(frequency_hz: np.ndarray) -> np.ndarray:
    """A sawtooth of varying frequency."""
    return (2 * (phase_cycles(frequency_hz) % 1) - 1).astype(np.float32)


def sine(frequency_hz: np.ndarray) -> np.ndarray:
    """A sine of varying frequency."""
    return np.sin(2 * np.pi * (phase_cycles(frequency_hz) % 1)).astype(np.float32)


def sum_at(seconds: float, starts_s: Sequence[float], sounds: Sequence[np.ndarray]) -> np.ndarray:
    """Adds the sounds, each at its start, and cuts them at the end."""
    whole = np.zeros(num_samples(seconds), np.float32)
    for start_s, sound in zip(starts_s, sounds, strict=True):
        start = int(start_s * SAMPLE_RATE_HZ)
        if start < len(whole):
            end = min(start + len(sound), len(whole))
            whole[start:end] += sound[: end - start]
    return whole


def beats(rng: np.random.Generator, seconds: float, interval_s: float, jitter: float) -> list:
    """Start times about `interval_s` apart, with intervals that differ by up to `jitter` of it."""
    intervals = interval_s * rng.uniform(1 - jitter, 1 + jitter, int(seconds / interval_s) + 2)
    starts = np.cumsum(intervals) - intervals[0]
    return starts[starts < seconds].tolist()


def grains(rng: np.random.Generator, seconds: float, per_s: float, grain: np.ndarray) -> np.ndarray:
    """Copies of one grain at Poisson times, with lognormal levels."""
    impulses = np.zeros(num_samples(seconds), np.float32)
    number = max(rng.poisson(per_s * seconds), 1)
    levels = rng.lognormal(0, 0.7, number).astype(np.float32)
    impulses[rng.integers(len(impulses), size=number)] = levels
    return signal.oaconvolve(impulses, grain)[: len(impulses)]
