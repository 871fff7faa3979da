"""A sound for every class of an ontology, which is a variant of the sounds of its parents.

A class has `NUM_TRAITS` traits: pitch, harmonicity, three resonances and their width, pace,
decay, unevenness, glide, vibrato and brightness. Each trait is standard normal before it is mapped
to its range. It is the mean over the class's parents, times 0.8, plus the class's own part, from a
hash of its mid. So the traits of a class depend on its mid and on those above it alone.

A sound is beats of one source, saw and noise, through resonances, as `data_prep/synthesis.py` makes
voices. Everything that tells classes apart lies below 4 kHz.
"""

import hashlib

import numpy as np
import scipy.special

from data_prep.rater_habits import Habits
from data_prep.sound_parts import (
    SAMPLE_RATE_HZ,
    band,
    beats,
    fade,
    num_samples,
    resonate,
    saw,
    unit,
)
from relabel_jax.labels.ontology import Ontology

_INHERITED = 0.8
_OF_CLIP = 0.15  # the spread of a class's traits between clips
# The ranges of the traits; those of `_GEOMETRIC` are divided by ratios.
_RANGES = {
    "pitch_hz": (70.0, 900.0),
    "harmonicity": (0.0, 1.0),
    "low_hz": (200.0, 1200.0),
    "middle_hz": (500.0, 2400.0),
    "high_hz": (1000.0, 3600.0),
    "width_hz": (60.0, 700.0),
    "beats_per_s": (0.8, 12.0),
    "decay": (0.1, 4.0),
    "unevenness": (0.0, 0.6),
    "glide_octaves": (-0.6, 0.6),
    "vibrato": (0.0, 0.08),
    "bright_hz": (700.0, 3700.0),
}
_GEOMETRIC = {"pitch_hz", "low_hz", "middle_hz", "high_hz", "width_hz", "beats_per_s", "decay"}
NUM_TRAITS = len(_RANGES)


def class_traits(ontology: Ontology) -> np.ndarray:
    """The traits of all classes, float64[classes, NUM_TRAITS], about standard normal."""
    traits = np.zeros((len(ontology), NUM_TRAITS))
    for number in ontology.parents_first:
        digest = hashlib.blake2b(ontology.mids[number].encode(), digest_size=8).digest()
        own = np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(NUM_TRAITS)
        parents = np.flatnonzero(ontology.is_parent[:, number])
        if len(parents):
            own *= np.sqrt(1 - _INHERITED**2)
            own += _INHERITED * traits[parents].mean(axis=0)
        traits[number] = own
    return traits


def sound(traits: np.ndarray, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A sound of a class.

    Args:
      traits: float64[NUM_TRAITS], the class's row of `class_traits`.
      rng: the random numbers of the clip.
      seconds: the length.

    Returns:
      float32[time] at 16 kHz.
    """
    traits = traits + _OF_CLIP * rng.standard_normal(NUM_TRAITS)
    value = {}
    for part, (name, (low, high)) in zip(
        scipy.special.ndtr(traits).tolist(), _RANGES.items(), strict=True
    ):
        is_ratio = name in _GEOMETRIC
        value[name] = low * (high / low) ** part if is_ratio else low + (high - low) * part

    starts = beats(rng, seconds, 1 / value["beats_per_s"], value["unevenness"])
    times = np.arange(num_samples(seconds)) / SAMPLE_RATE_HZ
    number = np.searchsorted(starts, times, side="right") - 1
    since = (times - np.array(starts)[number]) * value["beats_per_s"]  # in mean intervals
    level = rng.uniform(0.6, 1, len(starts))[number] * np.exp(-since / value["decay"])
    level *= np.minimum(since / value["beats_per_s"] / 0.004, 1)  # the attack, in seconds

    vibrato = value["vibrato"] * np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * times)
    tune = rng.uniform(0.94, 1.06, len(starts))[number]
    pitch = value["pitch_hz"] * tune * 2 ** (value["glide_octaves"] * np.minimum(since, 1))
    tone = saw(pitch * (1 + vibrato))
    noise = rng.standard_normal(len(times), dtype=np.float32)
    # Both have the same level where neither prevails.
    share = value["harmonicity"]
    source = np.float32(share) * unit(tone) + np.float32(1 - share) * noise
    resonances = [
        gain * unit(resonate(source, [value[name]], value["width_hz"]))
        for gain, name in ((1.0, "low_hz"), (0.7, "middle_hz"), (0.5, "high_hz"))
    ]
    body = band(np.sum(resonances, axis=0, dtype=np.float32), 0, value["bright_hz"])
    return fade(unit(body * level.astype(np.float32)), 0.02)


def event_rates(ontology: Ontology) -> np.ndarray:
    """How often each class is an event, float64[classes], by AudioSet's counts. They sum to 1.

    A clip counts for each class that the raters named with nothing below it. A clip that they named
    only in general has one of the kinds all the same. So the count of a class is divided among its
    children, in proportion to the counts at or below them, and so on down to classes without
    children. A
    class that the raters never named, with all below it, has the rate 0.

    Raises:
      InputError: the ontology has no class of AudioSet.
    """
    habits = Habits.read(None, ontology)
    has_children = ontology.is_parent.any(axis=1)
    counts = np.where(has_children, habits.alone, habits.clips)
    at_or_below = counts.copy()
    for number in reversed(ontology.parents_first):
        at_or_below[number] += at_or_below[ontology.is_parent[number]].sum()
    for number in ontology.parents_first:
        shares = np.where(ontology.is_parent[number], at_or_below, 0.0)
        if shares.any():
            counts += counts[number] * shares / shares.sum()
            counts[number] = 0.0
    return counts / counts.sum()
