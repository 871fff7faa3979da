"""Clips and labels from recordings that come with labels, for use without a segment file."""

import contextlib
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from data_prep import sources
from data_prep.listing import audio_files, packed_entries, warn, warn_of_damage
from data_prep.sources import Entry, Recording
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import Segments


def label_by_source(
    audio: str | pathlib.Path,
    ontology: Ontology,
    class_mids: Sequence[str] | None,
    duration_s: float,
) -> tuple[Segments, list[Recording | Rejected]]:
    """Lists the clips, labels and recordings of sources that carry labels themselves.

    Args:
      audio: folders and files, as `listing.audio_places` reads them. Files with one recording have
        no labels and are skipped.
      ontology: has the mids and names of the classes.
      class_mids: the mids of the class numbers, for labels that are numbers; else None.
      duration_s: the end of each clip. The sources do not give the times of a clip in the original,
        so each clip gets the times 0 and `duration_s`.

    Returns:
      `(segments, recordings)`, in the order of the sources. Each clip has its recording, or the
      reason why it cannot be used: `missing` (no name; its id is ""), `no_labels`, `bad_labels`,
      `unreadable` (the rest of a damaged file; its id is ""). The first of several clips with the
      same id is taken.

    Raises:
      InputError: `audio` cannot be listed or has no labels; labels are numbers, but there are no
        `class_mids`.
    """
    clip_ids: list[str] = []
    labels: list[list[int]] = []
    recordings: list[Recording | Rejected] = []
    seen: set[str] = set()
    num_repeated = 0
    damaged: list[str] = []
    class_numbers = _ClassNumbers(audio, ontology, class_mids)
    paths = [path for _, path in audio_files(audio)[1]]
    with contextlib.closing(packed_entries(paths, with_labels=True)) as entries:
        for entry in entries:
            if entry.clip_id in seen:
                num_repeated += 1
                continue
            if entry.clip_id:
                seen.add(entry.clip_id)
            numbers: list[int] = []
            recording = entry.recording
            if isinstance(recording, Rejected):
                if recording.reason != "missing":
                    damaged.append(recording.detail)
            else:
                try:
                    numbers = class_numbers.of_entry(entry)
                except Rejected as error:
                    recording = error
            clip_ids.append(entry.clip_id)
            labels.append(numbers)
            recordings.append(recording)
    warn_of_damage(damaged)
    if not any(labels):
        why = next((f": {each}" for each in recordings if isinstance(each, Rejected)), "")
        raise InputError(
            f"{audio}: no labelled recordings{why}; give --segments=CSV, or sources with labels "
            f"({', '.join(sources.EXTENSIONS)})"
        )
    if num_repeated:
        warn(f"{audio}: {num_repeated} recordings have the id of an earlier one: left out")
    segments = Segments(
        clip_ids=pa.array(clip_ids, pa.string()),
        start_s=np.zeros(len(clip_ids)),
        end_s=np.full(len(clip_ids), float(duration_s)),
        labels=pa.array(labels, pa.list_(pa.int16())),
    )
    return segments, recordings


class _ClassNumbers:
    """Finds the classes of an ontology by mid, display name or number, and remembers them."""

    def __init__(
        self, audio: str | pathlib.Path, ontology: Ontology, class_mids: Sequence[str] | None
    ):
        self._audio = audio
        self._ontology = ontology
        self._class_mids = class_mids
        self._known: dict[str | int, int] = {}

    def of_entry(self, entry: Entry) -> list[int]:
        """The class numbers of an entry's labels, ascending.

        Raises:
          Rejected: the entry has no labels, or one of them is not a class.
          InputError: the labels are numbers, but their mids are not given or have another length.
        """
        if isinstance(entry.labels, Rejected):
            raise entry.labels
        if self._class_mids is not None and entry.num_classes not in (0, len(self._class_mids)):
            raise InputError(
                f"{entry.recording}: has labels of {entry.num_classes} classes, but "
                f"--class_indices has {len(self._class_mids)}; give the list that belongs to it"
            )
        if not entry.labels:
            raise Rejected("no_labels", f"{entry.recording} has no labels")
        try:
            for label in entry.labels:
                if label not in self._known:
                    self._known[label] = self._find(label)
        except Rejected as error:
            raise Rejected(error.reason, f"{entry.recording}: {error}") from error
        return sorted({self._known[label] for label in entry.labels})

    def _find(self, label: str | int) -> int:
        if isinstance(label, int):
            if self._class_mids is None:
                raise InputError(
                    f"{self._audio}: its labels are class numbers; say what they mean with "
                    "--class_indices=class_labels_indices.csv"
                )
            if not 0 <= label < len(self._class_mids):
                raise Rejected("bad_labels", f"no class number {label} of {len(self._class_mids)}")
            label = self._class_mids[label]
        try:
            return self._ontology.find(label)
        except InputError as error:
            raise Rejected("bad_labels", str(error)) from error
