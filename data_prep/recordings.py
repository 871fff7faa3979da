"""Finds the recordings of each clip, by name or by a CSV of `clip_id,path`.

Ids never become paths. Folders and files with many recordings (`data_prep.sources`) are listed
once, and each name is looked up among the clips (`relabel_jax.labels.clip_names`). An id with `/`
or `..` finds nothing.

If several recordings fit a clip, they are tried in this order until one can be read: the plainest
name first (ID, YID, with two times, with one, with a title), then the place that `--audio` names
first, then single files before files with many recordings, then the extension that comes first in
`EXTENSIONS`, then the path that sorts first. A name that fits several clips serves a clip only if
all the others have recordings of their own.
"""

import collections
import os
import pathlib

from data_prep.listing import audio_files, packed_entries, warn, warn_of_damage
from data_prep.sources import Recording, SourceOptions
from relabel_jax.audio.decode import EXTENSIONS
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels import clip_names
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.segments import Segments

_Path = str | pathlib.Path
Candidates = tuple[Recording, ...]
"""The recordings of a clip, in the order in which they are tried."""
_Ranked = tuple[tuple[int, int, str], Recording]
"""A recording and its rank: the number of its place, the rank of its extension, and its path."""


def find_by_name(
    segments: Segments, audio: _Path, options: SourceOptions | None = None
) -> list[Candidates | Rejected]:
    """Finds the recordings of each clip among those in `audio`, by their names.

    Args:
      segments: the clips.
      audio: see `listing.audio_places`.
      options: what the user says about files with many recordings.

    Returns:
      For each clip its recordings in the order in which they are tried, or the reason if there is
      none: `no_file`, or `ambiguous` (the name of a recording fits several clips).

    Raises:
      InputError: `audio` cannot be listed.
    """
    rows = {clip_id: row for row, clip_id in enumerate(segments.clip_ids.to_pylist())}
    times = list(zip(segments.start_s.tolist(), segments.end_s.tolist(), strict=True))
    recordings, damaged = _list_recordings(audio, options)
    own: dict[int, list[tuple[int, _Ranked]]] = collections.defaultdict(list)
    shared: dict[int, list[tuple[int, str]]] = collections.defaultdict(list)
    clips_of_shared: dict[str, list[int]] = {}
    for name, ranked in recordings.items():
        fitting = clip_names.clips_of_name(name, rows.get, times.__getitem__)
        if len(fitting) == 1:
            ((row, plainness),) = fitting.items()
            own[row] += [(plainness, each) for each in ranked]
        elif fitting:
            clips_of_shared[name] = list(fitting)
            for row, plainness in fitting.items():
                shared[row].append((plainness, name))

    no_file = f"no recording of that name in {audio}"
    if damaged:  # names only the first, because each missing clip gets this text
        number = f"{len(damaged)} damaged files, the first: " if len(damaged) > 1 else ""
        no_file += f"; {number}{damaged[0]}"

    def choose(row: int) -> Candidates | Rejected:
        if row in own:
            return tuple(recording for _, (_, recording) in sorted(own[row], key=_rank))
        if row not in shared:
            return Rejected("no_file", no_file)
        _, name = min(shared[row])
        others = [each for each in clips_of_shared[name] if each != row and each not in own]
        if others:
            ids = (segments.clip_ids[each].as_py() for each in sorted([row, *others])[:2])
            what = f"{recordings[name][0][1]} may be the recording of {' and of '.join(ids)}"
            return Rejected("ambiguous", what)
        return tuple(recording for _, recording in sorted(recordings[name], key=_place))

    return [choose(row) for row in range(len(segments))]


def _rank(candidate: "tuple[int, _Ranked]") -> tuple:
    plainness, ranked = candidate
    return plainness, *_place(ranked)


def _place(ranked: "_Ranked") -> tuple[int, int, str, str]:
    return *ranked[0], ranked[1].member


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
            if os.path.isfile(place):
                return (Recording(place),)
        return Rejected("no_file", f"{list_path}: no file {' or '.join(inside)}")

    return [choose(clip_id) for clip_id in segments.clip_ids.to_pylist()]


def _list_recordings(
    audio: _Path, options: SourceOptions | None
) -> tuple[dict[str, list[_Ranked]], list[str]]:
    """Lists the recordings.

    Returns:
      By name without extension the recordings and their ranks; and a line for each damaged file.
    """
    files, packed = audio_files(audio)
    found: dict[str, list[_Ranked]] = collections.defaultdict(list)
    for place, path in files:
        stem, extension = os.path.splitext(os.path.basename(path))
        rank = (place, EXTENSIONS.index(extension.lower()), path)
        found[stem].append((rank, Recording(path)))
    places = {path: place for place, path in reversed(packed)}
    damaged: list[str] = []
    num_missing = 0
    for entry in packed_entries(list(places), with_labels=False, options=options):
        if isinstance(entry.recording, Rejected):
            num_missing += entry.recording.reason == "missing"
            if entry.recording.reason != "missing":
                damaged.append(entry.recording.detail)
            continue
        path = entry.recording.path
        found[entry.name].append(((places[path], len(EXTENSIONS), path), entry.recording))
    warn_of_damage(damaged)
    if num_missing:
        warn(f"{audio}: {num_missing} places without a recording (missing clips)")
    return found, damaged
