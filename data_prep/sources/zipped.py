"""Zip archives with the same members as WebDataset's tars (samples.py), read in place."""

import io
import math
import stat
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.sources import Entry, Form
from data_prep.sources.samples import MAX_SIDECAR_BYTES, Samples, text
from relabel_jax.audio.decode import decode
from relabel_jax.errors import Rejected
from relabel_jax.faults import refuse_system_fault

FORMS = (
    Form(
        "*.zip",
        "recordings, alone or as in the tars: beside `KEY.json` or `KEY.cls`",
        "the id in `KEY.json`, else the name of the recording",
    ),
)

_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # encrypted
    NotImplementedError,  # of a compression that Python does not know
    zipfile.BadZipFile,
    zlib.error,
)


class ZipSource:
    """A zip archive. For its methods see `data_prep.sources.Source`."""

    def __init__(self, path: str, max_bytes_in_memory: int = 1 << 26):
        """Opens a zip archive.

        Args:
          path: the archive.
          max_bytes_in_memory: a larger recording is decoded from the archive itself.
        """
        self._path = path
        self._max_bytes_in_memory = max_bytes_in_memory
        try:
            self._zip = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise Rejected("unreadable", f"{path}: not a zip, or damaged: {error}") from error
        self._infos = {info.header_offset: info for info in self._zip.infolist()}

    def entries(self, with_labels: bool) -> Iterator[Entry]:
        samples = Samples(self._path)
        for info in self._zip.infolist():
            # Links are not followed. An archive from Windows has no kinds of files.
            if info.is_dir() or stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
                continue
            sample = samples.add(info.filename, str(info.header_offset))
            if sample is not None:
                is_short = info.file_size <= MAX_SIDECAR_BYTES
                try:
                    content = self._zip.read(info) if is_short else None
                except _DAMAGE as error:
                    refuse_system_fault(error, self._path)
                    content = b"{"  # damaged, as JSON without an end
                samples.set_sidecar(sample, content, info.filename)
        yield from samples.entries()

    def read(self, member: str, duration_s: float = math.inf, **how: Any) -> tuple[np.ndarray, int]:
        offset, name = member.split(":", 1)
        info = self._infos.get(int(offset))
        if info is None or text(info.filename) != name:
            raise Rejected("changed", "another member lies there since the plan was made")
        try:
            with self._zip.open(info) as content:
                is_small = info.file_size <= self._max_bytes_in_memory
                file = io.BytesIO(content.read()) if is_small else content
                return decode(file, duration_s, **how)
        except _DAMAGE as error:
            raise Rejected("unreadable", str(error)) from error
