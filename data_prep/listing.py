"""Lists the recordings that `--audio` names: single files, and files with many recordings."""

import glob
import os
import pathlib
from collections.abc import Generator, Sequence

from data_prep import sources
from data_prep.sources import Entry, SourceOptions
from relabel_jax.audio.decode import EXTENSIONS, list_recordings
from relabel_jax.errors import InputError, Rejected
from relabel_jax.progress import track, write_line


def audio_places(audio: str | pathlib.Path) -> list[str]:
    """Returns the folders and files that `--audio` names: one, or several with commas or wildcards.

    Raises:
      InputError: a name is empty.
    """
    places: list[str] = []
    for item in [os.fspath(audio)] if os.path.exists(audio) else os.fspath(audio).split(","):
        if not item:  # an empty name would mean the current folder
            raise InputError(f"--audio={audio}: an empty name; expected folders or files")
        found = [item] if os.path.exists(item) else sorted(glob.glob(item, recursive=True))
        places += found or [item]
    return [os.path.abspath(place) for place in places]


def audio_files(
    audio: str | pathlib.Path,
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Lists the files in `audio`.

    Returns:
      `(recordings, packed)`: the files that are one recording, and the files with many recordings.
      Each is a pair of the number of the place in `audio_places(audio)` and the path.

    Raises:
      InputError: a place cannot be listed.
    """
    recordings: list[tuple[int, str]] = []
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
                recordings.append((place, path))
            elif extension in sources.EXTENSIONS:
                packed.append((place, path))
    return recordings, packed


def packed_entries(
    paths: Sequence[str], *, with_labels: bool, options: SourceOptions | None = None
) -> Generator[Entry, None, None]:
    """Yields the entries of files with many recordings.

    The last entry of a damaged file has a `Rejected` in place of a recording.
    """
    for path in track(paths, "listing", "files"):
        try:
            yield from sources.open_source(path, options).entries(with_labels)
        except Rejected as error:
            yield Entry("", "", error)


def warn_of_damage(details: Sequence[str]) -> None:
    """Prints one warning for each damaged file."""
    for detail in details:
        warn(f"{detail}; continuing without the rest of it")


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    write_line(f"warning: {text}")
