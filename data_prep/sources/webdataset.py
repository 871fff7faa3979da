"""WebDataset's tars: `KEY.flac` (or another format) beside `KEY.json` or `KEY.cls`.

A recording is found by the position of its header in the tar, so a shard's clips are read without
unpacking or scanning the rest. Links are not followed.

The labels in `KEY.json` are a list, or the field `labels` or `label` of an object. Each label is a
mid, a display name or a class number. One string may hold several mids, separated by commas or
semicolons. `KEY.cls` holds one label.
"""

import contextlib
import io
import json
import math
import os
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data_prep.sources import Entry, Recording
from relabel_jax.audio.decode import EXTENSIONS, decode
from relabel_jax.errors import Rejected

_LABELS = (".json", ".cls")
_MAX_LABEL_BYTES = 1 << 20
_MAX_BYTES_IN_MEMORY = 1 << 26
_MIDS = re.compile(r"(/[mgt]/\w+)(\s*[,;]\s*/[mgt]/\w+)*")


class TarSource:
    """A tar, opened for each reading. For its methods see `data_prep.sources.Source`."""

    def __init__(self, path: str, max_bytes_in_memory: int = _MAX_BYTES_IN_MEMORY):
        """Opens a tar.

        Args:
          path: the tar.
          max_bytes_in_memory: a larger recording is decoded from the tar itself.
        """
        self._path = path
        self._max_bytes_in_memory = max_bytes_in_memory

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        entries: dict[str, Entry] = {}  # by key; the first format if there are several
        labels: dict[str, Sequence[str | int] | Rejected] = {}
        damage: Rejected | None = None
        try:
            with self._open() as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # tarfile would keep all of them in memory
                    key, extension = os.path.splitext(info.name)
                    extension = extension.lower()
                    if not info.isreg() or info.issparse() or not posixpath.basename(key):
                        continue
                    if extension in EXTENSIONS and key not in entries:
                        name = _text(posixpath.basename(key))
                        recording = Recording(self._path, f"{info.offset}:{_text(info.name)}")
                        entries[key] = Entry(name, name, recording)
                    elif with_labels and extension in _LABELS and key not in labels:
                        labels[key] = self._read_labels(tar, info, extension)
                # tarfile treats a damaged header as the end of the archive.
                tar.fileobj.seek(tar.offset)
                if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end of archive where it should be")
        except (OSError, tarfile.TarError) as error:
            damage = Rejected(
                "unreadable", f"{self._path}: damaged after {len(entries)} recordings: {error}"
            )
        for key, entry in entries.items():
            yield Entry(entry.name, entry.clip_id, entry.recording, labels.get(key, ()))
        if damage:
            raise damage

    def read(self, member: str, duration_s: float = math.inf) -> tuple[np.ndarray, int]:
        offset, name = member.split(":", 1)
        try:
            with self._open() as tar:
                try:
                    tar.fileobj.seek(int(offset))
                    info = tar.tarinfo.fromtarfile(tar)
                except tarfile.HeaderError:
                    info = None
                if info is None or _text(info.name) != name or not info.isreg():
                    raise Rejected("changed", "another member lies there since the plan was made")
                if info.offset_data + info.size > os.fstat(tar.fileobj.fileno()).st_size:
                    raise Rejected("unreadable", "the tar ends in the middle of it")
                with tar.extractfile(info) as content:
                    # Decoding from memory takes an eighth less time.
                    is_small = info.size <= self._max_bytes_in_memory
                    return decode(io.BytesIO(content.read()) if is_small else content, duration_s)
        except (OSError, tarfile.TarError) as error:
            raise Rejected("unreadable", str(error)) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:  # a tarfile.TarFile, whose type stubs are incomplete
        with (
            open(self._path, "rb") as file,
            # tarfile.open would accept a compressed tar, which cannot be read in the middle.
            tarfile.TarFile(fileobj=file, errors="surrogateescape") as tar,
        ):
            yield tar

    def _read_labels(
        self, tar: Any, info: tarfile.TarInfo, extension: str
    ) -> Sequence[str | int] | Rejected:
        where = f"{self._path}: {_text(info.name)}"
        if info.size > _MAX_LABEL_BYTES:
            return Rejected("bad_labels", f"{where} is too long")
        try:
            text = tar.extractfile(info).read().decode("utf-8-sig").strip()
            found = json.loads(text) if extension == ".json" or text.isdecimal() else text
        except (ValueError, RecursionError) as error:
            return Rejected("bad_labels", f"{where}: {error}")
        if isinstance(found, dict):
            found = found.get("labels", found.get("label", []))
        if isinstance(found, str):
            found = re.split(r"\s*[,;]\s*", found) if _MIDS.fullmatch(found) else [found]
        if type(found) is int:
            found = [found]
        if not isinstance(found, list) or not {type(each) for each in found} <= {str, int}:
            return Rejected("bad_labels", f"{where} is not a list of labels")
        return found


def _text(name: str) -> str:
    """A member's name as UTF-8, with escapes if the name is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
