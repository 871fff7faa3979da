"""The inputs of the label study: its clips, the labels of its raters, and its data sets."""

import contextlib
import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from data_prep import build, raters
from data_prep.rater_habits import Habits
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.data.layout import INDEX_NAME
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.labelings import LABELINGS, relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.labels.segments_csv import write_segments
from relabel_jax.labels.views import SPLITS, hashed_splits, side_columns

COMPLETE = "complete"
"""The labeling that has the truth."""


def at_severity(labeling: str, severity: float) -> str:
    """Returns the name of a labeling of the raters' labels at a severity.

    >>> at_severity("pel", 0.5), at_severity("complete", 0.5)
    ('pel_x50', 'complete')
    """
    return labeling if labeling == COMPLETE else f"{labeling}_x{round(100 * severity)}"


@dataclasses.dataclass(frozen=True, eq=False)
class StudyClips:
    """The clips that the study may use, in the order in which it takes them.

    Attributes:
      ontology: the ontology of the labels.
      clip_ids: the ids.
      times_s: float64[2, clips], start and end.
      truth: bool[clips, classes], sparse, with all ancestors.
      splits: int8[clips], the index into `SPLITS`.
      is_target: bool[clips], whether a true class is at or below the root.
      target_columns: int64[target classes], the root and the classes below it.
    """

    ontology: Ontology
    clip_ids: list[str]
    times_s: np.ndarray
    truth: sparse.csr_array
    splits: np.ndarray
    is_target: np.ndarray
    target_columns: np.ndarray

    @classmethod
    def read(
        cls,
        *,
        ontology: pathlib.Path | None,
        segments: Sequence[pathlib.Path],
        splits: pathlib.Path | None,
        habits: pathlib.Path | None,
        root: str,
        seed: int,
    ) -> "StudyClips":
        """Reads complete labels. Clips whose true classes raters are never offered are left out.

        The order is that of a hash of the seed and the clip's id. So a smaller size of the study
        takes a part of the clips of a larger one.

        Args:
          ontology: a file in AudioSet's form; None for AudioSet's ontology.
          segments: segment files with complete labels. All ancestors are added.
          splits: a CSV of `clip_id,split`. Clips that it does not name, or all if there is none,
            get the split that `data_prep.build` gives them.
          habits: a folder of `data_prep.audit`; None for AudioSet's raters.
          root: display name or mid of the target root.
          seed: seed of the order.

        Raises:
          InputError: a file is wrong, or the root is not a class.
        """
        the_ontology = Ontology.read(ontology)
        offered = Habits.read(habits, the_ontology).is_offered
        table = read_segments(segments, the_ontology)
        truth_sets, _ = relabel_sparse(table.label_sets, the_ontology, "pel")
        truth = sparse.csr_array(truth_sets[table.set_numbers])
        clip_ids = table.clip_ids.to_pylist()
        clip_splits = hashed_splits(clip_ids)
        if splits is not None:
            named = read_columns(splits, "split")
            for row, clip_id in enumerate(clip_ids):
                if clip_id in named:
                    clip_splits[row] = SPLITS.index(named[clip_id])
        columns = side_columns(the_ontology, the_ontology.find(root), "target")
        digests = [hashlib.blake2b(f"{seed} {clip_id}".encode()).digest() for clip_id in clip_ids]
        rows = np.array(sorted(range(len(clip_ids)), key=digests.__getitem__), np.int64)
        rows = rows[(truth[:, offered].sum(axis=1) > 0)[rows]]
        return cls(
            ontology=the_ontology,
            clip_ids=[clip_ids[row] for row in rows],
            times_s=np.stack([table.start_s[rows], table.end_s[rows]]),
            truth=sparse.csr_array(truth[rows]),
            splits=clip_splits[rows],
            is_target=truth[rows][:, columns].sum(axis=1) > 0,
            target_columns=columns,
        )

    def choose(self, side: str, sizes: Sequence[int]) -> np.ndarray:
        """Returns the numbers of the first clips of each split of a side.

        Args:
          side: `base` or `target`.
          sizes: the number of clips of each of `SPLITS`.

        Raises:
          InputError: a split has fewer clips.
        """
        chosen = []
        in_side = self.is_target == (side == "target")
        for number, (split, size) in enumerate(zip(SPLITS, sizes, strict=True)):
            rows = np.flatnonzero(in_side & (self.splits == number))
            if len(rows) < size:
                raise InputError(
                    f"--segments: have {len(rows)} {split} clips of the {side} side; expected at "
                    f"least {size}; give more clips or smaller sizes"
                )
            chosen.append(rows[:size])
        return np.concatenate(chosen)

    def write_labelings(
        self, path: pathlib.Path, habits: Habits, severities: Sequence[float], seed: int
    ) -> None:
        """Writes the raters' labels under all labelings, and the truth, as one label file.

        The base labels of target clips are dropped before the labels are re-labelled, as in
        `relabel_jax.labels.views`. A column is named by `at_severity`.

        Args:
          path: the Parquet file.
          habits: the raters' habits at severity 1.
          severities: factors of the odds of the habits' omissions.
          seed: seed of the raters.
        """
        truth = self.truth.toarray()
        is_base_class = np.ones(truth.shape[1], bool)
        is_base_class[self.target_columns] = False
        is_dropped = self.is_target[:, None] & is_base_class
        columns = {COMPLETE: sparse.csr_array(truth & ~is_dropped)}
        for severity in severities:
            of_raters = habits.with_severity(severity)
            named = raters.rate(truth, self.clip_ids, self.ontology, of_raters, seed)
            named = sparse.csr_array(named & ~is_dropped)
            for labeling in LABELINGS:
                name = at_severity(labeling, severity)
                positive, masked = relabel_sparse(named, self.ontology, labeling)
                columns |= {name: positive, f"{name}_masked": masked}
        write_label_file(path, self.clip_ids, columns, self.ontology)

    def build(
        self,
        folder: pathlib.Path,
        rows: np.ndarray,
        *,
        audio: pathlib.Path | None,
        paths: pathlib.Path | None,
        waveform_format: WaveformFormat,
    ) -> None:
        """Builds the data set of some clips, with the truth as its labels, unless it is there.

        Args:
          folder: the data set.
          rows: the numbers of its clips.
          audio, paths: the recordings; see `data_prep.build`.
          waveform_format: of the network.
        """
        if (folder / INDEX_NAME).exists():
            return
        inputs = folder.with_name(f"{folder.name}_inputs")
        inputs.mkdir(parents=True, exist_ok=True)
        (inputs / "ontology.json").write_text(self.ontology.text, encoding="utf-8")
        with complete_file(inputs / "segments.csv") as path, open(path, "wb") as file:
            write_segments(
                file,
                clip_ids=pa.array([self.clip_ids[row] for row in rows]),
                start_s=self.times_s[0, rows],
                end_s=self.times_s[1, rows],
                label_columns={"positive_labels": sparse.csr_array(self.truth[rows])},
                set_numbers=np.arange(len(rows), dtype=np.int32),
                mids=self.ontology.mids,
                title="Segments csv: complete labels",
            )
        splits = "".join(f"{self.clip_ids[row]},{SPLITS[self.splits[row]]}\n" for row in rows)
        (inputs / "splits.csv").write_text(f"clip_id,split\n{splits}")
        with contextlib.redirect_stderr(io.StringIO()):  # a summary for each data set
            build.build(
                ontology=inputs / "ontology.json",
                segments=[inputs / "segments.csv"],
                audio=audio,
                paths=paths,
                splits=inputs / "splits.csv",
                output_dir=folder,
                sample_rate_hz=waveform_format.sample_rate_hz,
                duration_s=waveform_format.duration_s,
            )


