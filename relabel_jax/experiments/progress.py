"""The progress of a grid on a terminal."""

import pathlib
from collections.abc import Sequence

from ml_collections import ConfigDict
from tqdm import tqdm

from relabel_jax.data.data_set import DataSet
from relabel_jax.experiments.cells import Cell
from relabel_jax.labels.views import side_columns
from relabel_jax.runs.workdir import Workdir


class Progress:
    """The progress of a grid: cells done, the current epoch, clips/s, time left."""

    def __init__(
        self, config: ConfigDict, data_set: DataSet, workdir: pathlib.Path, cells: Sequence[Cell]
    ):
        self.done: set[Cell] = set()
        self._workdir = workdir
        self._num_epochs = config.num_epochs
        self._cells = cells
        self._part: Sequence[Cell] = ()
        self._clips = {}
        for root in config.roots:
            target = side_columns(data_set.ontology, data_set.ontology.find(root), "target")
            is_target = data_set.labels[:, target].any(axis=1) & (data_set.clip_splits == 0)
            num_target = int(is_target.sum())
            num_train = int((data_set.clip_splits == 0).sum())
            self._clips[root] = {True: num_train - num_target, False: num_target}
        total = sum(self._left(cell) for cell in cells)
        self._bar = tqdm(total=total, unit=" clips", unit_scale=True, disable=None, smoothing=0.05)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def begin(self, part: Sequence[Cell]) -> None:
        """The cells that train from now on."""
        self._part = [cell for cell in part if self._left(cell)]
        self._epoch = min((self._epochs_done(cell) for cell in self._part), default=0)
        self._show()

    def on_epoch(self) -> None:
        """One more epoch of these."""
        self._epoch += 1
        self._bar.update(sum(self._per_epoch(cell) for cell in self._part))
        self._show()

    def finish(self, part: Sequence[Cell]) -> None:
        """These are done."""
        self.done |= set(part)
        self._part = ()
        self._show()

    def _show(self) -> None:
        text = f"{len(self.done)}/{len(self._cells)} cells"
        if self._part:
            first = self._part[0]
            text += f", {first.folder.parent} {first.method} epoch {self._epoch}/{self._num_epochs}"
        self._bar.set_description(text)

    def _per_epoch(self, cell: Cell) -> float:
        """Training clips that pass the network; the `features` method costs next to nothing."""
        clips = self._clips[cell.root][cell.method == "base"]
        return clips if cell.method != "features" else clips * 0.01

    def _left(self, cell: Cell) -> float:
        return self._per_epoch(cell) * max(0, self._num_epochs - self._epochs_done(cell))

    def _epochs_done(self, cell: Cell) -> int:
        return Workdir(self._workdir / cell.folder).epochs_done()
