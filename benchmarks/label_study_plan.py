"""The plan of the label study: which bases are trained, and what starts from them."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from label_study_inputs import COMPLETE, at_severity

from relabel_jax.labels.labelings import LABELINGS, PAPER_LABELINGS

PARTS = ("main", "severity", "base_size", "target_size", "methods", "comparators")
TEACHER = "teacher"
NO_BASE = "none"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of the study.

    Attributes:
      base_clips: to train a base on.
      small_base_clips: the same in the part `base_size`.
      target_clips: to train on below the root.
      other_target_clips: the same in the part `target_size`.
      validation_clips: of each side.
      base_test_clips: of the base side.
      test_clips: of the target side.
      num_seeds: seeds of weights, order of clips and dropout.
      epochs: epochs of the bases after which they are transferred, ascending. The last one is used
        in all parts; the curve of the part `main` has all.
      target_epochs: epochs on the target side.
      severities: of the raters; the first one is used in all other parts.
      labelings: of the part `main`. The other parts have those of the paper among them.
    """

    base_clips: int = 8000
    small_base_clips: int = 2000
    target_clips: int = 500
    other_target_clips: tuple[int, ...] = (100, 3000)
    validation_clips: int = 300
    base_test_clips: int = 300
    test_clips: int = 6000
    num_seeds: int = 5
    epochs: tuple[int, ...] = (3, 10)
    target_epochs: int = 40
    severities: tuple[float, ...] = (1.0, 0.25, 4.0)
    labelings: tuple[str, ...] = LABELINGS


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
      loss: `config.loss` of the bases.
      labelings: of the bases.
      epochs: epochs of the bases.
      transfers: the trainings that start from them.
    """

    part: str
    clips: int
    loss: str
    labelings: tuple[str, ...]
    epochs: int
    transfers: tuple[Transfers, ...]

    @property
    def target_loss(self) -> str:
        """`config.loss` of the transfers, and of the base that the bases are compared with."""
        return target_loss(self.loss)

    def base_folder(self) -> pathlib.Path:
        """The folder of the bases. Stages that train the same bases further share it."""
        return pathlib.Path("bases", f"{self.clips}_{self.loss}")

    def transfer_folder(self, transfers: Transfers) -> pathlib.Path:
        """The folder of one of the transfers."""
        name = f"{transfers.method}_{transfers.target_clips}"
        if transfers.method == "scratch":
            return pathlib.Path("transfers", f"{name}_{self.loss}")
        return pathlib.Path("transfers", f"{name}_from_{self.clips}_{self.loss}_{self.epochs}")


def target_loss(loss: str) -> str:
    """Returns `bce` for its variants, so that transfers differ in their bases alone."""
    return "bce" if loss in ("large_loss", "smoothed") else loss


def make_plan(sizes: Sizes, parts: Sequence[str]) -> list[Stage]:
    """Lists the stages of some parts, in their order. All parts need the part `main`.

    A base is trained with one number of epochs after another, so a stage with more epochs comes
    after those with fewer.
    """
    severity, *others = sizes.severities
    last = sizes.epochs[-1]

    def names(labelings: Sequence[str], at: float = severity) -> tuple[str, ...]:
        return tuple(at_severity(labeling, at) for labeling in labelings)

    def features(bases, clips=sizes.target_clips, at=severity):
        return Transfers("features", clips, names(("ol", COMPLETE), at), bases)

    of_paper = [labeling for labeling in sizes.labelings if labeling in PAPER_LABELINGS]
    every = names((*sizes.labelings, COMPLETE))
    papers = names((*of_paper, COMPLETE))
    stages = [
        Stage("main", sizes.base_clips, "mse", every, epochs, (features(every),))
        for epochs in sizes.epochs
    ]
    if "severity" in parts:
        for at in others:
            of_raters = names(of_paper, at)
            upper = Transfers("features", sizes.target_clips, names(("ol",), at), (COMPLETE,))
            transfers = (features(of_raters, at=at), upper)
            stages.append(Stage("severity", sizes.base_clips, "mse", of_raters, last, transfers))
    if "target_size" in parts:
        transfers = tuple(features(papers, clips) for clips in sizes.other_target_clips)
        stages.append(Stage("target_size", sizes.base_clips, "mse", papers, last, transfers))
    if "methods" in parts:
        complete = (COMPLETE,)
        transfers = (
            Transfers("finetune", sizes.target_clips, complete, papers),
            Transfers("scratch", sizes.target_clips, complete, ()),
        )
        stages.append(Stage("methods", sizes.base_clips, "mse", papers, last, transfers))
    if "base_size" in parts:
        small = sizes.small_base_clips
        stages.append(Stage("base_size", small, "mse", papers, last, (features(papers),)))
    if "comparators" in parts:
        small = sizes.small_base_clips
        for labelings, loss in (
            (papers, "bce"),
            (names((TEACHER,)), "bce"),  # its teacher is the base of `ol` in the stage before
            (names(("ol",)), "large_loss"),
            (names(("ol",)), "smoothed"),
        ):
            of_loss = (features(labelings),)
            stages.append(Stage("comparators", small, loss, labelings, last, of_loss))
    return stages
