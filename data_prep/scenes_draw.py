"""The random choices behind scenes: the split of each recording, and the events of each scene.

The seed, the split and the number of a scene determine its events. So any scene can be made alone,
and a larger set begins with the scenes of a smaller one.
"""

import base64
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_prep.event_rates import event_rates
from relabel_jax.audio.waveform_format import MIN_SAMPLE_RATE_HZ
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

DRAWS = ("recordings", "classes", "audioset")

_NAMED_SPLITS = {
    "train": 0,
    "training": 0,
    "validation": 1,
    "val": 1,
    "valid": 1,
    "test": 2,
    "testing": 2,
    "eval": 2,
}


@dataclasses.dataclass(frozen=True)
class ScenesSpec:
    """The arguments of scenes, besides the recordings.

    Attributes:
      num_clips: the number of scenes in train, validation and test.
      seed: seed of all random choices.
      max_events: a scene has 1 to so many recordings, each number equally often.
      snr_db: the range of the level of an event above the background.
      draw: how often a recording is drawn. `recordings`: each equally often; `classes`: each class
        equally often; `audioset`: each class as often as AudioSet has it (`event_rates`).
      shares: the parts of the recordings that go to train, validation and test.
      sample_rate_hz: the sample rate of the scenes.
      duration_s: the length of a scene in seconds.

    Raises:
      InputError: a value is out of its range.
    """

    num_clips: tuple[int, int, int]
    seed: int = 0
    max_events: int = 4
    snr_db: tuple[float, float] = (6.0, 30.0)
    draw: str = "recordings"
    shares: tuple[float, float, float] = (0.6, 0.15, 0.25)
    sample_rate_hz: int = 16_000
    duration_s: float = 10.0

    def __post_init__(self):
        if min(self.num_clips) < 0 or not sum(self.num_clips):
            text = _joined(self.num_clips)
            raise InputError(f"--num_clips={text}: expected at least 1 clip, and none negative")
        if self.seed < 0:
            raise InputError(f"--seed={self.seed}: expected 0 or more")
        if self.max_events < 1:
            raise InputError(f"--max_events={self.max_events}: expected at least 1")
        levels = [*self.snr_db]
        if len(levels) != 2 or not -60 <= levels[0] <= levels[1] <= 60:
            raise InputError(
                f"--snr_db={_joined(levels)}: expected two levels from -60 to 60, the lower first"
            )
        if self.draw not in DRAWS:
            raise InputError(f"--draw={self.draw}: expected one of {', '.join(DRAWS)}")
        parts = [*self.shares]
        if len(parts) != len(SPLITS) or not min(parts) >= 0 or not 0.999 < sum(parts) < 1.001:
            raise InputError(
                f"--shares={_joined(parts)}: expected three parts of at least 0 that sum to 1"
            )
        if self.sample_rate_hz < MIN_SAMPLE_RATE_HZ:
            raise InputError(
                f"--sample_rate_hz={self.sample_rate_hz}: expected at least {MIN_SAMPLE_RATE_HZ} Hz"
            )
        if not 0.1 <= self.duration_s <= 600:
            raise InputError(f"--duration_s={self.duration_s:g}: expected seconds from 0.1 to 600")

    @property
    def num_samples(self) -> int:
        """The number of samples of a scene."""
        return round(self.duration_s * self.sample_rate_hz)

    def generator(self, *numbers: int) -> np.random.Generator:
        """The random generator of one purpose; a seed sequence ignores zeros at its end."""
        return np.random.default_rng([self.seed, *(number + 1 for number in numbers)])


