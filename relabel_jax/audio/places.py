"""Finds recordings in folders and in the places that `--audio` names.

A file is a recording if its name says so (`EXTENSIONS`, in any case), or else if its first bytes
do. This includes hidden files. So a recording with a usual name is not opened, and one with an
unusual name or without an extension is not passed over. The other files are counted, and
`Search.lines` describes them.
"""

import collections
import glob
import io
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from relabel_jax.audio import signatures
from relabel_jax.errors import InputError
from relabel_jax.faults import system_fault

EXTENSIONS = (
    ".wav",
    ".flac",
    ".aiff",
    ".aif",
    ".caf",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".m4a",
    ".mp4",
    ".webm",
    ".mkv",
    ".mka",
    ".aac",
    ".wma",
    ".aifc",
    ".au",
    ".snd",
    ".w64",
    ".rf64",
    ".bw64",
    ".voc",
    ".sph",
    ".nist",
    ".mp2",
    ".mpga",
    ".m4b",
    ".ac3",
    ".eac3",
    ".amr",
    ".ape",
    ".dts",
    ".mpc",
    ".oma",
    ".qcp",
    ".spx",
    ".tak",
    ".tta",
    ".weba",
    ".wv",
    ".3g2",
    ".3gp",
    ".asf",
    ".avi",
    ".flv",
    ".m4v",
    ".mov",
    ".mpeg",
    ".mpg",
    ".ogv",
    ".wmv",
)
"""The usual extensions of recordings.

If several recordings have the same name, the one whose extension comes first is used.
"""

_ARCHIVE = re.compile(
    rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!|PK\x03\x04|.{257}ustar",
    re.DOTALL,
)
_SIMPLE_EXTENSION = re.compile(r"\.\w{1,9}", re.ASCII)
_MAX_KINDS = 6


class Place(NamedTuple):
    """A folder or a file that `--audio` names.

    Attributes:
      path: its path.
      is_named: whether the user named it; else a wildcard found it.
    """

    path: str
    is_named: bool


def audio_places(audio: str | os.PathLike[str]) -> list[Place]:
    """Returns the places that `--audio` names: one, or several with commas or wildcards.

    Raises:
      InputError: a name is empty.
    """
    places: list[Place] = []
    for item in [os.fspath(audio)] if os.path.exists(audio) else os.fspath(audio).split(","):
        if not item:  # an empty name would mean the current folder
            raise InputError(f"--audio={audio}: an empty name; expected folders or files")
        found = [] if os.path.exists(item) else sorted(glob.glob(item, recursive=True))
        places += [Place(path, False) for path in found] or [Place(item, True)]
    return places


