"""Which recording is which clip's: by its name, by a `clip_id,path` CSV, or as a source says.

Ids never become paths. Folders and files with many recordings (`data_prep.sources`) are listed
once, and each clip looks its possible names up in that list; an id with `/` or `..` in it finds
nothing.

A recording's name without its extension may be, for a clip X from 30 s to 40 s, in order of
preference:

    X, YX, X_30_40, X_30

with times in seconds (30, 30.0, 30.00, 30.000) or milliseconds (30000). The id's own name comes
first: if both X and YX are clips, then YX.wav is the second one's. Of several recordings with one
name the one in the folder or file that `--audio` names first is taken; in a folder with X.wav and
X.flac, or X.wav in two subfolders, the first extension in `EXTENSIONS`, and of these the path that
sorts first; files with many recordings come after these.
"""

import contextlib
import glob
import itertools
import os
import pathlib
import sys
from collections.abc import Generator, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import tqdm

from data_prep import sources
from data_prep.segments import Segments
from data_prep.sources import Entry, Recording
from relabel_jax.audio.decode import EXTENSIONS, list_recordings
from relabel_jax.data.schema import DURATION_S
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.ontology import Ontology

_Path = str | pathlib.Path


def audio_places(audio: _Path) -> list[str]:
    """The folders and files that `--audio` names: one, or several with commas; wildcards too.

    Raises:
      InputError: a name is empty.
    """
    places: list[str] = []
    for item in [os.fspath(audio)] if os.path.exists(audio) else os.fspath(audio).split(","):
        if not item:  # else the current folder
            raise InputError(f"--audio={audio}: an empty name; expected folders or files")
        found = [item] if os.path.exists(item) else sorted(glob.glob(item, recursive=True))
        places += found or [item]
    return [os.path.abspath(place) for place in places]


def find_by_name(segments: Segments, audio: _Path) -> list[Recording | Rejected]:
    """The recording of each clip among those in `audio`.

    Returns:
      For each clip its recording, or why there is none: `no_file`, or `ambiguous` (the name of a
      recording fits two clips and is the id of neither).

    Raises:
      InputError: `audio` cannot be listed.
    """
    clip_ids = segments.clip_ids.to_pylist()
    names = set(clip_ids)
    files, damaged = _list_recordings(audio)
    stems: list[str | None] = []
    claimed: dict[str, str] = {}  # by a file's name, the clip that it fits
    ambiguous: dict[str, str] = {}  # the same, a second clip
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
    if damaged:  # of many the first: this stands beside every clip that is missing
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
    """The recording of each clip by a CSV with the columns `clip_id` and `path`.

    Paths are relative to `audio_dir` or, where that has no such file, to the CSV's own folder.
    Clips of the CSV that are not in the segments are passed over.

    Returns:
      For each clip its file, or why there is none: `no_file`, or `outside` (the path leaves these
      folders).

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


def label_by_source(
    audio: _Path, ontology: Ontology, class_mids: Sequence[str] | None
) -> tuple[Segments, list[Recording | Rejected]]:
    """The clips, labels and recordings of sources that carry labels themselves.

    Args:
      audio: as of `find_by_name`; recordings in files of their own have no labels: passed over.
      ontology: says which mids and names there are.
      class_mids: what class numbers mean, where labels are numbers.

    Returns:
      `(segments, recordings)`, in the order of the sources. Times are 0 and 10 s: the sources do
      not say where in the original a clip lies. For each clip its recording, or why it cannot be
      used: `missing` (no name; its id is ""), `no_labels`, `bad_labels`, `unreadable` (the rest of
      a damaged file; its id is ""). Of clips with one id the first is taken.

    Raises:
      InputError: `audio` cannot be listed or has no labels; labels are numbers without
        `class_mids`.
    """
    clip_ids: list[str] = []
    labels: list[list[int]] = []
    recordings: list[Recording | Rejected] = []
    seen: set[str] = set()
    known: dict[str | int, int] = {}

    def class_number(label: str | int) -> int:
        if isinstance(label, int):
            if class_mids is None:
                raise InputError(
                    f"{audio}: its labels are class numbers; say what they mean with "
                    "--class_indices=class_labels_indices.csv"
                )
            if not 0 <= label < len(class_mids):
                raise Rejected("bad_labels", f"no class number {label} of {len(class_mids)}")
            label = class_mids[label]
        try:
            return ontology.find(label)
        except InputError as error:
            raise Rejected("bad_labels", str(error)) from error

    def class_numbers(entry: Entry) -> list[int]:
        if isinstance(entry.labels, Rejected):
            raise entry.labels
        if class_mids is not None and entry.num_classes not in (0, len(class_mids)):
            raise InputError(
                f"{entry.recording}: has labels of {entry.num_classes} classes, but "
                f"--class_indices has {len(class_mids)}; give the list that belongs to it"
            )
        if not entry.labels:
            raise Rejected("no_labels", f"{entry.recording} has no labels")
        try:
            for label in entry.labels:
                if label not in known:
                    known[label] = class_number(label)
        except Rejected as error:
            raise Rejected(error.reason, f"{entry.recording}: {error}") from error
        return sorted({known[label] for label in entry.labels})

    num_repeated = 0
    damaged: list[str] = []
    paths = [path for _, path in _files(audio)[1]]
    with contextlib.closing(_entries(paths, with_labels=True)) as entries:
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
                    numbers = class_numbers(entry)
                except Rejected as error:
                    recording = error
            clip_ids.append(entry.clip_id)
            labels.append(numbers)
            recordings.append(recording)
    _warn_of_damage(damaged)
    if not any(labels):
        why = next((f": {each}" for each in recordings if isinstance(each, Rejected)), "")
        raise InputError(
            f"{audio}: no labelled recordings{why}; give --segments=CSV, or sources with labels "
            f"({', '.join(sources.EXTENSIONS)})"
        )
    if num_repeated:
        _warn(f"{audio}: {num_repeated} recordings have the id of an earlier one: left out")
    segments = Segments(
        clip_ids=pa.array(clip_ids, pa.string()),
        start_s=np.zeros(len(clip_ids)),
        end_s=np.full(len(clip_ids), float(DURATION_S)),
        labels=pa.array(labels, pa.list_(pa.int16())),
    )
    return segments, recordings


def read_class_indices(path: _Path) -> list[str]:
    """The mids of AudioSet's `class_labels_indices.csv` (index, mid, display_name), by index.

    Raises:
      InputError: it cannot be read, or the indices are not 0, 1, 2 and so on.
    """
    by_index = read_columns(path, "mid", key_column="index")
    try:
        return [by_index[str(number)] for number in range(len(by_index))]
    except KeyError as error:
        raise InputError(
            f"{path}: no index {error}; expected AudioSet's class_labels_indices.csv, with the "
            f"indices 0 to {len(by_index) - 1}"
        ) from error


def read_columns(path: _Path, value_column: str, key_column: str = "clip_id") -> dict[str, str]:
    """Two columns of a CSV with a header line, as a dict.

    Raises:
      InputError: the CSV cannot be read, lacks a column, or has a key twice.
    """
    names = (key_column, value_column)
    try:
        table = pa.csv.read_csv(
            path,
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except (OSError, pa.ArrowInvalid) as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot read it as a CSV: {first_line}") from error
    for name in names:
        if name not in table.column_names:
            raise InputError(
                f"{path}: no column {name!r} (found {', '.join(table.column_names)}); expected a "
                f"header line with the columns {' and '.join(names)}"
            )
    counts = pc.value_counts(table[key_column])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(
            f"{path}: {len(twice)} clips stand more than once, the first is {twice[0].as_py()!r}; "
            "expected one row a clip; remove the duplicate rows"
        )
    return dict(zip(*(table[name].to_pylist() for name in names), strict=True))


def _list_recordings(audio: _Path) -> tuple[dict[str, Recording], list[str]]:
    """Name without extension -> the preferred recording of that name; and what is damaged."""
    files, packed = _files(audio)
    best: dict[str, tuple[tuple[int, int, str], Recording]] = {}
    for place, path in files:
        stem, extension = os.path.splitext(os.path.basename(path))
        rank = (place, EXTENSIONS.index(extension.lower()), path)
        if stem not in best or rank < best[stem][0]:
            best[stem] = (rank, Recording(path))
    places = {path: place for place, path in reversed(packed)}
    damaged: list[str] = []
    num_missing = 0
    for entry in _entries(list(places), with_labels=False):
        if isinstance(entry.recording, Rejected):
            num_missing += entry.recording.reason == "missing"
            if entry.recording.reason != "missing":
                damaged.append(entry.recording.detail)
            continue
        rank = (places[entry.recording.path], len(EXTENSIONS), entry.recording.path)
        if entry.name not in best or rank < best[entry.name][0]:
            best[entry.name] = (rank, entry.recording)
    _warn_of_damage(damaged)
    if num_missing:
        _warn(f"{audio}: {num_missing} places without a recording (missing clips)")
    return {stem: recording for stem, (_, recording) in best.items()}, damaged


def _entries(paths: Sequence[str], *, with_labels: bool) -> Generator[Entry, None, None]:
    """What lies in files with many recordings; a damaged file's last entry says so."""
    with tqdm.tqdm(paths, desc="listing", unit="file", disable=not paths) as bar:
        for path in bar:
            try:
                yield from sources.open_source(path).entries(with_labels)
            except Rejected as error:
                yield Entry("", "", error)


