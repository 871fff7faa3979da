"""The definition of a miniature AudioSet: its ontology, its arguments, and its random draws."""

import csv
import dataclasses
import enum
import functools
import pathlib
from typing import Any

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

# The mids, in the order of the miniature's classes; the names are for people.
_TABLE = pathlib.Path(__file__).with_name("miniature_ontology.csv")

CLASSES = ("quickstart", "audioset")


@functools.cache
def ontology() -> Ontology:
    """The miniature's part of AudioSet's ontology; its `text` is the content of `ontology.json`."""
    with open(_TABLE, encoding="utf-8", newline="") as file:
        mids = [row["mid"] for row in csv.DictReader(file)]
    return Ontology.audioset().restricted_to(mids)


class Draw(enum.IntEnum):
    """The purpose of a random generator. Each purpose has its own stream."""

    RATES = 1
    ORDER = 2
    CLIP = 3
    RATERS = 4


@dataclasses.dataclass(frozen=True)
class MiniatureSpec:
    """The arguments of a miniature: with the same libraries, the same spec gives the same bytes.

    Attributes:
      num_clips: number of recordings.
      seed: seed of all random draws.
      parent_left_out: probability that raters leave out the parent of a class that they named, as
        the mean over the ontology's edges.
      general_only: probability that raters name an ancestor of an event's class instead of it.
      classes: `quickstart` for the 66 classes of `miniature_ontology.csv`, or `audioset` for
        AudioSet's whole ontology, whose raters have the habits of AudioSet's.

    Raises:
      InputError: a number is out of its range.
    """

    num_clips: int = 600
    seed: int = 0
    parent_left_out: float = 0.6
    general_only: float = 0.25
    classes: str = "quickstart"

    def __post_init__(self):
        if self.classes not in CLASSES:
            raise InputError(f"--ontology={self.classes}: expected one of {', '.join(CLASSES)}")
        if self.num_clips < 1:
            raise InputError(f"--num_clips={self.num_clips}: expected at least 1")
        if self.seed < 0:
            raise InputError(f"--seed={self.seed}: expected 0 or more")
        for name in ("parent_left_out", "general_only"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name}={getattr(self, name)}: expected a rate from 0 to 1")
            if self.is_audioset and getattr(self, name) != getattr(type(self), name):
                raise InputError(
                    f"--{name}: not with --ontology=audioset, whose raters have AudioSet's habits; "
                    "other habits: python -m data_prep.raters --segments=MINI/truth.csv"
                )

    @property
    def is_audioset(self) -> bool:
        """Whether the miniature has AudioSet's whole ontology."""
        return self.classes == "audioset"

    @property
    def ontology(self) -> Ontology:
        """The ontology of the miniature."""
        return Ontology.audioset() if self.is_audioset else ontology()

    def arguments(self) -> dict[str, Any]:
        """The arguments as `miniature.json` holds them: those that determine the bytes."""
        arguments = dataclasses.asdict(self)
        if self.is_audioset:
            del arguments["parent_left_out"], arguments["general_only"]
        else:
            del arguments["classes"]
        return arguments

    def generator(self, draw: Draw, *numbers: int) -> np.random.Generator:
        """The random generator for one draw; `numbers` is, for example, the clip's number."""
        # A seed sequence ignores zeros at its end, so each number is raised by one.
        return np.random.default_rng([self.seed, draw, *(number + 1 for number in numbers)])
