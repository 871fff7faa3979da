"""Cuts recordings of any length into windows of one length."""

from collections.abc import Iterable, Iterator

import numpy as np


def cut_windows(
    pieces: Iterable[np.ndarray], num_samples: int, hop: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Cuts a recording into windows that cover all of it.

    It keeps only the samples that the next window needs, so the memory does not grow with the
    recording.

    Args:
      pieces: consecutive pieces of the recording, int16[time] each.
      num_samples: number of samples of a window.
      hop: samples from the start of one window to the start of the next; at most `num_samples`.

    Yields:
      `(start, window)`: the position of the window's first sample in the recording, and
      int16[num_samples]. The last window is zero-padded at the end.
    """
    kept = np.zeros(0, np.int16)
    start = 0  # position of the first kept sample in the recording: the next window starts there
    covered = 0  # number of samples of the recording that lie in some window
    for piece in pieces:
        kept = np.concatenate([kept, piece])
        used = 0
        while len(kept) - used >= num_samples:
            yield start + used, kept[used : used + num_samples]
            covered = start + used + num_samples
            used += hop
        start += used
        kept = kept[used:]
    if start + len(kept) > covered:
        window = np.zeros(num_samples, np.int16)
        window[: len(kept)] = kept
        yield start, window