def write_label_file(
    path: pathlib.Path,
    clip_ids: Sequence[str],
    columns: Mapping[str, sparse.csr_array],
    ontology: Ontology,
) -> None:
    """Writes a Parquet file that `relabel_jax.labels.label_files` reads.

    Args:
      path: the file.
      clip_ids: the ids of the clips.
      columns: bool[clips, classes] by the name of the column.
      ontology: the ontology of the classes.
    """
    mids = pa.array(ontology.mids, pa.string())
    lists = {
        name: pa.ListArray.from_arrays(
            pa.array(labels.indptr, pa.int32()), mids.take(pa.array(labels.indices))
        )
        for name, labels in columns.items()
    }
    with complete_file(path) as temporary:
        pq.write_table(pa.table({"clip_id": pa.array(clip_ids), **lists}), temporary)


def mask_by_teacher(scores: np.ndarray, positive: np.ndarray, percentile: float) -> np.ndarray:
    """Returns the negatives of each class that a teacher scores highest; they must be masked.

    Loss masking of E. Fonseca et al., Addressing missing labels in large-scale sound event
    recognition using a teacher-student framework with loss masking, 2020: the teacher was trained
    on the same labels, and a negative that it scores high is probably a missing label.

    Args:
      scores: float[clips, classes], the teacher's scores.
      positive: bool[clips, classes], the labels that were given.
      percentile: the negatives of a class whose scores are above this percentile are masked.

    Returns:
      bool[clips, classes].
    """
    of_negatives = np.where(positive, np.nan, scores)
    has_negatives = ~positive.all(axis=0)
    limits = np.full(scores.shape[1], np.inf)
    limits[has_negatives] = np.nanpercentile(of_negatives[:, has_negatives], percentile, axis=0)
    return (scores > limits) & ~positive
