"""The arguments of the training of a population, and its results."""

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
"""Maps a split and the numbers of its clips, int64[n], to the inputs of the network, [n, ...]."""


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One run of a population.

    Attributes:
      workdir: the run folder.
      variables: the variables of the network before the first step, on the host.
      view: the labels and masks. All members have the same clips and columns.
      seed: the seed of the order of the clips and of the network's random streams.
    """

    workdir: Workdir
    variables: dict[str, Any]
    view: View
    seed: int

    @property
    def name(self) -> str:
        """The name of the member in messages."""
        return str(self.workdir.path)


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """Everything that determines the runs of a population.

    Attributes:
      members: the runs, at least one.
      network: maps (inputs, train) to `Outputs`.
      inputs: reads the inputs of the network.
      batch_size: clips a step. An epoch has `train clips // batch_size` steps. The clips that are
        left over are others in each epoch.
      num_epochs: the number of epochs in all.
      learning_rate: the learning rate of the first epoch.
      learning_rate_decay: the factor of the learning rate after each epoch.
      steps_per_call: steps in one program on the device.
      resident: one of `resident.MODES`.
      members_by: one of `population.MEMBERS_BY`, or `auto`.
      loss: one of `losses.LOSSES`.
      optimizer: one of `optimizers.OPTIMIZERS`.
      on_start: called before the first step, after all checks of the training.
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
        """The number of training clips."""
        return len(self.members[0].view.rows["train"])

    @property
    def num_validation(self) -> int:
        """The number of validation clips."""
        return len(self.members[0].view.rows["validation"])

    @property
    def recipe(self) -> Recipe:
        """The loss, the optimizer and its schedule."""
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
        """Returns the function that reads the clips of a split."""
        return lambda clips: self.inputs(split, clips)

    def check(self) -> None:
        """Checks that an epoch has a step, and that a best epoch can be chosen.

        Raises:
          InputError: there are fewer training clips than a batch, or no validation clip has a
            label.
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
    """The result of one training.

    Attributes:
      best_epoch: the epoch with the best validation mAP; 1 is the first.
      variables: the variables of the network after this epoch, on the host.
    """

    best_epoch: int
    variables: dict[str, Any]
