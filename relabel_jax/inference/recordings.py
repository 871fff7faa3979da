"""Decodes the recordings of a folder that is embedded, by threads."""

import contextlib
import math
import queue
import threading
from collections.abc import Iterator

import numpy as np

from relabel_jax.audio.decode import decode_blocks
from relabel_jax.audio.resample import resample_blocks
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.audio.windows import cut_windows
from relabel_jax.errors import Rejected
from relabel_jax.inference.recording_list import Listed

_QUEUE = 64  # windows that are read but not yet embedded
_CHANGED = "the file was replaced since the recordings were listed"

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


class Readers:
    """Threads that decode recordings and cut them into windows.

    A context manager: the threads run inside its block. They run in parallel, because libsndfile,
    FFmpeg and soxr release Python's lock.

    Args:
      recordings: number of each recording, and the recording.
      waveform_format: sample rate and length of the windows.
      hop: samples from the start of one window to the start of the next.
      num_workers: number of threads.
    """

    def __init__(
        self,
        recordings: Iterator[tuple[int, Listed]],
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
                number, listed = next(self._recordings, (-1, Listed("", "")))
            if number < 0:
                break
            outcome: Rejected | None = None
            try:
                if listed.has_changed():
                    raise Rejected("changed", _CHANGED)
                pieces = read_samples(listed.path, self._format)
                for window in cut_windows(pieces, self._format.num_samples, self._hop):
                    self._items.put((number, window))
                    if self._stopped.is_set():
                        return
                if listed.has_changed():  # while it was read
                    raise Rejected("changed", _CHANGED)
            except Rejected as rejected:
                outcome = rejected
            except Exception as error:
                error.add_note(f"While reading the recording {listed.path!r}.")
                raise
            self._items.put((number, outcome))