def _joined(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


class Sound(NamedTuple):
    """Facts about a recording's sound, at the sample rate of the scenes.

    Attributes:
      num_samples: its length.
      loudest: the sample where its loudest tenth of a second begins.
      level_db: the level of that tenth, in dB of full scale.
    """

    num_samples: int
    loudest: int
    level_db: float


class Event(NamedTuple):
    """One recording in a scene.

    Attributes:
      recording: the number of the recording.
      start: the sample of the scene where the event begins.
      skip: the number of samples of the recording that are left out before.
      num_samples: its length.
      snr_db: the level of its loudest tenth of a second above the background.
    """

    recording: int
    start: int
    skip: int
    num_samples: int
    snr_db: float


class Scene(NamedTuple):
    """A scene: its id with 11 characters as YouTube's, its split and number, and its events."""

    clip_id: str
    split: int
    number: int
    events: tuple[Event, ...]


def split_recordings(groups: Sequence[str], labels: np.ndarray, spec: ScenesSpec) -> np.ndarray:
    """Divides recordings into splits, each group into one, so that every class is in all splits.

    A group whose name is that of a split goes there. The others are divided by iterative
    stratification (Sechidis, Tsoumakas and Vlahavas, 2011): the rarest class comes first, and each
    of its groups goes to the split that lacks most recordings of this class.

    Args:
      groups: the group of each recording.
      labels: bool[recordings, classes].
      spec: gives `shares`, `seed`, and the splits that need recordings.

    Returns:
      int8[recordings], the index into `SPLITS`.

    Raises:
      InputError: there are too few groups for the splits.
    """
    names, of_recording = np.unique(np.array(groups), return_inverse=True)
    used = np.flatnonzero(labels.any(axis=0))
    counts = np.zeros((len(names), len(used)), np.int64)
    np.add.at(counts, of_recording, labels[:, used])
    sizes = np.bincount(of_recording, minlength=len(names))
    splits = np.array([_NAMED_SPLITS.get(name.lower(), -1) for name in names], np.int8)
    shares = np.array(spec.shares)[:, np.newaxis]
    wanted = shares * counts.sum(axis=0)
    wanted_size = shares[:, 0] * sizes.sum()
    for split in range(len(SPLITS)):
        wanted[split] -= counts[splits == split].sum(axis=0)
        wanted_size[split] -= sizes[splits == split].sum()
    order = spec.generator(0).permutation(len(names))
    left = (counts[splits < 0] > 0).sum(axis=0)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, len(names) + 1)))
        for group in order[(splits[order] < 0) & (counts[order, rarest] > 0)]:
            # A split is full when the group would bring it further from its share than it is. The
            # last groups go to splits that have none.
            is_empty = np.isin(range(len(SPLITS)), splits, invert=True) & (wanted_size > 0)
            is_last = (splits < 0).sum() <= is_empty.sum()
            is_open = is_empty if is_last else wanted_size >= sizes[group] / 2
            need = np.where(is_open | ~is_open.any(), wanted[:, rarest], -np.inf)
            split = np.lexsort((wanted_size, need))[-1]
            splits[group] = split
            wanted[split] -= counts[group]
            wanted_size[split] -= sizes[group]
            left -= counts[group] > 0
    for split, name in enumerate(SPLITS):
        if spec.num_clips[split] and not (splits == split).any():
            raise InputError(
                f"{name} gets no recordings: there are {len(names)} groups, the largest with "
                f"{sizes.max()} of {sizes.sum()} recordings; give another --group_column, other "
                "--shares, or no clips of this split by --num_clips"
            )
    return splits[of_recording]


class Pool:
    """The recordings of all splits, from which the events of scenes are drawn.

    Args:
      spec: the arguments of the scenes.
      sounds: the facts about each recording's sound.
      splits: int8[recordings], the index into `SPLITS` of each recording.
      labels: bool[recordings, classes].
      ontology: the ontology, for the counts of AudioSet.
    """

    def __init__(
        self,
        spec: ScenesSpec,
        sounds: Sequence[Sound],
        splits: np.ndarray,
        labels: np.ndarray,
        ontology: Ontology,
    ):
        self._spec = spec
        self._sounds = sounds
        frequency: np.ndarray | None = None
        if spec.draw == "classes":
            frequency = np.ones(len(ontology))
        elif spec.draw == "audioset":
            frequency = event_rates(ontology, labels.any(axis=0))
        self._members = [np.flatnonzero(splits == split) for split in range(len(SPLITS))]
        self._rates = [_rates(labels[members], frequency) for members in self._members]

    def scene(self, split: int, number: int) -> Scene:
        """The scene with this number in a split."""
        spec, members = self._spec, self._members[split]
        rng = spec.generator(1, split, number)
        num_events = min(int(rng.integers(1, spec.max_events + 1)), len(members))
        chosen = rng.choice(members, num_events, replace=False, p=self._rates[split])
        events = tuple(self._event(recording, rng) for recording in chosen.tolist())
        return Scene(_clip_id(spec.seed, split, number), split, number, events)

    def _event(self, recording: int, rng: np.random.Generator) -> Event:
        """Places a recording. One that is longer than the scene is cut around its loudest part."""
        sound, scene = self._sounds[recording], self._spec.num_samples
        length = min(sound.num_samples, scene)
        tenth = self._spec.sample_rate_hz // 10
        first = max(sound.loudest + tenth - length, 0)
        last = min(sound.loudest, sound.num_samples - length)
        skip = int(rng.integers(min(first, last), last + 1))
        start = int(rng.integers(0, scene - length + 1))
        snr_db = round(float(rng.uniform(*self._spec.snr_db)), 2)
        return Event(recording, start, skip, length, snr_db)


def _rates(labels: np.ndarray, frequency: np.ndarray | None) -> np.ndarray:
    """float64[recordings]: the probability of each; a class shares its own among its recordings."""
    if frequency is None or not len(labels):
        return np.full(len(labels), 1 / max(len(labels), 1))
    per_recording = frequency / np.maximum(labels.sum(axis=0), 1)
    rates = labels @ per_recording
    return rates / rates.sum()


def _clip_id(seed: int, split: int, number: int) -> str:
    """A hash of 64 bits in the alphabet of YouTube ids, A-Z a-z 0-9 - _."""
    text = f"scene {seed} {SPLITS[split]} {number}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
