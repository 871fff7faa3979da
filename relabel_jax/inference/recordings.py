"""The recordings that one embedding of a folder is to embed, listed once, and their decoding."""

import contextlib
import itertools
import math
import os
import pathlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from relabel_jax.audio.decode import EXTENSIONS, decode_blocks, list_recordings
from relabel_jax.audio.resample import resample_blocks
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.audio.windows import cut_windows
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file, read_json, reading, write_json

_QUEUE = 64  # windows that are read but not yet embedded

Item = tuple[int, tuple[int, np.ndarray] | Rejected | Exception | None]
"""What `Readers` yields of a recording: the recording's number, and one of: a window with the
position of its first sample; why the recording is left out; an error; None at its end."""


def read_samples(
    path: str, waveform_format: WaveformFormat, duration_s: float = math.inf
) -> Iterator[np.ndarray]:
    """Decodes a recording and resamples it, piece by piece.

    Args:
      path: the file.
      waveform_format: the sample rate of the result.
      duration_s: decode this many seconds at most.

    Yields:
      int16[time].

    Raises:
      Rejected: the file cannot be decoded, is empty, or has a NaN.
    """
    return resample_blocks(decode_blocks(path, duration_s), waveform_format.sample_rate_hz)


class Plan:
    """The list of recordings in the folder of the parts.

    It is made once, so that a command that is started again embeds the same recordings in the same
    order.
    """

    def __init__(self, parts: pathlib.Path):
        self._path = parts / "plan.json"
        self._list_path = parts / "recordings"

    @property
    def exists(self) -> bool:
        return self._path.exists()

    def begin(self, identity: dict[str, Any], audio: str) -> int:
        """Lists the recordings, unless that is done already, and returns their number.

        Args:
          identity: what the command was given; the same when it is started again.
          audio: folders and files, with commas.

        Raises:
          InputError: the parts were begun with another identity, or there are no recordings.
        """
        if self.exists:
            before = read_json(self._path)
            for field, value in identity.items():
                if before.get(field) != value:
                    parts = self._path.parent
                    raise InputError(
                        f"{parts}: was begun with {field} {before.get(field)!r}, not {value!r}; "
                        f"give the same, or delete {parts} to begin anew"
                    )
            return before["num_recordings"]
        number = 0
        with (
            complete_file(self._list_path) as temporary,
            open(temporary, "wb") as file,
            tqdm.tqdm(desc="listing", unit=" recordings", leave=False) as bar,
        ):
            for path in _find_recordings(audio):
                file.write(os.fsencode(path) + b"\0")  # a name may have line ends
                number += 1
                bar.update()
        if not number:
            raise InputError(
                f"--audio={audio}: no recordings below it; expected files that end in "
                f"{', '.join(EXTENSIONS)}"
            )
        write_json(self._path, identity | {"num_recordings": number})
        return number

    def recordings(self, first: int) -> Iterator[tuple[int, str]]:
        """Number and path of the recordings, beginning with number `first`."""

        def paths() -> Iterator[str]:
            rest = b""
            with reading(self._list_path), open(self._list_path, "rb") as file:
                while block := file.read(1 << 16):
                    *names, rest = (rest + block).split(b"\0")
                    yield from map(os.fsdecode, names)

        return itertools.islice(enumerate(paths()), first, None)


def _find_recordings(audio: str) -> Iterator[str]:
    for place in [audio] if os.path.exists(audio) else audio.split(","):
        if os.path.isdir(place):
            yield from list_recordings(place)
        elif os.path.isfile(place):
            yield place
        else:
            raise InputError(f"--audio: {place}: no such file or folder")


class Readers:
    """Threads that decode recordings. libsndfile, FFmpeg and soxr release Python's lock.

    A context manager: the threads run inside its block.
    """

    def __init__(
        self,
        recordings: Iterator[tuple[int, str]],
        waveform_format: WaveformFormat,
        hop: int,
        num_workers: int,
    ):
        self._recordings = recordings
        self._format = waveform_format
        self._hop = hop
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._items: queue.Queue[Item | None] = queue.Queue(_QUEUE)
        self._threads = [
            threading.Thread(target=self._read, daemon=True) for _ in range(num_workers)
        ]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        while any(thread.is_alive() for thread in self._threads):
            with contextlib.suppress(queue.Empty):
                self._items.get(timeout=0.01)

    def items(self) -> Iterator[Item]:
        """The windows and the end of every recording; those of several recordings are mixed."""
        running = len(self._threads)
        while running:
            item = self._items.get()
            if item is None:
                running -= 1
            else:
                yield item

    def _read(self) -> None:
        try:
            self._read_recordings()
        except Exception as error:  # the main thread raises it
            self._items.put((-1, error))
        finally:
            self._items.put(None)

    def _read_recordings(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                number, path = next(self._recordings, (-1, ""))
            if number < 0:
                break
            outcome: Rejected | None = None
            try:
                pieces = read_samples(path, self._format)
                for window in cut_windows(pieces, self._format.num_samples, self._hop):
                    self._items.put((number, window))
                    if self._stopped.is_set():
                        return
            except Rejected as rejected:
                outcome = rejected
            except Exception as error:
                error.add_note(f"While reading the recording {path!r}.")
                raise
            self._items.put((number, outcome))