class Search:
    """A search for recordings, which also counts the other files.

    Args:
      packed: extensions of files with many recordings, in lower case. The search finds these too.

    Attributes:
      kinds: number of files that are not recordings, by extension or kind.
      archives: paths of archives and compressed files, which are not searched.
    """

    def __init__(self, packed: tuple[str, ...] = ()):
        self._packed = packed
        self._folders: set[str] = set()  # real paths of the folders that were listed
        self._files: set[str] = set()  # absolute paths of the files that are places
        self.kinds: collections.Counter[str] = collections.Counter()
        self.archives: list[str] = []

    def in_places(self, places: Iterable[Place]) -> Iterator[tuple[int, str]]:
        """Yields the recordings in several places, each once.

        A file that the user named is yielded whatever it is.

        Yields:
          The number of the place and the path of the recording.

        Raises:
          InputError: a place or a folder in it cannot be listed.
        """
        for number, place in enumerate(places):
            if os.path.isfile(place.path) or not (place.is_named or os.path.isdir(place.path)):
                path = os.path.abspath(place.path)
                folder = os.path.realpath(os.path.dirname(path))
                if path in self._files or folder in self._folders:
                    continue
                self._files.add(path)
                if place.is_named or self._is_wanted(place.path, os.path.isfile(place.path)):
                    yield number, place.path
            else:
                for path in self.in_folder(place.path):
                    if not self._files or os.path.abspath(path) not in self._files:
                        yield number, path

    def in_folder(self, top: str | pathlib.Path) -> Iterator[str]:
        """Yields the recordings below a folder, sorted by name, those of subfolders last.

        Links to folders are followed, but each folder is listed only once.

        Raises:
          InputError: a folder cannot be listed.
        """
        pending = [os.fspath(top)]
        while pending:
            folder = pending.pop()
            try:
                real_folder = os.path.realpath(folder)
                if real_folder in self._folders:  # links may form a cycle
                    continue
                self._folders.add(real_folder)
                folders, files, others = _listed(folder)
            except OSError as error:
                raise InputError(
                    f"{error.filename}: cannot list the recordings: {error.strerror}"
                ) from error
            for name in sorted(files):
                path = os.path.join(folder, name)
                if self._is_wanted(path, name not in others):
                    yield path
            pending += [os.path.join(folder, name) for name in sorted(folders, reverse=True)]

    def lines(self) -> list[str]:
        """Returns a line about the files that are not recordings, and one about archives."""
        lines = []
        if number := self.kinds.total():
            kinds = self.kinds.most_common()
            shown = [f"{kind} {count:,}" for kind, count in kinds[:_MAX_KINDS]]
            if rest := sum(count for _, count in kinds[_MAX_KINDS:]):
                shown.append(f"others {rest:,}")
            what = "file is not a recording" if number == 1 else "files are not recordings"
            lines.append(f"{number:,} {what} ({', '.join(shown)})")
        if number := len(self.archives):
            one = number == 1
            what = (
                "archive or compressed file is not searched"
                if one
                else "archives or compressed files are not searched"
            )
            lines.append(
                f"{number:,} {what}, {'' if one else 'the first: '}"
                f"{path_text(self.archives[0])}; unpack {'it' if one else 'them'} if there are "
                "recordings inside"
            )
        return lines

    def _is_wanted(self, path: str, is_file: bool) -> bool:
        """Whether a path in a folder is a recording or a file with many; else counts it."""
        name = os.path.basename(path)
        extension = os.path.splitext(name)[1].lower()
        is_apple_double = name.startswith("._")  # macOS writes ._NAME beside NAME
        if not is_file and os.path.exists(path):
            self.kinds["pipes or devices"] += 1  # opening these may hang
            return False
        if extension in self._packed or (extension in EXTENSIONS and not is_apple_double):
            return True
        if not is_file:
            self.kinds["broken links"] += 1
            return False
        try:
            with open(path, "rb", buffering=0) as file:
                first_bytes = file.read(signatures.NUM_BYTES)
        except OSError:
            return True  # its reader says why it cannot be read
        if signatures.is_audio(io.BytesIO(first_bytes)):
            return True
        if _ARCHIVE.match(first_bytes):
            self.archives.append(path)
        elif is_apple_double:
            self.kinds["._ files of macOS"] += 1
        elif not extension:
            self.kinds["no extension"] += 1
        else:
            is_simple = _SIMPLE_EXTENSION.fullmatch(extension)
            self.kinds[extension if is_simple else "odd extensions"] += 1
        return False


def _listed(folder: str) -> tuple[list[str], list[str], set[str]]:
    """Lists a folder.

    Returns:
      `(folders, files, others)`: the names of its folders, of everything else, and of that which
      is not a regular file.
    """
    folders: list[str] = []
    files: list[str] = []
    others: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:  # a link that cannot be followed
                if system_fault(error):
                    raise
                is_folder = is_file = False
            (folders if is_folder else files).append(entry.name)
            if not is_folder and not is_file:
                others.add(entry.name)
    return folders, files, others


def path_text(path: str) -> str:
    r"""Returns the path of a recording as text that UTF-8 can encode.

    Bytes that are not UTF-8 become `\xff`. Different paths have different texts: where the path
    itself has a backslash before `x` and two digits, the backslash becomes `\x5c`.
    """
    content = re.sub(rb"\\(?=x[0-9a-f]{2})", rb"\\x5c", os.fsencode(path))
    return content.decode(errors="backslashreplace")


def path_of_text(text: str) -> str:
    """Returns the path that `path_text` made the text of."""
    content = re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    return os.fsdecode(content)
