"""Clips and labels from recordings that come with labels, for use without a segment file."""

import collections
import contextlib
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from data_prep import sources
from data_prep.listing import audio_files, packed_entries, warn, warn_of_damage
from data_prep.sources import Entry, Recording, SourceOptions
from data_prep.sources.label_values import positive_labels
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import Segments


def label_by_source(
    audio: str | pathlib.Path,
    ontology: Ontology,
    class_mids: Sequence[str] | None,
    duration_s: float,
    *,
    label_threshold: float | None = None,
    options: SourceOptions | None = None,
) -> tuple[Segments, list[Recording | Rejected]]:
    """Lists the clips, labels and recordings of sources that carry labels themselves.

    If several recordings have the same id, the first one is taken. A key of an archive may
    not be an id. Clips with the same key are then different clips, see `_name_apart`.

    Args:
      audio: folders and files, as `listing.audio_places` reads them. Files with one recording have
        no labels and are skipped.
      ontology: has the mids and names of the classes.
      class_mids: the mids of the class numbers, for labels that are numbers; else None.
      duration_s: the end of each clip. The sources do not give the times of a clip in the original,
        so each clip gets the times 0 and `duration_s`.
      label_threshold: the smallest score of a positive label, for labels that are scores.
      options: facts about the files that the user states.

    Returns:
      `(segments, recordings)`, in the order of the sources. Each clip has its recording, or the
      reason why it cannot be used. The reasons are: `missing` (no name; its id is ""), `no_labels`,
      `bad_labels`, `ambiguous` (several recordings have the same key in files of the same name),
      `unreadable` (the rest of a damaged file; its id is ""), `nested` (archives in an archive; the
      id is "").

    Raises:
      InputError: `audio` cannot be listed or has no labels; labels are numbers, but there are no
        `class_mids`; labels are scores, but there is no `label_threshold`.
    """
    clips = _Clips()
    damaged: list[str] = []
    classes = _Classes(audio, ontology, class_mids, label_threshold)
    single, packed = audio_files(audio)
    if single:
        warn(
            f"{audio}: {len(single):,} single recordings have no labels and are left out (the "
            f"first: {single[0][1]}); give --segments to use them"
        )
    paths = [path for _, path in packed]
    with contextlib.closing(packed_entries(paths, with_labels=True, options=options)) as entries:
        for entry in entries:
            if clips.is_repeated(entry):
                continue
            numbers: list[int] = []
            recording = entry.recording
            if isinstance(recording, Rejected):
                if recording.reason != "missing":
                    damaged.append(recording.detail)
            else:
                try:
                    numbers = classes.of_entry(entry)
                except Rejected as error:
                    recording = error
            clips.add(entry, numbers, recording)
    warn_of_damage(damaged)
    if not any(clips.labels):
        why = next((f": {each}" for each in clips.recordings if isinstance(each, Rejected)), "")
        raise InputError(
            f"{audio}: no labelled recordings{why}; give --segments=CSV, or sources with labels "
            f"({', '.join(sources.EXTENSIONS)})"
        )
    if clips.num_repeated:
        warn(f"{audio}: {clips.num_repeated} recordings have the id of an earlier one: left out")
    _name_apart(clips, audio)
    segments = Segments(
        clip_ids=pa.array(clips.ids, pa.string()),
        start_s=np.zeros(len(clips.ids)),
        end_s=np.full(len(clips.ids), float(duration_s)),
        labels=pa.array(clips.labels, pa.list_(pa.int16())),
    )
    return segments, clips.recordings


