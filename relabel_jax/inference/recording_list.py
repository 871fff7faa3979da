"""The list of the recordings that `relabel_jax.embed` embeds, kept while it is at work.

The list has the size and the time of modification of each recording. So the command notices if a
recording is replaced later.
"""

import array
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from relabel_jax.audio.places import EXTENSIONS, Search, audio_places, path_of_text, path_text
from relabel_jax.errors import InputError
from relabel_jax.faults import read_patiently
from relabel_jax.files import complete_file, read_json, reading, write_json
from relabel_jax.inference.output import Output
from relabel_jax.progress import track, write_line

_FORM = 2  # of the list; version 1 had only paths
_PATHS_PER_STEP = 1 << 16


class Listed(NamedTuple):
    """A recording of the list.

    Attributes:
      path: its path, as found below `--audio`.
      state: its size and its time of modification, or "" if it had none, as a broken link.
    """

    path: str
    state: str

    def has_changed(self) -> bool:
        """Whether another file is there now. A file that is gone has not changed."""
        state = _state(self.path)
        return state not in ("", self.state)


class RecordingList:
    """The list of recordings, in the folder of the parts.

    It is written once. So a command that is started again embeds the same recordings in the same
    order.
    """

    def __init__(self, parts: pathlib.Path):
        self._path = parts / "plan.json"
        self._list_path = parts / "recordings"

    @property
    def exists(self) -> bool:
        """Whether the list is written."""
        return self._path.exists()

    def begin(self, identity: dict[str, Any], audio: str) -> int:
        """Writes the list, unless it exists, and returns the number of recordings.

        It says on stderr how many files are not recordings.

        Args:
          identity: the arguments of the command. They must be the same when it is started again.
          audio: folders and files, see `places.audio_places`.

        Raises:
          InputError: the list was written with another identity or by an older version, a place
            cannot be listed, or there are no recordings.
        """
        if self.exists:
            return self._begun(identity)
        search = Search()
        found = _find_recordings(audio, search)
        number = self._write(track(found, "listing", "recordings"))
        for line in search.lines():
            write_line(f"{audio}: {line}")
        if not number:
            raise InputError(
                f"--audio={audio}: no recordings below it; expected files that end in "
                f"{', '.join(EXTENSIONS)}, or that begin as recordings do"
            )
        write_json(self._path, identity | {"form": _FORM, "num_recordings": number})
        return number

    def begin_with(self, identity: dict[str, Any], before: Output) -> int:
        """Does the same as `begin` with the rejected recordings of a complete output.

        Raises:
          InputError: there are none, or the list was written with another identity.
        """
        if self.exists:
            return self._begun(identity)
        if not before.rejected:
            raise InputError(f"{before.path}: has no rejected recordings to try again")
        number = self._write(map(path_of_text, before.rejected))
        about = {"form": _FORM, "num_recordings": number, "rows_before": before.num_rows}
        write_json(self._path, identity | about)
        return number

    def is_to_do(self, output: pathlib.Path) -> bool:
        """Whether the output is not made of the recordings of the list yet."""
        if not output.exists():
            return True
        # An output that got no further rows may be written again.
        return read_json(self._path).get("rows_before") == pq.read_metadata(output).num_rows

    def _write(self, paths: Iterable[str]) -> int:
        number = 0
        with complete_file(self._list_path) as temporary, open(temporary, "wb") as file:
            for path in paths:
                # A name may have line ends.
                file.write(os.fsencode(path) + b"\0" + _state(path).encode() + b"\0")
                number += 1
        return number

    def _begun(self, identity: dict[str, Any]) -> int:
        parts = self._path.parent
        before = read_json(self._path)
        for field, value in identity.items():
            if before.get(field) != value:
                raise InputError(
                    f"{parts}: was begun with {field} {before.get(field)!r}, not {value!r}; "
                    f"give the same, or delete {parts} to begin again"
                )
        if before.get("form") != _FORM:
            raise InputError(
                f"{parts}: was begun by an older version; delete {parts} to begin again"
            )
        return before["num_recordings"]

    def read(self, first: int = 0) -> Iterator[tuple[int, Listed]]:
        """Yields the number of each recording and the recording, beginning with number `first`."""

        def fields() -> Iterator[str]:
            rest = b""
            with reading(self._list_path), open(self._list_path, "rb") as file:
                while block := file.read(1 << 16):
                    *texts, rest = (rest + block).split(b"\0")
                    yield from map(os.fsdecode, texts)

        each = fields()
        return itertools.islice(enumerate(map(Listed, each, each)), first, None)

    def changed(self, audio: str) -> set[str]:
        """Compares the list with the files that are there now, and says on stderr what differs.

        Args:
          audio: see `begin`.

        Returns:
          The texts of the paths (`places.path_text`) where another file is now.

        Raises:
          InputError: a place cannot be listed.
        """
        hashes = array.array("q")  # of the paths: the paths themselves would take much memory
        changed: list[str] = []
        gone = _Some("gone")
        for _, listed in self.read():
            hashes.append(hash(listed.path))
            if listed.has_changed():
                changed.append(listed.path)
            elif listed.state and not _state(listed.path):
                gone.add(listed.path)
        known = np.sort(np.frombuffer(hashes, np.int64))
        new = _Some("new")
        found = _find_recordings(audio, Search())
        while paths := list(itertools.islice(found, _PATHS_PER_STEP)):
            numbers = np.array([hash(path) for path in paths], np.int64)
            places = np.minimum(np.searchsorted(known, numbers), len(known) - 1)
            for i in np.flatnonzero(known[places] != numbers):
                new.add(paths[i])
        differences = [str(new), str(gone), str(_Some("changed", len(changed), *changed[:1]))]
        if any(differences):
            parts = self._path.parent
            write_line(
                f"warning: the recordings are not those of the start: "
                f"{', '.join(filter(None, differences))}; continuing with the list of the start: "
                f"new ones are left out and changed ones rejected; delete {parts} to begin again"
            )
        return set(map(path_text, changed))


@dataclasses.dataclass
class _Some:
    """Counts recordings and remembers the first."""

    what: str
    number: int = 0
    first: str = ""

    def add(self, path: str) -> None:
        self.first = self.first or path
        self.number += 1

    def __str__(self) -> str:
        if not self.number:
            return ""
        first = "" if self.number == 1 else "the first "
        return f"{self.number:,} {self.what} ({first}{path_text(self.first)})"


def _find_recordings(audio: str, search: Search) -> Iterator[str]:
    places = audio_places(audio)
    for place in places:
        if place.is_named and not os.path.exists(place.path):
            raise InputError(f"--audio: {place.path}: no such file or folder")
    for _, path in search.in_places(places):
        yield path


def _state(path: str) -> str:
    try:
        found = read_patiently(lambda: os.stat(path), path_text(path))
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"
