"""WebDataset's tars: `KEY.flac` (or another format) beside `KEY.json` or `KEY.cls`.

A recording is found by the place of its header in the tar, so that a shard's clips are read without
unpacking or passing over the rest. Links are not followed.

The labels in `KEY.json` are a list, or the field `labels` or `label` of an object; each label is
a mid, a display name or a class number; one string may hold several mids with commas or semicolons
between them. `KEY.cls` holds one label.
"""

import json
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence

import numpy as np

from data_prep.audio import EXTENSIONS, decode
from data_prep.rejected import Rejected
from data_prep.sources import Entry, Recording

_LABELS = (".json", ".cls")
_MAX_LABEL_BYTES = 1 << 20
_MIDS = re.compile(r"(/[mgt]/\w+)(\s*[,;]\s*/[mgt]/\w+)*")


class TarSource:
    def __init__(self, path: str):
        self._path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (open as long as this)
            self._size = os.fstat(self._file.fileno()).st_size
            self._tar = tarfile.TarFile(fileobj=self._file, errors="surrogateescape")
        except (OSError, tarfile.TarError) as error:
            raise Rejected("unreadable", f"{path}: not a tar, or damaged: {error}") from error

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        entries: dict[str, Entry] = {}  # by key, the first of several formats
        labels: dict[str, Sequence[str | int] | Rejected] = {}
        damage = ""
        try:
            while (info := self._tar.next()) is not None:
                self._tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
                key, extension = os.path.splitext(info.name)
                extension = extension.lower()
                if not info.isreg() or info.issparse() or not posixpath.basename(key):
                    continue
                if extension in EXTENSIONS and key not in entries:
                    name = _text(posixpath.basename(key))
                    recording = Recording(self._path, f"{info.offset}:{_text(info.name)}")
                    entries[key] = Entry(name, name, recording)
                elif with_labels and extension in _LABELS and key not in labels:
                    labels[key] = self._read_labels(info, extension)
            self._file.seek(self._tar.offset)
            if self._file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end of archive where it should be")
        except (OSError, tarfile.TarError) as error:
            damage = f"{self._path}: damaged after {len(entries)} recordings: {error}"
        for key, entry in entries.items():
            yield Entry(entry.name, entry.clip_id, entry.recording, labels.get(key, ()))
        if damage:
            raise Rejected("unreadable", damage)

    def read(self, member: str) -> tuple[np.ndarray, int]:
        offset, name = member.split(":", 1)
        try:
            self._file.seek(int(offset))
            info = self._tar.tarinfo.fromtarfile(self._tar)
        except (OSError, tarfile.TarError):
            info = None
        if info is None or _text(info.name) != name or not info.isreg():
            raise Rejected("changed", "another member lies there since the plan was made")
        if info.offset_data + info.size > self._size:
            raise Rejected("unreadable", "the tar ends in the middle of it")
        content = self._tar.extractfile(info)
        assert content is not None
        with content:
            return decode(content)

    def _read_labels(self, info: tarfile.TarInfo, extension: str) -> Sequence[str | int] | Rejected:
        if info.size > _MAX_LABEL_BYTES:
            return Rejected("bad_labels", f"{self._path}: {_text(info.name)} is too long")
        content = self._tar.extractfile(info)
        assert content is not None
        try:
            text = content.read().decode("utf-8-sig").strip()
            found = json.loads(text) if extension == ".json" or text.isdigit() else text
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            return Rejected("bad_labels", f"{self._path}: {_text(info.name)}: {error}")
        if isinstance(found, dict):
            found = found.get("labels", found.get("label", []))
        if isinstance(found, str):
            found = re.split(r"\s*[,;]\s*", found) if _MIDS.fullmatch(found) else [found]
        if isinstance(found, int):
            found = [found]
        if not isinstance(found, list) or not {type(each) for each in found} <= {str, int}:
            return Rejected("bad_labels", f"{self._path}: {_text(info.name)} is no list of labels")
        return found


def _text(name: str) -> str:
    """A member's name, which need not be UTF-8, as text that is."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
