"""Decodes the recordings of a folder that is embedded, by threads."""

import contextlib
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from relabel_jax.audio.decode import decode_blocks
from relabel_jax.audio.places import path_text
from relabel_jax.audio.resample import resample_blocks
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.audio.windows import cut_windows
from relabel_jax.errors import InputError, Rejected
from relabel_jax.faults import read_patiently
from relabel_jax.inference.recording_list import Listed

_QUEUE = 64  # windows that are read but not yet embedded
_STOP_S = 4.0
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
        deadline_s = time.monotonic() + _STOP_S  # a lost mount may hold a thread for ever
        while any(each.is_alive() for each in self._threads) and time.monotonic() < deadline_s:
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
            try:
                read_patiently(self._put_windows(number, listed), path_text(listed.path))
            except Rejected as rejected:
                self._items.put((number, rejected))
            except InputError as error:
                raise InputError(
                    f"{error}; finished parts are kept, so mend this and run the same command again"
                ) from error
            except Exception as error:
                error.add_note(f"While reading the recording {listed.path!r}.")
                raise
            else:
                self._items.put((number, None))

    def _put_windows(self, number: int, listed: Listed) -> Callable[[], None]:
        """Returns a function that puts the windows of a recording into the queue.

        If it is called again after an error, it continues with the window after the last one.
        """
        num_done = 0

        def put() -> None:
            nonlocal num_done
            if listed.has_changed():
                raise Rejected("changed", _CHANGED)
            windows = cut_windows(
                read_samples(listed.path, self._format), self._format.num_samples, self._hop
            )
            for window in itertools.islice(windows, num_done, None):
                self._items.put((number, window))
                num_done += 1
                if self._stopped.is_set():
                    return
            if listed.has_changed():  # while it was read
                raise Rejected("changed", _CHANGED)

        return put
