"""Test sounds, and recordings read as the paper's data sets store them."""

import functools

import numpy as np
import soundfile

from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT

paper_waveform = functools.partial(read_waveform, waveform_format=PAPER_FORMAT)


def tone(frequency_hz, rate_hz, duration_s=4.0, amplitude=0.9):
    """A sine that fades in and out over 50 ms: a hard start has energy at all frequencies."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    fade = np.clip(np.minimum(time_s, duration_s - time_s) / 0.05, 0, 1)
    return amplitude * np.sin(2 * np.pi * frequency_hz * time_s) * np.sin(fade * np.pi / 2) ** 2


def rms_db(samples):
    """The level in decibels; full scale is 0."""
    return 20 * np.log10(np.sqrt(np.mean(np.square(samples, dtype=np.float64))) + 1e-12)


def write(path, samples, rate_hz, subtype="FLOAT", **options):
    """Writes a recording and returns its path as a string."""
    soundfile.write(path, np.asarray(samples, np.float32), rate_hz, subtype=subtype, **options)
    return str(path)
