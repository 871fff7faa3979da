"""Which file is the recording of which clip: by the file's name, or by a `clip_id,path` CSV.

Ids never become paths. The folder is listed once, and each clip looks its possible file names up in
that list; an id with `/` or `..` in it finds nothing.

A file's name without its extension may be, for a clip X from 30 s to 40 s, in order of preference:

    X, YX, X_30_40, X_30

with times in seconds (30, 30.0, 30.00, 30.000) or milliseconds (30000). The id's own name comes
first: if both X and YX are clips, then YX.wav is the second one's. Of several files with one name
(X.wav and X.flac, or X.wav in two folders) the first extension in `EXTENSIONS` is taken, and of
these the path that sorts first.
"""

import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from data_prep.audio import Rejected
from data_prep.segments import Segments
from relabel_jax.errors import InputError

EXTENSIONS = (".wav", ".flac", ".aiff", ".aif", ".caf", ".ogg", ".oga", ".opus", ".mp3")


def find_by_name(segments: Segments, audio_dir: str | pathlib.Path) -> list[str | Rejected]:
    """The recording of each clip among the files below `audio_dir`.

    Returns:
      For each clip its file's path, or why there is none: `no_file`, or `ambiguous` (the name of a
      file fits two clips and is the id of neither).

    Raises:
      InputError: `audio_dir` cannot be listed.
    """
    clip_ids = segments.clip_ids.to_pylist()
    names = set(clip_ids)
    files = _list_recordings(audio_dir)
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

    def choose(stem: str | None) -> str | Rejected:
        if stem is None:
            return Rejected("no_file", f"no recording of that name below {audio_dir}")
        if stem in ambiguous:
            both = f"{claimed[stem]} and of {ambiguous[stem]}"
            return Rejected("ambiguous", f"{files[stem]} may be the recording of {both}")
        return files[stem]

    return [choose(stem) for stem in stems]


def find_by_list(
    segments: Segments, list_path: str | pathlib.Path, audio_dir: str | pathlib.Path | None
) -> list[str | Rejected]:
    """The recording of each clip by a CSV with the columns `clip_id` and `path`.

    Paths are relative to `audio_dir` or, where that has no such file, to the CSV's own folder.
    Clips of the CSV that are not in the segments are passed over.

    Returns:
      For each clip its file's path, or why there is none: `no_file`, or `outside` (the path leaves
      these folders).

    Raises:
      InputError: the CSV cannot be read, lacks a column, or has a clip twice.
    """
    paths = read_columns(list_path, "path")
    folders = [os.path.dirname(os.path.abspath(list_path))]
    if audio_dir is not None:
        folders.insert(0, os.path.abspath(audio_dir))

    def choose(clip_id: str) -> str | Rejected:
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
                return place
        return Rejected("no_file", f"{list_path}: no file {' or '.join(inside)}")

    return [choose(clip_id) for clip_id in segments.clip_ids.to_pylist()]


def read_columns(path: str | pathlib.Path, value_column: str) -> dict[str, str]:
    """A CSV with a header line and the columns `clip_id` and `value_column`, as a dict.

    Raises:
      InputError: the CSV cannot be read, lacks a column, or has a clip twice.
    """
    names = ("clip_id", value_column)
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
    counts = pc.value_counts(table["clip_id"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(
            f"{path}: {len(twice)} clips stand more than once, the first is {twice[0].as_py()!r}; "
            "expected one row a clip; remove the duplicate rows"
        )
    return dict(zip(*(table[name].to_pylist() for name in names), strict=True))


def _list_recordings(audio_dir: str | pathlib.Path) -> dict[str, str]:
    """Name without extension -> path of the preferred file, for every recording in the folder."""

    def refuse(error: OSError):
        raise InputError(f"{error.filename}: cannot list the recordings: {error.strerror}")

    best: dict[str, tuple[int, str]] = {}
    seen: set[str] = set()
    for folder, folders, names in os.walk(
        os.path.abspath(audio_dir), onerror=refuse, followlinks=True
    ):
        real_folder = os.path.realpath(folder)
        if real_folder in seen:  # linked folders may form a circle
            folders.clear()
            continue
        seen.add(real_folder)
        folders.sort()
        for name in names:
            stem, extension = os.path.splitext(name)
            if (extension := extension.lower()) in EXTENSIONS:
                file = (EXTENSIONS.index(extension), os.path.join(folder, name))
                best[stem] = min(best.get(stem, file), file)
    return {stem: path for stem, (_, path) in best.items()}


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
