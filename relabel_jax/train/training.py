"""What determines the trainings of a population, and what comes of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from relabel_jax.data.pipeline import ReadInputs
from relabel_jax.errors import InputError
from relabel_jax.labels.views import View
from relabel_jax.models.backbone import Network
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.step import Recipe

Inputs = Callable[[str, np.ndarray], np.ndarray]
"""(split, int64[n] clips of the split) -> [n, ...], what the network takes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """What a run has of its own in a population.

    Attributes:
      workdir: its run folder.
      variables: the network's variables before the first step, on the host.
      view: its labels and masks, on the same clips and columns as the other members'.
      seed: of the clips' order and the network's random streams.
    """

    workdir: Workdir
    variables: dict[str, Any]
    view: View
    seed: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.workdir.path)


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """Everything that determines the runs of a population.

    Attributes:
      members: at least one.
      network: maps (inputs, train) to `Outputs`.
      inputs: reads what the network takes.
      batch_size: clips a step. An epoch is `train clips // batch_size` steps; the clips left over
        differ from epoch to epoch.
      num_epochs: epochs in all.
      learning_rate, learning_rate_decay: of the optimizer; the decay is applied after each epoch.
      steps_per_call: steps in one program on the device.
      resident: one of `resident.MODES`.
      members_by: one of `population.MEMBERS_BY`, or `auto`.
      loss: one of `losses.LOSSES`.
      optimizer: one of `optimizers.OPTIMIZERS`.
      on_start: called before the first step, when nothing is left that could refuse the training.
      on_epoch: called after each epoch that is scored and saved.
      on_clips: called with the number of training clips of each chunk, once for all members.
    """

    members: Sequence[Member]
    network: Network
    inputs: Inputs
    batch_size: int
    num_epochs: int
    learning_rate: float
    learning_rate_decay: float
    steps_per_call: int
    resident: str
    members_by: str
    loss: str = "mse"
    optimizer: str = "adam"
    on_start: Callable[[], None] = lambda: None
    on_epoch: Callable[[], None] = lambda: None
    on_clips: Callable[[int], None] = lambda number: None

    @property
    def num_clips(self) -> int:
        """Training clips."""
        return len(self.members[0].view.rows["train"])

    @property
    def num_validation(self) -> int:
        """Validation clips."""
        return len(self.members[0].view.rows["validation"])

    @property
    def recipe(self) -> Recipe:
        """Loss, optimizer and schedule."""
        return Recipe(
            learning_rate=self.learning_rate,
            decay=self.learning_rate_decay,
            steps_per_epoch=self.num_clips // self.batch_size,
            loss=self.loss,
            optimizer=self.optimizer,
        )

    @property
    def name(self) -> str:
        """The name of the training in messages: the run folder, or the folder of several."""
        folder = self.members[0].workdir.path
        return str(folder if len(self.members) == 1 else folder.parent)

    def read(self, split: str) -> ReadInputs:
        """How the clips of a split are read."""
        return lambda clips: self.inputs(split, clips)

    def check(self) -> None:
        """Refuses a training that could do no step or choose no epoch.

        Raises:
          InputError: there are fewer training clips than a batch, or nothing to validate on.
        """
        if not self.recipe.steps_per_epoch:
            raise InputError(
                f"{self.num_clips} training clips are fewer than a batch; set config.batch_size to "
                f"at most {self.num_clips} or use more data"
            )
        for member in self.members:
            view = member.view
            if not (view.labels["validation"] & ~view.masked["validation"]).any():
                raise InputError(
                    f"none of the {self.num_validation} validation clips has a label of the label "
                    f"set ({member.name}), so no epoch could be chosen as the best; use more data "
                    "or other --splits"
                )


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The best epoch by validation mAP (of equals the first; 1 is the first) and its variables."""

    best_epoch: int
    variables: dict[str, Any]
