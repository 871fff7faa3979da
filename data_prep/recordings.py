"""Finds the recordings of each clip, by name or by a CSV of `clip_id,path`.

Ids never become paths. Folders and files with many recordings (`data_prep.sources`) are listed
once, and each name is looked up among the clips (`relabel_jax.labels.clip_names`). An id with `/`
or `..` finds nothing.

If several recordings fit a clip, they are tried in order until one can be read. The plainest name
comes first (ID, YID, with two times, with one, with a title). Among equal names, the place that
`--audio` names first comes first, then single files before files with many recordings, then the
extension by its position in `EXTENSIONS`, then the path. A name that fits several clips serves a
clip only if all the others have other recordings.
"""

import collections
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.listing import audio_files, packed_entries, warn, warn_of_damage
from data_prep.sources import Recording, SourceOptions
from relabel_jax.audio.places import EXTENSIONS
from relabel_jax.errors import InputError, Rejected
from relabel_jax.faults import is_file
from relabel_jax.labels import clip_names
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.segments import Segments

_Path = str | pathlib.Path
Candidates = tuple[Recording, ...]
"""The recordings of a clip, in the order in which they are tried."""

_RANKS = {extension: rank for rank, extension in enumerate(EXTENSIONS)}
_RANK_OF_OTHERS, _RANK_OF_PACKED = len(EXTENSIONS), len(EXTENSIONS) + 1


class _Listed(NamedTuple):
    """A recording, with the number of its place and the rank of its extension."""

    place: int
    extension_rank: int
    recording: Recording

    @property
    def order(self) -> tuple[int, int, str, str]:
        return self.place, self.extension_rank, self.recording.path, self.recording.member


def find_by_name(
    segments: Segments, audio: _Path, options: SourceOptions | None = None
) -> list[Candidates | Rejected]:
    """Finds the recordings of each clip among those in `audio`, by their names.

    Args:
      segments: the clips.
      audio: see `places.audio_places`.
      options: the user's word on files with many recordings.

    Returns:
      For each clip its recordings in the order in which they are tried, or the reason if there is
      none: `no_file`, or `ambiguous` (the name of a recording fits several clips, or recordings of
      different clips have this name).

    Raises:
      InputError: `audio` cannot be listed.
    """
    damaged: list[str] = []
    found = _Matches(segments)
    for name, key, listed in _recordings(audio, options, damaged):
        found.add(name, key, listed)
    no_file = f"no recording of that name in {audio}"
    if damaged:  # names only the first, because each missing clip gets this text
        number = f"{len(damaged)} damaged files, the first: " if len(damaged) > 1 else ""
        no_file += f"; {number}{damaged[0]}"
    return [found.choose(row, no_file) for row in range(len(segments))]


class _Matches:
    """The recordings of each clip."""

    def __init__(self, segments: Segments):
        self._segments = segments
        self._rows = {clip_id: row for row, clip_id in enumerate(segments.clip_ids.to_pylist())}
        # By row of the clip, with the plainness of the name.
        self._own: dict[int, list[tuple[int, _Listed]]] = {}
        self._keyed: dict[int, list[tuple[int, _Listed]]] = {}  # with a key instead of an id
        # The names that fit several clips.
        self._shared: dict[str, list[_Listed]] = {}
        self._clips_of_shared: dict[str, list[int]] = {}
        self._shared_of_clip: dict[int, list[tuple[int, str]]] = collections.defaultdict(list)

    def add(self, name: str, key: str, listed: _Listed) -> None:
        """Adds a recording to the clips that its name can mean.

        Args:
          name: its name without extension.
          key: see `sources.Entry`.
          listed: the recording.
        """
        if name in self._shared:
            self._shared[name].append(listed)
            return
        fitting = clip_names.clips_of_name(name, self._rows.get, self._times)
        if len(fitting) == 1:
            ((row, plainness),) = fitting.items()
            (self._keyed if key else self._own).setdefault(row, []).append((plainness, listed))
        elif fitting:
            self._shared[name] = [listed]
            self._clips_of_shared[name] = list(fitting)
            for row, plainness in fitting.items():
                self._shared_of_clip[row].append((plainness, name))

    def choose(self, row: int, no_file: str) -> Candidates | Rejected:
        """Returns the recordings of a clip, or why it has none.

        Args:
          row: the row of the clip.
          no_file: the detail if no recording has its name.
        """
        own, keyed = self._own.get(row, []), self._keyed.get(row, [])
        if len(keyed) == 1:
            own, keyed = own + keyed, []
        if own:
            if len(own) > 1:
                own = sorted(own, key=lambda each: (each[0], each[1].order))
            # A recording with an unknown extension may be there twice, by name and by stem.
            return tuple(dict.fromkeys(listed.recording for _, listed in own))
        if keyed:
            listed = sorted((each for _, each in keyed), key=lambda each: each.order)
            return Rejected(
                "ambiguous",
                f"{listed[0].recording} and {listed[1].recording} have the same key, and no id in "
                "a KEY.json says which one is the clip",
            )
        if row not in self._shared_of_clip:
            return Rejected("no_file", no_file)
        _, name = min(self._shared_of_clip[row])
        recordings = sorted(self._shared[name], key=lambda each: each.order)
        others = [
            each
            for each in self._clips_of_shared[name]
            if each != row and each not in self._own and each not in self._keyed
        ]
        if others:
            ids = (self._segments.clip_ids[each].as_py() for each in sorted([row, *others])[:2])
            what = f"{recordings[0].recording} may be the recording of {' and of '.join(ids)}"
            return Rejected("ambiguous", what)
        return tuple(listed.recording for listed in recordings)

    def _times(self, row: int) -> clip_names.Times:
        return float(self._segments.start_s[row]), float(self._segments.end_s[row])


