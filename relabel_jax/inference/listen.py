"""Embeds one recording of any length, which is read as a stream."""

from collections.abc import Iterator

import numpy as np

from relabel_jax.audio.windows import cut_windows
from relabel_jax.errors import Rejected
from relabel_jax.inference.clips import MIN_DURATION_S
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.recordings import read_samples


def listen(embedder: Embedder, path: str) -> tuple[float, np.ndarray, np.ndarray]:
    """Embeds a recording.

    Args:
      embedder: the trained network.
      path: a file of any format that `audio.decode` reads.

    Returns:
      `(duration_s, embeddings, scores)`: float32[windows, embedding_size] and float64[classes]. The
      scores are the mean over the windows, each weighted by its seconds of sound, as in
      `Embedder.scores`.

    Raises:
      Rejected: the recording cannot be decoded, is shorter than 0.01 s or has a NaN.
    """
    rate_hz, num_samples = embedder.sample_rate_hz, embedder.waveform_format.num_samples
    lengths: list[int] = []
    starts: list[int] = []

    def windows() -> Iterator[np.ndarray]:
        def pieces() -> Iterator[np.ndarray]:
            for piece in read_samples(path, embedder.waveform_format):
                lengths.append(len(piece))
                yield piece

        for start, window in cut_windows(pieces(), num_samples, num_samples):
            starts.append(start)
            yield window

    chunks = list(embedder.embed_windows(windows()))
    if sum(lengths) < MIN_DURATION_S * rate_hz:
        raise Rejected("empty", f"has less than {MIN_DURATION_S} s of sound")
    embeddings, scores = map(np.concatenate, zip(*chunks, strict=True))
    weights = np.minimum(num_samples, sum(lengths) - np.array(starts))
    return sum(lengths) / rate_hz, embeddings, np.average(scores, axis=0, weights=weights)


def without_padding(embedder: Embedder, duration_s: float, embeddings: np.ndarray) -> np.ndarray:
    """Leaves out the last window of a longer recording if less than half of it is sound.

    Such windows are mostly zeros, so those of any two recordings are similar.

    Args:
      embedder: the trained network.
      duration_s: length of the recording, as `listen` returns it.
      embeddings: float32[windows, embedding_size], as `listen` returns them.
    """
    window_s = embedder.waveform_format.duration_s
    sound_s = duration_s - (len(embeddings) - 1) * window_s
    return embeddings[:-1] if len(embeddings) > 1 and sound_s < window_s / 2 else embeddings
