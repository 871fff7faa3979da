"""The scores of a teacher, from a file or a run folder, for the training clips of a view."""

import dataclasses
import functools
import hashlib
import pathlib

import numpy as np

from relabel_jax.errors import InputError, some
from relabel_jax.labels import clip_names
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import View
from relabel_jax.scoring.score_files import ScoreFile, read_score_file

_UNKNOWN_TIMES = (float("nan"), float("nan"))


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """The scores of a teacher. `config.teacher` names the file.

    Attributes:
      file: the file.
      rows: int64[training clips], the rows of the clips in the file.
      columns: int64[side classes], the columns of the classes in the file; -1 where it has none.
    """

    file: ScoreFile
    rows: np.ndarray
    columns: np.ndarray

    def scores(self, clips: np.ndarray) -> np.ndarray:
        """Returns the scores of training clips.

        Args:
          clips: int64[n], numbers of training clips.

        Returns:
          float32[n, side classes]; NaN where the file lacks the class.
        """
        found = self.file.scores[self.rows[clips][:, None], self.columns[None, :]]
        return np.where(self.columns >= 0, found, np.nan).astype(np.float32)

    @functools.cached_property
    def digest(self) -> str:
        """A digest of all scores of the training clips."""
        digest = hashlib.sha256()
        for clips in np.array_split(np.arange(len(self.rows)), 1 + len(self.rows) // 4096):
            digest.update(self.scores(clips))
        return digest.hexdigest()


def read_teacher(path: str, clip_ids: np.ndarray, view: View, ontology: Ontology) -> Teacher:
    """Reads the scores of a teacher. The clips are found by their ids, not by their order.

    Args:
      path: a file that `relabel-jax score` reads, or a run folder.
      clip_ids: string array [training clips].
      view: has the classes of the side.
      ontology: the ontology of the classes.

    Raises:
      InputError: the file cannot be read, lacks a training clip or all classes, or has a score
        outside 0 to 1.
    """
    where = f"config.teacher={path}"
    try:
        file = read_score_file(pathlib.Path(path), ontology)
    except InputError as error:
        raise InputError(f"config.teacher: {error}") from error
    column_of = {number: i for i, number in enumerate(file.columns.tolist())}
    columns = np.array([column_of.get(number, -1) for number in view.columns.tolist()], np.int64)
    if (columns < 0).all():
        raise InputError(f"{where}: has no class of this side of the ontology; give other scores")
    ids = clip_ids.tolist()
    row_of = dict(zip(file.names, range(len(file.names)), strict=True))
    rows = np.array([row_of.get(clip_id, -1) for clip_id in ids], np.int64)
    if (rows < 0).any():
        rows = _rows_by_names(file, ids, rows)
    if (absent := np.flatnonzero(rows < 0)).size:
        names = some([ids[i] for i in absent[:4].tolist()])
        raise InputError(
            f"{where}: has no scores for {len(absent)} of the {len(ids)} training clips ({names}); "
            "expected a row for every one"
        )
    teacher = Teacher(file, rows, columns)
    lowest, highest = file.scores.min(), file.scores.max()
    if lowest < 0 or highest > 1:
        raise InputError(
            f"{where}: has scores from {lowest:.3g} to {highest:.3g}, expected probabilities in "
            "0 to 1; apply the sigmoid to logits"
        )
    return teacher


def _rows_by_names(file: ScoreFile, ids: list[str], rows: np.ndarray) -> np.ndarray:
    """Adds the clips whose rows have names of recordings, such as `YID.wav` (`clip_names`)."""
    number_of = {clip_id: i for i, clip_id in enumerate(ids)}
    clips = clip_names.rows_of_names(
        [clip_names.stem(name) for name in file.names],
        lambda names: np.array([number_of.get(name, -1) for name in names], np.int64),
        lambda _: _UNKNOWN_TIMES,
    )
    rows = rows.copy()
    for row in np.flatnonzero(clips >= 0).tolist():
        if rows[clips[row]] < 0:
            rows[clips[row]] = row
    return rows