def find_by_list(
    segments: Segments, list_path: _Path, audio_dir: _Path | None
) -> list[Candidates | Rejected]:
    """Finds the recording of each clip by a CSV with the columns `clip_id` and `path`.

    Paths are relative to `audio_dir` or, if it has no such file, to the folder of the CSV. Clips of
    the CSV that are not in the segments are ignored.

    Args:
      segments: the clips.
      list_path: the CSV.
      audio_dir: a folder, or None.

    Returns:
      For each clip its file, or the reason if there is none: `no_file`, or `outside` (the path
      leaves these folders).

    Raises:
      InputError: the CSV cannot be read, lacks a column, or has a clip twice; `audio_dir` is no
        folder.
    """
    paths = read_columns(list_path, "path")
    folders = [os.path.dirname(os.path.abspath(list_path))]
    if audio_dir is not None:
        if not os.path.isdir(audio_dir):
            raise InputError(f"{audio_dir}: no such folder; with --paths, --audio is one folder")
        folders.insert(0, os.path.abspath(audio_dir))

    def choose(clip_id: str) -> Candidates | Rejected:
        if clip_id not in paths:
            return Rejected("no_file", f"{list_path} has no row for it")
        path = paths[clip_id]
        places = [os.path.normpath(os.path.join(folder, path)) for folder in folders]
        inside = [
            place
            for folder, place in zip(folders, places, strict=True)
            if place.startswith(folder.rstrip(os.sep) + os.sep)
        ]
        if not inside:
            return Rejected("outside", f"{list_path}: {path!r} leaves {' and '.join(folders)}")
        for place in inside:
            if is_file(place):
                return (Recording(place),)
        return Rejected("no_file", f"{list_path}: no file {' or '.join(inside)}")

    return [choose(clip_id) for clip_id in segments.clip_ids.to_pylist()]


def _recordings(
    audio: _Path, options: SourceOptions | None, damaged: list[str]
) -> Iterator[tuple[str, str, _Listed]]:
    """Lists the recordings.

    Args:
      audio, options: see `find_by_name`.
      damaged: is extended by a line for each damaged file.

    Yields:
      The name of the recording without extension, its key (see `sources.Entry`), the recording.
    """
    files, packed = audio_files(audio)
    for place, path in files:
        name = os.path.basename(path)
        stem, extension = os.path.splitext(name)
        rank = _RANKS.get(extension.lower(), _RANK_OF_OTHERS)
        listed = _Listed(place, rank, Recording(path))
        yield stem, "", listed
        if rank == _RANK_OF_OTHERS and extension:  # perhaps the dot is in the name
            yield name, "", listed
    places = {path: place for place, path in reversed(packed)}
    num_missing = 0
    for entry in packed_entries(list(places), with_labels=False, options=options):
        if isinstance(entry.recording, Rejected):
            num_missing += entry.recording.reason == "missing"
            if entry.recording.reason != "missing":
                damaged.append(entry.recording.detail)
            continue
        place = places[entry.recording.path]
        yield entry.name, entry.key, _Listed(place, _RANK_OF_PACKED, entry.recording)
    warn_of_damage(damaged)
    if num_missing:
        warn(f"{audio}: {num_missing} places without a recording (missing clips)")
