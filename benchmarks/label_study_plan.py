"""The plan of the label study: which bases are trained, and what starts from them."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from label_study_inputs import COMPLETE, at_severity

from relabel_jax.labels.labelings import LABELINGS, PAPER_LABELINGS, RULES

PARTS = (
    "main",
    "severity",
    "base_size",
    "target_size",
    "methods",
    "comparators",
    "mixup",
    "seeds",
    "longer",
)
TEACHER = "teacher"
NO_BASE = "none"
NETWORKS: dict[str, dict[str, Any]] = {
    "logmel_cnn": {
        "window_s": 0.032,
        "hop_s": 0.1,
        "num_mels": 32,
        "features": (8, 16, 32),
    },
    "cnn6": {"features": (8, 16, 32, 64)},
    "waveform_cnn": {},
}
"""The networks of a study, with options that make the first two small enough for two cores.

The third one is the paper's network. It needs an accelerator.
"""
_MIXUP = {"loss": "bce", "mixup.alpha": 1.0}  # the weights of PANNs
RECIPES: dict[str, dict[str, Any]] = {
    "mse": {"loss": "mse"},
    "bce": {"loss": "bce"},
    "large_loss": {"loss": "large_loss"},
    "smoothed": {"loss": "smoothed"},
    "max_constraint": {"loss": "max_constraint"},
    "strict": {**_MIXUP, "mixup.rule": "strict"},
    "known": {**_MIXUP, "mixup.rule": "known"},
}
"""By name: the fields of the config that a study changes."""
BASE_RECIPES = ("mse", "bce")
"""Those of `Design.recipe`. The others are compared with a base of `bce` or with each other."""


@dataclasses.dataclass(frozen=True)
class Design:
    """The design of the study: its sizes, and what all parts have in common.

    Attributes:
      base_clips: to train a base on.
      small_base_clips: the same in the parts `base_size`, `comparators` and `mixup`.
      target_clips: to train on below the root.
      other_target_clips: the same in the part `target_size`.
      validation_clips: of each side.
      base_test_clips: of the base side.
      test_clips: of the target side.
      num_seeds: seeds of weights, order of clips and dropout.
      more_seeds: the same in the part `seeds`.
      epochs: epochs of the bases after which they are transferred, ascending. The part `main` has
        all, the other parts have the last one.
      longer_epochs: epochs of the part `longer`.
      small_base_epochs: the epochs of bases on fewer clips, which need more of them.
      target_epochs: epochs on the target side.
      severities: of the raters; the first one is used in all other parts.
      labelings: of the part `main`. The other parts have those of the paper among them; the part
        `mixup` has those that mask.
      network: a key of `NETWORKS`.
      recipe: one of `BASE_RECIPES`: of the bases of all parts except `comparators` and `mixup`.
    """

    base_clips: int = 6000
    small_base_clips: int = 1500
    target_clips: int = 500
    other_target_clips: tuple[int, ...] = (100, 3000)
    validation_clips: int = 300
    base_test_clips: int = 300
    test_clips: int = 5000
    num_seeds: int = 5
    more_seeds: int = 10
    epochs: tuple[int, ...] = (2, 6)
    longer_epochs: int = 12
    small_base_epochs: int = 12
    target_epochs: int = 30
    severities: tuple[float, ...] = (1.0, 0.25, 4.0)
    labelings: tuple[str, ...] = LABELINGS
    network: str = "logmel_cnn"
    recipe: str = "mse"

    def epochs_of(self, base_clips: int) -> int:
        """The epochs of bases on so many clips, in all parts except `main`."""
        return self.small_base_epochs if base_clips == self.small_base_clips else self.epochs[-1]


class Transfers(NamedTuple):
    """Trainings on the target side.

    Attributes:
      method: `features`, `finetune` or `scratch`.
      target_clips: to train on.
      labelings: of the target side.
      bases: the labelings of the bases; () for `scratch`.
    """

    method: str
    target_clips: int
    labelings: tuple[str, ...]
    bases: tuple[str, ...]


class Stage(NamedTuple):
    """Bases that are trained together to a number of epochs, and the transfers from them.

    Attributes:
      part: one of `PARTS`.
      clips: the number of clips that the bases are trained on.
      recipe: a name in `RECIPES`: that of the bases.
      labelings: of the bases.
      epochs: epochs of the bases.
      transfers: the trainings that start from them.
      num_seeds: the number of seeds of each.
    """

    part: str
    clips: int
    recipe: str
    labelings: tuple[str, ...]
    epochs: int
    transfers: tuple[Transfers, ...]
    num_seeds: int

    @property
    def target_recipe(self) -> str:
        """The recipe of the transfers, which is the same for all that are compared."""
        return target_recipe(self.recipe)

    def base_folder(self) -> pathlib.Path:
        """The folder of the bases. Stages that train the same bases further share it."""
        return pathlib.Path("bases", f"{self.clips}_{self.recipe}")

    def transfer_folder(self, transfers: Transfers) -> pathlib.Path:
        """The folder of one of the transfers."""
        name = f"{transfers.method}_{transfers.target_clips}"
        if transfers.method == "scratch":
            return pathlib.Path("transfers", f"{name}_{self.recipe}")
        return pathlib.Path("transfers", f"{name}_from_{self.clips}_{self.recipe}_{self.epochs}")


def target_recipe(recipe: str) -> str:
    """Returns `bce` for its variants, so that transfers differ in their bases alone."""
    return "mse" if recipe == "mse" else "bce"


def make_plan(design: Design, parts: Sequence[str]) -> list[Stage]:
    """Lists the stages of some parts, in their order.

    The parts `severity`, `target_size` and `methods` start from bases of the part `main`. A base
    is trained with one number of epochs after another, so a stage with more epochs comes after
    those with fewer, and `longer` comes last.
    """
    severity, *others = design.severities
    recipe = design.recipe
    last = design.epochs[-1]

    def names(labelings: Sequence[str], at: float = severity) -> tuple[str, ...]:
        return tuple(at_severity(labeling, at) for labeling in labelings)

    def features(bases, clips=design.target_clips, at=severity):
        return Transfers("features", clips, names(("ol", COMPLETE), at), bases)

    of_paper = [labeling for labeling in design.labelings if labeling in PAPER_LABELINGS]
    every = names((*design.labelings, COMPLETE))
    papers = names((*of_paper, COMPLETE))
    stages: list[Stage] = []

    def add(part, labelings, epochs, transfers, num_seeds=design.num_seeds):
        stage = Stage(part, design.base_clips, recipe, labelings, epochs, transfers, num_seeds)
        stages.append(stage)

    def add_small(part, recipe, labelings):
        clips = design.small_base_clips
        epochs = design.epochs_of(clips)
        transfers = (features(labelings),)
        stage = Stage(part, clips, recipe, labelings, epochs, transfers, design.num_seeds)
        stages.append(stage)

    if "main" in parts:
        for epochs in design.epochs:
            add("main", every, epochs, (features(every),))
    if "severity" in parts:
        for at in others:
            of_raters = names(of_paper, at)
            upper = Transfers("features", design.target_clips, names(("ol",), at), (COMPLETE,))
            add("severity", of_raters, last, (features(of_raters, at=at), upper))
    if "target_size" in parts:
        transfers = tuple(features(papers, clips) for clips in design.other_target_clips)
        add("target_size", papers, last, transfers)
    if "methods" in parts:
        complete = (COMPLETE,)
        finetune = Transfers("finetune", design.target_clips, complete, papers)
        scratch = Transfers("scratch", design.target_clips, complete, ())
        add("methods", papers, last, (finetune, scratch))
    if "base_size" in parts:
        add_small("base_size", recipe, papers)
    if "comparators" in parts:
        add_small("comparators", "bce", papers)
        add_small("comparators", "bce", names((TEACHER,)))  # the `ol` before is its teacher
        add_small("comparators", "large_loss", names(("ol",)))
        add_small("comparators", "smoothed", names(("ol",)))
        add_small("comparators", "max_constraint", names(("pel",)))
    if "mixup" in parts:
        that_mask = names([name for name in design.labelings if RULES[name].masks])
        add_small("mixup", "strict", that_mask)
        add_small("mixup", "known", that_mask)
    if "seeds" in parts:
        add("seeds", papers, last, (features(papers),), design.more_seeds)
    if "longer" in parts:
        add("longer", papers, design.longer_epochs, (features(papers),))
    return stages
