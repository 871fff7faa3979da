"""The progress of a grid of runs."""

import logging
import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict

from relabel_jax.data.data_set import DataSet
from relabel_jax.experiments.cells import Cell
from relabel_jax.labels.views import side_columns
from relabel_jax.progress import Progress
from relabel_jax.runs.workdir import Workdir

_LOG = logging.getLogger(__name__)
# A `features` run reads embeddings, not waveforms. A clip costs it about this share of a clip.
_COST_OF_FEATURES = 0.01


class GridProgress:
    """Shows the progress of a grid: finished runs, the current epoch, clips/s, time left.

    A context manager.

    Args:
      config: the config of the grid.
      data_set: the data set.
      workdir: the folder of the grid.
      cells: the runs of the grid.

    Attributes:
      done: the runs that are finished.
    """

    def __init__(
        self, config: ConfigDict, data_set: DataSet, workdir: pathlib.Path, cells: Sequence[Cell]
    ):
        self.done: set[Cell] = set()
        self._workdir = workdir
        self._num_epochs = config.num_epochs
        self._batch_size = config.batch_size
        self._cells = cells
        self._part: Sequence[Cell] = ()
        self._clips = {}
        for root in config.roots:
            target = side_columns(data_set.ontology, data_set.ontology.find(root), "target")
            is_target = data_set.labels[:, target].any(axis=1) & (data_set.clip_splits == 0)
            num_target = int(is_target.sum())
            num_train = int((data_set.clip_splits == 0).sum())
            self._clips[root] = {True: num_train - num_target, False: num_target}
        self._display = Progress("grid", sum(self._left(cell) for cell in cells), "clips")

    def __enter__(self) -> "GridProgress":
        workdirs = [Workdir(self._workdir / cell.folder) for cell in self._cells]
        num_finished = sum(workdir.is_finished_after(self._num_epochs) for workdir in workdirs)
        if num_finished:
            _LOG.info("%d of %d runs are finished already", num_finished, len(self._cells))
        self._display.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._display.__exit__()

    def begin(self, part: Sequence[Cell]) -> None:
        """Notes the runs that are trained together from now on."""
        self._part = [cell for cell in part if self._left(cell)]
        self._epochs_before = min((self._epochs_done(cell) for cell in self._part), default=0)
        self._clips_passed = 0
        self._describe()

    def on_clips(self, number: int) -> None:
        """Notes training clips that passed the networks of the current runs."""
        self._clips_passed += number
        self._describe()
        self._display.update(number * sum(map(self._cost, self._part)))

    def finish(self, part: Sequence[Cell]) -> None:
        """Notes that runs are finished."""
        self.done |= set(part)
        self._part = ()
        self._describe()

    def _describe(self) -> None:
        text = f"{len(self.done)}/{len(self._cells)} runs"
        if self._part:
            first = self._part[0]
            clips = max(1, self._clips[first.root][first.method == "base"])
            clips = max(1, clips // self._batch_size * self._batch_size)
            epoch = min(self._epochs_before + self._clips_passed // clips + 1, self._num_epochs)
            text += f", {first.folder.parent} {first.method} epoch {epoch}/{self._num_epochs}"
        self._display.describe(text)

    def _cost(self, cell: Cell) -> float:
        """The cost of a training clip of a run; 1 for a clip that passes the whole network."""
        return _COST_OF_FEATURES if cell.method == "features" else 1

    def _left(self, cell: Cell) -> float:
        epochs = max(0, self._num_epochs - self._epochs_done(cell))
        return self._cost(cell) * self._clips[cell.root][cell.method == "base"] * epochs

    def _epochs_done(self, cell: Cell) -> int:
        return Workdir(self._workdir / cell.folder).epochs_done()
