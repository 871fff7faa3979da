"""The arguments of the training of a population, and its results."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from relabel_jax.data.pipeline import ReadInputs, balanced_order, balanced_weights, epoch_order
from relabel_jax.errors import InputError
from relabel_jax.labels.views import View
from relabel_jax.models.backbone import Network
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.step import Recipe

Inputs = Callable[[str, np.ndarray], np.ndarray]
"""Maps a split and the numbers of its clips, int64[n], to the inputs of the network, [n, ...]."""

SAMPLINGS = ("shuffled", "balanced")


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
      batch_size: clips a step. An epoch has `clips_per_epoch // batch_size` steps. The clips that
        are left over are others in each epoch.
      num_epochs: the number of epochs in all.
      learning_rate: the learning rate of the first epoch.
      learning_rate_decay: the factor of the learning rate after each epoch.
      steps_per_call: steps in one program on the device.
      resident: one of `resident.MODES`.
      members_by: one of `population.MEMBERS_BY`, or `auto`.
      loss: one of `losses.LOSSES`.
      optimizer: one of `optimizers.OPTIMIZERS`.
      further: other fields of `Recipe`.
      sampling: `shuffled` takes each clip at most once in an epoch; `balanced` draws clips by the
        weights of `balanced_weights`, from the member's labels, with replacement.
      epoch_clips: clips of an epoch; 0 for as many as there are.
      teacher: maps the numbers of training clips, int64[n], to the teacher's scores,
        float32[n, classes] (`losses.distillation`); None without a teacher.
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
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampling: str = "shuffled"
    epoch_clips: int = 0
    teacher: Callable[[np.ndarray], np.ndarray] | None = None
    on_start: Callable[[], None] = lambda: None
    on_epoch: Callable[[], None] = lambda: None
    on_clips: Callable[[int], None] = lambda number: None

    @property
    def num_clips(self) -> int:
        """The number of training clips."""
        return len(self.members[0].view.rows["train"])

    @property
    def clips_per_epoch(self) -> int:
        """The number of training clips that an epoch can have."""
        return self.epoch_clips or self.num_clips

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
            steps_per_epoch=self.clips_per_epoch // self.batch_size,
            loss=self.loss,
            optimizer=self.optimizer,
            **self.further,
        )

    @property
    def name(self) -> str:
        """The name of the training in messages: the run folder, or the folder of several."""
        folder = self.members[0].workdir.path
        return str(folder if len(self.members) == 1 else folder.parent)

    def read(self, split: str) -> ReadInputs:
        """Returns the function that reads the clips of a split."""
        return lambda clips: self.inputs(split, clips)

    def order_key(self, member: Member) -> Any:
        """Returns what determines the order of a member's clips. Equal keys are equal orders."""
        return member.seed if self.sampling == "shuffled" else (member.seed, id(member.view))

    def order(self, member: Member, epoch: int) -> np.ndarray:
        """Returns int64[n]: the training clips of an epoch of a member, in order.

        They follow from the seed, the epoch and the labels alone.
        """
        if self.sampling == "shuffled":
            return epoch_order(member.seed, epoch, self.num_clips)[: self.clips_per_epoch]
        weights = self._weights[id(member.view)]
        return balanced_order(member.seed, epoch, weights, self.clips_per_epoch)

    @functools.cached_property
    def _weights(self) -> dict[int, np.ndarray]:
        views = {id(member.view): member.view for member in self.members}
        return {
            key: balanced_weights(view.labels["train"], view.masked["train"])
            for key, view in views.items()
        }

    def check(self) -> None:
        """Checks that an epoch has a step, and that a best epoch can be chosen.

        Raises:
          InputError: there are fewer training clips than a batch or an epoch, none has a label to
            balance by, or no validation clip has a label.
        """
        if not self.recipe.steps_per_epoch:
            raise InputError(
                f"{self.clips_per_epoch} training clips are fewer than a batch; set "
                f"config.batch_size to at most {self.clips_per_epoch} or use more data"
            )
        if self.sampling == "shuffled" and self.epoch_clips > self.num_clips:
            raise InputError(
                f"config.epoch_clips: there are {self.num_clips} training clips, got "
                f"{self.epoch_clips}; use fewer, or config.sampling=balanced, which draws clips "
                "more than once"
            )
        for member in self.members:
            view = member.view
            if self.sampling == "balanced" and not self._weights[id(view)].any():
                raise InputError(
                    f"config.sampling=balanced: none of the {self.num_clips} training clips has a "
                    f"label to balance by ({member.name}); use config.sampling=shuffled"
                )
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
