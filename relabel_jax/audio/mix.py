"""Mixes the channels of a recording to one, and checks the scale of float samples."""

import math

import numpy as np

from relabel_jax.audio.facts import Facts
from relabel_jax.errors import Rejected

MIXES = ("mean", "loudest", "left")
"""The ways to make one channel of several.

mean: the mean of all channels. loudest: the channel with the most energy in the first block that is
not silent. left: the first channel.
"""

MAX_PEAK = 4.0
"""The largest float sample that can be sound of full scale 1.

Float recordings exceed 1: lossy decoders overshoot by a little, and mixes that were never limited
reach 2 or 3. Samples of int16 scale exceed 4 unless they are as quiet as -78 dB.
"""

_CANCELLED = 0.01  # -20 dB
# Energies are estimated from every 13th sample, which takes 1% of the time of decoding.
_STEP = 13


def check_scale(samples: np.ndarray) -> None:
    """Checks that float samples have the full scale 1, which some may exceed a little.

    Args:
      samples: float32 of any shape, as the file stores them. Samples that were converted from
        integers need no check.

    Raises:
      Rejected: `scale`, if the largest sample is above `MAX_PEAK`. NaN and infinity are left to
        `resample.resample`.
    """
    if not samples.size:
        return
    peak = max(float(samples.max()), -float(samples.min()))
    if MAX_PEAK < peak < math.inf:
        raise Rejected(
            "scale",
            f"its largest sample is {peak:g}; float samples have the full scale 1: divide them by "
            "the full scale that they have",
        )


class Mixer:
    """Makes one channel of the channels of a recording, block by block.

    With "mean" it also finds recordings whose channels cancel, such as a stereo recording with one
    channel inverted. The rule: the mean has less than 1% (-20 dB) of the energy that it would have
    if the channels were independent, which is the mean energy of a channel divided by the number of
    channels.

    Args:
      how: one of `MIXES`.
      facts: `cancelled` is set in it.
    """

    def __init__(self, how: str, facts: Facts):
        if how not in MIXES:
            raise ValueError(f"mono: expected one of {', '.join(MIXES)}, got {how!r}")
        self._how = how
        self._facts = facts
        self._chosen: int | None = 0 if how == "left" else None
        self._channel_energy = 0.0
        self._mean_energy = 0.0

    def mix(self, channels: np.ndarray) -> np.ndarray:
        """Returns float32[time] of float32[channels, time]."""
        if len(channels) == 1:
            return channels[0]
        if self._how == "mean":
            # One channel after the other, because mean() over columns takes twenty times as long.
            mono = sum(channels[1:], start=channels[0])
            mono /= np.float32(len(channels))
            self._look_for_cancellation(channels, mono)
            return mono
        if self._chosen is None or self._chosen >= len(channels):
            energies = [_energy(channel) for channel in channels]
            if not any(energies):
                return channels[0]
            self._chosen = int(np.nanargmax(energies))
        return channels[self._chosen]

    def _look_for_cancellation(self, channels: np.ndarray, mono: np.ndarray) -> None:
        self._channel_energy += sum(map(_energy, channels)) / len(channels) ** 2
        self._mean_energy += _energy(mono)
        self._facts.cancelled = self._mean_energy < _CANCELLED * self._channel_energy


def _energy(samples: np.ndarray) -> float:
    some = samples[::_STEP]
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(some, some))