def _files(audio: _Path) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """The recordings, and the files with many recordings, each as number of the place, and path."""
    files: list[tuple[int, str]] = []
    packed: list[tuple[int, str]] = []
    for place, item in enumerate(audio_places(audio)):
        if os.path.isfile(item) and not item.lower().endswith(sources.EXTENSIONS):
            raise InputError(
                f"{item}: cannot list the recordings: not a folder, nor a file with many "
                f"recordings ({', '.join(sources.EXTENSIONS)}, not compressed)"
            )
        for path in (
            [item]
            if os.path.isfile(item)
            else list_recordings(item, (*EXTENSIONS, *sources.EXTENSIONS))
        ):
            extension = os.path.splitext(path)[1].lower()
            if extension in EXTENSIONS:
                files.append((place, path))
            elif extension in sources.EXTENSIONS:
                packed.append((place, path))
    return files, packed


def _warn_of_damage(details: Sequence[str]) -> None:
    for detail in details:
        _warn(f"{detail}; going on without the rest of it")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _possible_stems(clip_id: str, start_s: float, end_s: float) -> Iterator[str]:
    """The names, without extension, that the clip's recording may have; the preferred first."""
    yield clip_id
    yield f"Y{clip_id}"
    starts, ends = _spellings(start_s), _spellings(end_s)
    for start, end in itertools.product(starts, ends):
        yield f"{clip_id}_{start}_{end}"
    for start in starts:
        yield f"{clip_id}_{start}"


def _spellings(time_s: float) -> Sequence[str]:
    """7.5 -> 7.5, 7.50, 7.500, 7500."""
    milliseconds = round(time_s * 1000)
    exact = [f"{milliseconds / 1000:.{digits}f}" for digits in range(4)]
    return [text for text in exact if round(float(text) * 1000) == milliseconds] + [
        str(milliseconds)
    ]
