"""Lists the recordings that `--audio` names: single files, and files with many recordings."""

import os
import pathlib
from collections.abc import Generator, Sequence

from data_prep import sources
from data_prep.sources import Entry, SourceOptions, huggingface
from relabel_jax.audio import places
from relabel_jax.audio.places import Place, Search
from relabel_jax.errors import InputError, Rejected
from relabel_jax.faults import refuse_system_fault
from relabel_jax.progress import track, write_line


def audio_places(audio: str | pathlib.Path) -> list[str]:
    """Returns the absolute paths of `places.audio_places`. Raises as it does."""
    return [os.path.abspath(place.path) for place in places.audio_places(audio)]


def audio_files(
    audio: str | pathlib.Path,
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Lists the files in `audio`, and says on stderr how many are not recordings.

    Returns:
      `(recordings, packed)`: the files that are one recording, and the files with many recordings.
      Each is a pair of the number of the place in `audio_places(audio)` and the path.

    Raises:
      InputError: a place cannot be listed.
    """
    named = [
        Place(os.path.abspath(place.path), place.is_named) for place in places.audio_places(audio)
    ]
    for place in named:
        is_file = place.is_named and os.path.isfile(place.path)
        if is_file and not place.path.lower().endswith(sources.EXTENSIONS):
            raise InputError(
                f"{place.path}: cannot list the recordings: not a folder, nor a file with many "
                f"recordings ({', '.join(sources.EXTENSIONS)}, not compressed)"
            )
    recordings: list[tuple[int, str]] = []
    packed: list[tuple[int, str]] = []
    search = Search(sources.EXTENSIONS)
    for number, path in search.in_places(named):
        extension = os.path.splitext(path)[1].lower()
        is_in_folder = path != named[number].path
        if extension == ".parquet" and is_in_folder and huggingface.is_other_table(path):
            write_line(f"{path}: left out, it has neither video_id nor audio")
            continue
        (packed if extension in sources.EXTENSIONS else recordings).append((number, path))
    for line in search.lines():
        write_line(f"{audio}: {line}")
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
            refuse_system_fault(error, path)
            yield Entry("", "", error)


def warn_of_damage(details: Sequence[str]) -> None:
    """Prints one warning for each damaged file."""
    for detail in details:
        warn(f"{detail}; continuing without the rest of it")


def warn(text: str) -> None:
    """Prints a warning on stderr."""
    write_line(f"warning: {text}")
