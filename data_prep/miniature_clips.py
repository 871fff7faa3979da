"""The recordings of the miniature: random events, mixed and written as FLAC."""

import base64
import dataclasses
import functools
import hashlib
import pathlib

import numpy as np
import soundfile
import soxr

from data_prep import miniature_sounds, synthesis
from data_prep.miniature_spec import Draw, MiniatureSpec, ontology
from data_prep.process_map import process_map
from relabel_jax.labels.ontology import Ontology

SEGMENT_S = 10.0
# The classes take turns as the first event of a clip. In this share of the clips the other events
# have the same root, so that every root has enough clips without another root. In the rest they may
# have any root.
ONE_ROOT_SHARE = 0.7


@dataclasses.dataclass(frozen=True)
class MiniatureClip:
    """One recording as written.

    Attributes:
      clip_id: 11 characters, as YouTube's.
      seconds: length of the recording.
      events: class numbers of its events.
    """

    clip_id: str
    seconds: float
    events: tuple[int, ...]


def clip_id(seed: int, number: int) -> str:
    """A hash of 64 bits in the alphabet of YouTube ids, A-Z a-z 0-9 - _."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@functools.cache
def _sounding_classes() -> np.ndarray:
    """Class numbers with a synthesiser, ascending: int64[sounding]."""
    return np.array(sorted(ontology().find(name) for name in synthesis.SOUNDS))


@functools.cache
def _event_rates() -> np.ndarray:
    return miniature_sounds.event_rates(Ontology.audioset())


@functools.cache
def _traits() -> np.ndarray:
    return miniature_sounds.class_traits(Ontology.audioset())


def _sound(spec: MiniatureSpec, event: int, rng: np.random.Generator, seconds: float) -> np.ndarray:
    """float32[time] at 16 kHz: a sound of a class."""
    if spec.is_audioset:
        return miniature_sounds.sound(_traits()[event], rng, seconds)
    return synthesis.SOUNDS[ontology().display_names[event]](rng, seconds)


def draw_events(spec: MiniatureSpec, number: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The classes of a clip's events, two or three different ones.

    The first comes from a shuffled list of all sounding classes, so in a round of N clips for N
    classes each class comes first once. On AudioSet's ontology there are one to three, drawn as
    often as AudioSet has them.
    """
    if spec.is_audioset:
        rates = _event_rates()
        drawn = rng.choice(len(rates), int(rng.integers(1, 4)), replace=False, p=rates)
        return tuple(drawn.tolist())
    sounding = _sounding_classes()
    round_number, position = divmod(number, len(sounding))
    first = spec.generator(Draw.ORDER, round_number).permutation(sounding)[position]
    others = sounding[sounding != first]
    if rng.random() < ONE_ROOT_SHARE:
        is_ancestor = ontology().is_ancestor
        roots = [root for root in ontology().roots if is_ancestor[root, first]]
        root = roots[rng.integers(len(roots))]
        in_root = others[is_ancestor[root, others]]
        others = in_root if len(in_root) else others
    more = rng.choice(others, size=min(int(rng.integers(1, 3)), len(others)), replace=False)
    return (int(first), *more.tolist())


def write_clip(spec: MiniatureSpec, number: int, audio_dir: pathlib.Path) -> MiniatureClip:
    """Draws, synthesises and writes the clip with this number."""
    rng = spec.generator(Draw.CLIP, number)
    events = draw_events(spec, number, rng)
    seconds = SEGMENT_S
    length = rng.random()
    if length < 0.1:
        seconds = round(rng.uniform(4, 9.9), 1)
    elif length < 0.2:
        seconds = round(rng.uniform(10.1, 14), 1)
    waveform = _mixture(spec, rng, events, seconds)

    file_rate_hz = int(rng.choice([16_000, 22_050, 44_100], p=[0.8, 0.12, 0.08]))
    if file_rate_hz != synthesis.SAMPLE_RATE_HZ:
        waveform = soxr.resample(waveform, synthesis.SAMPLE_RATE_HZ, file_rate_hz)
    if rng.random() < 0.2:
        pan = rng.uniform(-0.5, 0.5)  # the mean of both channels is the waveform again
        waveform = waveform[:, np.newaxis] * np.array([1 + pan, 1 - pan], np.float32)
    waveform = waveform / max(1.0, np.abs(waveform).max() / 0.98)
    clip = MiniatureClip(clip_id(spec.seed, number), seconds, events)
    soundfile.write(
        audio_dir / f"{clip.clip_id}.flac",
        np.rint(waveform * 32767).astype(np.int16),
        file_rate_hz,
        subtype="PCM_16",
    )
    return clip


def _mixture(
    spec: MiniatureSpec, rng: np.random.Generator, events: tuple[int, ...], seconds: float
) -> np.ndarray:
    """float32[time]: the events within the first 10 s, at random levels, on background noise."""
    heard_s = min(seconds, SEGMENT_S)
    waveform = synthesis.background(rng, seconds)
    waveform *= 10 ** (rng.uniform(-45, -25) / 20)
    for event in events:
        event_s = min(rng.uniform(2.5, 6), heard_s)
        sound = _sound(spec, event, rng, event_s)
        # The level is that of the loudest tenth of a second: clicks are few, but not faint.
        tenths = np.square(sound[: len(sound) // 1600 * 1600].reshape(-1, 1600)).mean(axis=1)
        sound = sound * (10 ** (rng.uniform(-9, 0) / 20) / np.sqrt(tenths.max()))
        start = int(rng.uniform(0, heard_s - event_s) * synthesis.SAMPLE_RATE_HZ)
        waveform[start : start + len(sound)] += sound
    return waveform * (10 ** (rng.uniform(-15, -1) / 20) / np.abs(waveform).max())


def write_audio(
    spec: MiniatureSpec, audio_dir: pathlib.Path, num_workers: int
) -> list[MiniatureClip]:
    """Writes all recordings with `num_workers` processes; returns the clips by number."""
    write = functools.partial(write_clip, spec, audio_dir=audio_dir)
    numbers = range(spec.num_clips)
    return list(process_map(write, numbers, num_workers, what="synthesising", unit="clips"))
