"""Lists the recordings of a folder that is embedded, and decodes them by threads."""

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

from relabel_jax.audio.decode import EXTENSIONS, decode_blocks, list_recordings
from relabel_jax.audio.resample import resample_blocks
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.audio.windows import cut_windows
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file, read_json, reading, write_json
from relabel_jax.progress import track

_QUEUE = 64  # windows that are read but not yet embedded

Item = tuple[int, tuple[int, np.ndarray] | Rejected | Exception | None]
"""The number of a recording, and an event of its decoding.

The event is one of: the position of a window's first sample and the window, int16[samples]; the
reason why the recording is left out; an error that ends the command; None at the recording's end.
"""


def read_samples(
    path: str, waveform_format: WaveformFormat, duration_s: float = math.inf
) -> Iterator[np.ndarray]:
    """Decodes a recording and resamples it, piece by piece.

    Args:
      path: the file.
      waveform_format: has the sample rate of the result.
      duration_s: decode at most this many seconds.

    Yields:
      int16[time].

    Raises:
      Rejected: the file cannot be decoded, is empty, or has a NaN.
    """
    return resample_blocks(decode_blocks(path, duration_s), waveform_format.sample_rate_hz)


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

        Args:
          identity: the arguments of the command. They must be the same when it is started again.
          audio: folders and files, separated by commas.

        Raises:
          InputError: the list was written with another identity, or there are no recordings.
        """
        if self.exists:
            before = read_json(self._path)
            for field, value in identity.items():
                if before.get(field) != value:
                    parts = self._path.parent
                    raise InputError(
                        f"{parts}: was begun with {field} {before.get(field)!r}, not {value!r}; "
                        f"give the same, or delete {parts} to begin again"
                    )
            return before["num_recordings"]
        number = 0
        with complete_file(self._list_path) as temporary, open(temporary, "wb") as file:
            for path in track(_find_recordings(audio), "listing", "recordings"):
                file.write(os.fsencode(path) + b"\0")  # a name may have line ends
                number += 1
        if not number:
            raise InputError(
                f"--audio={audio}: no recordings below it; expected files that end in "
                f"{', '.join(EXTENSIONS)}"
            )
        write_json(self._path, identity | {"num_recordings": number})
        return number

    def read(self, first: int) -> Iterator[tuple[int, str]]:
        """Yields the number and path of each recording, beginning with number `first`."""

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
    """Threads that decode recordings and cut them into windows.

    A context manager: the threads run inside its block. They run in parallel, because libsndfile,
    FFmpeg and soxr release Python's lock.

    Args:
      recordings: number and path of each recording.
      waveform_format: sample rate and length of the windows.
      hop: samples from the start of one window to the start of the next.
      num_workers: number of threads.
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
        """Yields the events of all recordings.

        The events of one recording are in order. Those of several recordings are interleaved.
        """
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
