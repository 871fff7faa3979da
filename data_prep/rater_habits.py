"""The habits of raters, as rates that the command `audit` counts in their labels.

The rates of AudioSet's raters come with the package, in `audioset_habits`: counts over all
2,084,320 segments of AudioSet (Gemmeke et al., 2017; CC BY 4.0), written by `data_prep.audit`.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

_AUDIOSET = pathlib.Path(__file__).with_name("audioset_habits")
_FEW_CLIPS = 20
"""A rate beside siblings that is counted over fewer clips is replaced by the rate over all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Habits:
    """The rates at which raters choose labels. Arrays with two axes have [parent, child].

    Attributes:
      clips: float64[classes], the number of clips in which they chose the class.
      alone: float64[classes], the number of these in which they chose nothing below the class; 0
        for a class with nothing below.
      parent: float64[classes, classes], the rate at which they choose the parent of a class that
        they chose. 0 where there is no edge.
      parent_of_siblings: float64[classes, classes], the same rate in clips where they chose another
        child of the parent too.
      general: float64[classes], the rate at which they choose the class and nothing below it, among
        the clips in which they chose the class or something below it.
    """

    clips: np.ndarray
    alone: np.ndarray
    parent: np.ndarray
    parent_of_siblings: np.ndarray
    general: np.ndarray

    @property
    def is_offered(self) -> np.ndarray:
        """bool[classes]: the classes that they choose at all."""
        return self.clips > 0

    @classmethod
    def read(cls, folder: str | pathlib.Path | None, ontology: Ontology) -> "Habits":
        """Reads `classes.csv` and `edges.csv` of a folder that `data_prep.audit` wrote.

        An edge whose child nobody chose lacks a rate. It gets the rate over all edges to its
        parent, or over all edges if these lack one too.

        Args:
          folder: the folder; None for AudioSet's raters.
          ontology: the ontology. Rows about other classes are left out.

        Raises:
          InputError: a file is missing, has other columns or wrong counts, or has no class of
            the ontology with clips.
        """
        folder = _AUDIOSET if folder is None else pathlib.Path(folder)
        numbers = ontology.index.get
        mids, *counts = _columns(folder / "classes.csv", ("mid",), ("ol", "pel", "general"))
        classes = [numbers(mid) for mid in mids]
        chosen, at_or_below, alone = _placed((len(ontology),), (classes,), counts)
        is_offered = chosen > 0
        if not is_offered.any():
            raise InputError(
                f"{folder / 'classes.csv'}: has no class with clips that is in the ontology; "
                "give the --ontology of the audit"
            )
        parents, children, *counts = _columns(
            folder / "edges.csv",
            ("parent", "child"),
            ("child_clips", "both_clips", "sibling_clips", "both_sibling_clips"),
        )
        edges = [numbers(mid) for mid in parents], [numbers(mid) for mid in children]
        shape = (len(ontology), len(ontology))
        clips, both, sibling_clips, both_siblings = _placed(shape, edges, counts)
        of_all = _share(both[is_offered].sum(), clips[is_offered].sum(), 0.0)
        of_parent = _share(both.sum(axis=1), clips.sum(axis=1), of_all)
        parent_rates = _share(both, clips, of_parent[:, None])
        known = sibling_clips >= _FEW_CLIPS
        siblings = np.where(known, _share(both_siblings, sibling_clips, 0.0), parent_rates)
        return cls(
            clips=chosen,
            alone=alone,
            parent=np.where(ontology.is_parent, parent_rates, 0.0),
            parent_of_siblings=np.where(ontology.is_parent, siblings, 0.0),
            general=_share(alone, at_or_below, 0.0),
        )

    def with_severity(self, severity: float) -> "Habits":
        """The habits with the odds of every omission multiplied by `severity`.

        An omission is a parent that is not chosen, or a class that is chosen in place of those
        below it. 1 keeps the rates, and 0 gives raters who omit nothing on offer.

        Raises:
          InputError: `severity` is negative or not finite.
        """
        if not 0 <= severity < np.inf:
            raise InputError(f"--severity={severity}: expected a number of at least 0")
        return dataclasses.replace(
            self,
            parent=1 - _with_odds(1 - self.parent, severity),
            parent_of_siblings=1 - _with_odds(1 - self.parent_of_siblings, severity),
            general=_with_odds(self.general, severity),
        )


def _with_odds(rates: np.ndarray, factor: float) -> np.ndarray:
    """The rates with their odds multiplied; a rate of 1 stays unless the factor is 0."""
    scaled = factor * rates
    total = scaled + 1 - rates
    return np.divide(scaled, total, out=np.zeros_like(rates), where=total > 0)


def _share(part: np.ndarray, whole: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    """`part / whole`, or `otherwise` where `whole` is 0."""
    part, whole, otherwise = np.broadcast_arrays(part, whole, otherwise)
    return np.divide(part, whole, out=otherwise.astype(np.float64), where=whole > 0)


def _placed(
    shape: tuple[int, ...], places: Sequence[Sequence[int | None]], columns: Sequence[Sequence[int]]
) -> np.ndarray:
    """float64[columns, *shape]: the counts of each column at their places; None leaves one out."""
    rows = [row for row, place in enumerate(zip(*places, strict=True)) if None not in place]
    at = [np.array(axis, object)[rows].astype(np.int64) for axis in places]
    placed = np.zeros((len(columns), math.prod(shape)))
    placed[:, np.ravel_multi_index(at, shape)] = np.array(columns, np.float64)[:, rows]
    return placed.reshape(len(columns), *shape)


def _columns(path: pathlib.Path, mids: Sequence[str], counts: Sequence[str]) -> list[list]:
    """The columns of a CSV file, in the order of `mids` and `counts`.

    Raises:
      InputError: the file cannot be read, lacks a column, or a count is not a number.
    """
    types = dict.fromkeys(mids, pa.string()) | dict.fromkeys(counts, pa.int64())
    options = pyarrow.csv.ConvertOptions(include_columns=list(types), column_types=types)
    try:
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except (OSError, KeyError, pa.ArrowException) as error:
        what = str(error).strip("'\"").splitlines()[0]
        raise InputError(
            f"{path}: cannot read the habits ({what}); expected a table of this version's "
            "data_prep.audit"
        ) from error
    return [table[name].to_pylist() for name in types]