class _Clips:
    """The clips that were found, in the order of the sources.

    Attributes:
      ids, labels, recordings: one of each for each clip.
      keys: for each clip whose id is a key only, the place of its recording and the full key.
      num_repeated: the number of recordings that were left out for their id.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.labels: list[list[int]] = []
        self.recordings: list[Recording | Rejected] = []
        self.keys: dict[int, tuple[Recording, str]] = {}
        self.num_repeated = 0
        self._of_id: dict[str, bool] = {}  # whether the id is a key only

    def is_repeated(self, entry: Entry) -> bool:
        """Whether an entry has the id of an earlier clip. Counts the entry if so."""
        is_key = self._of_id.get(entry.clip_id)
        if not entry.clip_id or is_key is None or (is_key and entry.key):
            return False
        self.num_repeated += 1
        return True

    def add(self, entry: Entry, labels: list[int], recording: Recording | Rejected) -> None:
        if entry.clip_id:
            self._of_id[entry.clip_id] = bool(entry.key)
        if entry.key and isinstance(entry.recording, Recording):
            self.keys[len(self.ids)] = (entry.recording, entry.key)
        self.ids.append(entry.clip_id)
        self.labels.append(labels)
        self.recordings.append(recording)


def _name_apart(clips: _Clips, audio: str | pathlib.Path) -> None:
    """Gives clips with the same key different ids: the key with its folders, or FILE/KEY.

    If that is not enough, all clips with this id are rejected (`ambiguous`).
    """
    rows = _rows_with_the_same_id(clips, list(clips.keys))
    num_renamed = sum(map(len, rows.values()))
    if not num_renamed:
        return
    for same in rows.values():
        for row in same:
            clips.ids[row] = clips.keys[row][1]
    for same in _rows_with_the_same_id(
        clips, [row for each in rows.values() for row in each]
    ).values():
        for row in same:
            recording, key = clips.keys[row]
            clips.ids[row] = f"{pathlib.Path(recording.path).stem}/{key}"
        for again in _rows_with_the_same_id(clips, same).values():
            first, second = (clips.keys[row][0] for row in again[:2])
            for row in again:
                clips.labels[row] = []
                clips.recordings[row] = Rejected(
                    "ambiguous",
                    f"{first} and {second} have the same key, and no id in a KEY.json says whether "
                    "they are the same clip",
                )
    example = clips.ids[min(map(min, rows.values()))]
    warn(
        f"{audio}: {num_renamed} recordings have a key that another has too, and no id: they are "
        f"different clips, named by folder or file, the first one {example}"
    )


def _rows_with_the_same_id(clips: _Clips, rows: Sequence[int]) -> dict[str, list[int]]:
    """Returns the rows of each id that several of the rows have."""
    found = collections.defaultdict(list)
    for row in rows:
        found[clips.ids[row]].append(row)
    return {clip_id: same for clip_id, same in found.items() if len(same) > 1}


class _Classes:
    """Finds the classes of an ontology by mid, display name or number, and remembers them."""

    def __init__(
        self,
        audio: str | pathlib.Path,
        ontology: Ontology,
        class_mids: Sequence[str] | None,
        label_threshold: float | None,
    ):
        self._audio = audio
        self._label_threshold = label_threshold
        self._ontology = ontology
        self._class_mids = class_mids
        self._known: dict[str | int, int] = {}

    def of_entry(self, entry: Entry) -> list[int]:
        """The class numbers of an entry's labels, ascending.

        Raises:
          Rejected: the entry has no labels, or one of them is not a class.
          InputError: the labels are numbers, but their mids are not given or have another length;
            or they are scores, and there is no threshold.
        """
        if isinstance(entry.labels, Rejected):
            raise entry.labels
        if self._class_mids is not None and entry.num_classes not in (0, len(self._class_mids)):
            raise InputError(
                f"{entry.recording}: has labels of {entry.num_classes} classes, but "
                f"--class_indices has {len(self._class_mids)}; give the list that belongs to it"
            )
        num_classes = None if self._class_mids is None else len(self._class_mids)
        where = str(entry.recording)
        try:
            labels = positive_labels(entry.labels, num_classes, self._label_threshold, where)
            for label in labels:
                if label not in self._known:
                    self._known[label] = self._find(label)
        except Rejected as error:
            raise Rejected(error.reason, f"{where}: {error}") from error
        if not labels:
            raise Rejected("no_labels", f"{where} has no labels")
        return sorted({self._known[label] for label in labels})

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
