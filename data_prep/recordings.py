"""Finds the recording of each clip, by name or by a CSV of `clip_id,path`.

Ids never become paths. Folders and files with many recordings (`data_prep.sources`) are listed
once, and the possible names of each clip are looked up in that list. An id with `/` or `..` finds
nothing.

For a clip X from 30 s to 40 s, the name of a recording without its extension may be, in order of
preference:

    X, YX, X_30_40, X_30

with times in seconds (30, 30.0, 30.00, 30.000) or milliseconds (30000). A name that is the id of a
clip belongs to that clip: if both X and YX are clips, then YX.wav belongs to YX. If several
recordings have the same name, the one in the folder or file that `--audio` names first is chosen.
Within a folder, the first extension in `EXTENSIONS` is chosen, then the path that sorts first.
Files with many recordings come last.
"""

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

from data_prep.listing import audio_files, packed_entries, warn, warn_of_damage
from data_prep.sources import Recording, SourceOptions
from relabel_jax.audio.decode import EXTENSIONS
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.segments import Segments

_Path = str | pathlib.Path


def find_by_name(
    segments: Segments, audio: _Path, options: SourceOptions | None = None
) -> list[Recording | Rejected]:
    """Finds the recording of each clip among those in `audio`, by their names.

    Args:
      segments: the clips.
      audio: see `listing.audio_places`.
      options: what the user says about files with many recordings.

    Returns:
      For each clip its recording, or the reason if there is none: `no_file`, or `ambiguous` (the
      name of a recording fits two clips and is the id of neither).

    Raises:
      InputError: `audio` cannot be listed.
    """
    clip_ids = segments.clip_ids.to_pylist()
    names = set(clip_ids)
    files, damaged = _list_recordings(audio, options)
    stems: list[str | None] = []
    claimed: dict[str, str] = {}  # the clip that a recording fits, by name of the recording
    ambiguous: dict[str, str] = {}  # a second clip that it fits
    for clip_id, start_s, end_s in zip(
        clip_ids, segments.start_s.tolist(), segments.end_s.tolist(), strict=True
    ):
        stem = next(
            (
                stem
                for stem in _possible_stems(clip_id, start_s, end_s)
                if stem in files and (stem == clip_id or stem not in names)
            ),
            None,
        )
        stems.append(stem)
        if stem is not None and claimed.setdefault(stem, clip_id) != clip_id:
            ambiguous[stem] = clip_id

    no_file = f"no recording of that name in {audio}"
    if damaged:  # names only the first, because each missing clip gets this text
        number = f"{len(damaged)} damaged files, the first: " if len(damaged) > 1 else ""
        no_file += f"; {number}{damaged[0]}"

    def choose(stem: str | None) -> Recording | Rejected:
        if stem is None:
            return Rejected("no_file", no_file)
        if stem in ambiguous:
            both = f"{claimed[stem]} and of {ambiguous[stem]}"
            return Rejected("ambiguous", f"{files[stem]} may be the recording of {both}")
        return files[stem]

    return [choose(stem) for stem in stems]


def find_by_list(
    segments: Segments, list_path: _Path, audio_dir: _Path | None
) -> list[Recording | Rejected]:
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

    def choose(clip_id: str) -> Recording | Rejected:
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
                return Recording(place)
        return Rejected("no_file", f"{list_path}: no file {' or '.join(inside)}")

    return [choose(clip_id) for clip_id in segments.clip_ids.to_pylist()]


def _list_recordings(
    audio: _Path, options: SourceOptions | None
) -> tuple[dict[str, Recording], list[str]]:
    """Lists the recordings.

    Returns:
      The preferred recording of each name without extension; and a line for each damaged file.
    """
    files, packed = audio_files(audio)
    best: dict[str, tuple[tuple[int, int, str], Recording]] = {}
    for place, path in files:
        stem, extension = os.path.splitext(os.path.basename(path))
        rank = (place, EXTENSIONS.index(extension.lower()), path)
        if stem not in best or rank < best[stem][0]:
            best[stem] = (rank, Recording(path))
    places = {path: place for place, path in reversed(packed)}
    damaged: list[str] = []
    num_missing = 0
    for entry in packed_entries(list(places), with_labels=False, options=options):
        if isinstance(entry.recording, Rejected):
            num_missing += entry.recording.reason == "missing"
            if entry.recording.reason != "missing":
                damaged.append(entry.recording.detail)
            continue
        rank = (places[entry.recording.path], len(EXTENSIONS), entry.recording.path)
        if entry.name not in best or rank < best[entry.name][0]:
            best[entry.name] = (rank, entry.recording)
    warn_of_damage(damaged)
    if num_missing:
        warn(f"{audio}: {num_missing} places without a recording (missing clips)")
    return {stem: recording for stem, (_, recording) in best.items()}, damaged


def _possible_stems(clip_id: str, start_s: float, end_s: float) -> Iterator[str]:
    """Yields the names, without extension, that a clip's recording may have, best first."""
    yield clip_id
    yield f"Y{clip_id}"
    starts, ends = _spellings(start_s), _spellings(end_s)
    for start, end in itertools.product(starts, ends):
        yield f"{clip_id}_{start}_{end}"
    for start in starts:
        yield f"{clip_id}_{start}"


def _spellings(time_s: float) -> Sequence[str]:
    """Returns the spellings of a time in file names: 7.5, 7.50, 7.500 and 7500 for 7.5 s."""
    milliseconds = round(time_s * 1000)
    exact = [f"{milliseconds / 1000:.{digits}f}" for digits in range(4)]
    return [text for text in exact if round(float(text) * 1000) == milliseconds] + [
        str(milliseconds)
    ]
