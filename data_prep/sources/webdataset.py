"""WebDataset's tars: `KEY.flac` (or another format) beside `KEY.json` or `KEY.cls` (samples.py).

A recording is found by the position of its header in the tar, so a shard's clips are read without
unpacking or scanning the rest. Links are not followed. Tars that were joined are read to the end of
the last one.
"""

import contextlib
import io
import math
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from data_prep.sources import Entry, Form
from data_prep.sources.samples import MAX_SIDECAR_BYTES, Samples, text
from relabel_jax.audio.decode import decode
from relabel_jax.errors import Rejected

FORMS = (
    Form(
        "*.tar",
        "WebDataset: `KEY.flac` (or another format of recordings) beside `KEY.json` or `KEY.cls`",
        "the id in `KEY.json`, else `KEY`",
    ),
)

_MAX_BYTES_IN_MEMORY = 1 << 26
_ZEROS = bytes(1 << 20)
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


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
        samples = Samples(self._path)
        damage: Rejected | None = None
        try:
            start: int | None = 0
            while start is not None:
                with self._open(start) as tar:
                    while (info := tar.next()) is not None:
                        tar.members.clear()  # tarfile would keep all of them in memory
                        if info.isreg() and not info.issparse():
                            _add(samples, tar, info)
                    start = _next_archive(tar.fileobj, tar.offset)
        except (OSError, tarfile.TarError) as error:
            damage = Rejected(
                "unreadable", f"{self._path}: damaged after {len(samples)} recordings: {error}"
            )
        yield from samples.entries()
        if damage:
            raise damage

    def read(self, member: str, duration_s: float = math.inf, **how: Any) -> tuple[np.ndarray, int]:
        offset, name = member.split(":", 1)
        try:
            with self._open() as tar:
                try:
                    tar.fileobj.seek(int(offset))
                    info = tar.tarinfo.fromtarfile(tar)
                except tarfile.HeaderError:
                    info = None
                if info is None or text(info.name) != name or not info.isreg():
                    raise Rejected("changed", "another member lies there since the plan was made")
                if info.offset_data + info.size > os.fstat(tar.fileobj.fileno()).st_size:
                    raise Rejected("unreadable", "the tar ends in the middle of it")
                with tar.extractfile(info) as content:
                    # Decoding from memory takes an eighth less time.
                    is_small = info.size <= self._max_bytes_in_memory
                    file = io.BytesIO(content.read()) if is_small else content
                    return decode(file, duration_s, **how)
        except (OSError, tarfile.TarError) as error:
            raise Rejected("unreadable", str(error)) from error

    @contextlib.contextmanager
    def _open(self, start: int = 0) -> Iterator[Any]:  # a TarFile, whose type stubs are incomplete
        with open(self._path, "rb") as file:
            # tarfile.open would accept a compressed tar, which cannot be read in the middle.
            head = file.read(6)
            for magic, compression in _COMPRESSIONS.items():
                if head.startswith(magic):
                    raise tarfile.ReadError(f"it is compressed with {compression}: decompress it")
            file.seek(start)
            with tarfile.TarFile(fileobj=file, errors="surrogateescape") as tar:
                yield tar


def _add(samples: Samples, tar: Any, info: tarfile.TarInfo) -> None:
    sample = samples.add(info.name, str(info.offset))
    if sample is not None:
        is_short = info.size <= MAX_SIDECAR_BYTES
        content = tar.extractfile(info).read() if is_short else None
        samples.set_sidecar(sample, content, info.name)


def _next_archive(file: IO[bytes], end: int) -> int | None:
    """Returns where the tar begins that was joined to the one before, or None.

    Args:
      file: the file.
      end: where the tar before ended, at a block of zeros.

    Raises:
      tarfile.ReadError: the tar before did not end there. tarfile treats a damaged header as the
        end of the archive.
    """
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end of archive where it should be")
    start = end + tarfile.BLOCKSIZE
    while blocks := file.read(len(_ZEROS)):
        if blocks != _ZEROS[: len(blocks)]:
            num_zeros = len(blocks) - len(blocks.lstrip(b"\0"))
            return start + num_zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        start += len(blocks)
    return None
