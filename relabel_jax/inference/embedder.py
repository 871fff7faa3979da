"""Embeddings and scores of any sound, NumPy in and NumPy out, by a trained network.

    embedder = relabel_jax.Embedder.load("W/base")       # or an exported folder
    embedder.embed([samples], rate_hz=44_100)            # float32[1, 128]

The network takes 10 s of mono at 8 kHz. What is given is averaged over its channels, resampled as
data preparation does it (soxr VHQ) and cut into windows; the last one is zero-padded, as the clips
were that the network was trained on. All windows go through one program of one shape, so that
nothing is compiled again whatever their number.
"""

import collections
import functools
import hashlib
import itertools
import math
import numbers
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from relabel_jax.audio.resample import resample
from relabel_jax.audio.windows import cut_windows
from relabel_jax.data.schema import DURATION_S, SAMPLE_RATE_HZ, WAVEFORM_SAMPLES
from relabel_jax.errors import InputError, Rejected
from relabel_jax.inference.pretrained import Pretrained, SoundClass, flat_variables, load_pretrained
from relabel_jax.models.waveform_cnn import AudioNetwork
from relabel_jax.ops.batch_axis import on_each_device
from relabel_jax.train.step import predict_chunk

MIN_DURATION_S = 0.01
_BATCHES = PartitionSpec(None, "data")  # [chunk, batch, ...]
_CHUNK = 8  # batches in one program; what there is no window for is not computed
_LOUDEST = 4.0  # decoders overshoot 1 a little; int16 in a float array is a mistake
_PEAKS = {np.dtype(np.int16): 1 << 15, np.dtype(np.int32): 1 << 31}


class Embedder:
    """A trained network as a function of recordings.

    Attributes:
      embedding_size: 128 for the paper's network.
      sample_rate_hz: 8,000, what recordings are resampled to.
      trained: facts of the training: root, side, labeling, method, clips, test metrics.
      fingerprint: a digest of the weights that make an embedding. Not of the output layer: it has
        the trained classes or, where their names are not known, all of the side.
      batch_size: windows that the devices compute together.
    """

    def __init__(self, pretrained: Pretrained, *, batch_size: int | None = None):
        """As `load`, of a network that is loaded already."""
        devices = jax.local_devices()
        if batch_size is None:
            batch_size = len(devices) * (4 if jax.default_backend() == "cpu" else 64)
        if batch_size < 1 or batch_size % len(devices):
            raise InputError(
                f"batch_size {batch_size}: expected a multiple of the {len(devices)} devices"
            )
        self._mesh = Mesh(np.array(devices), ("data",))
        self._batched = NamedSharding(self._mesh, _BATCHES)
        self._network = pretrained.network
        self._variables = jax.device_put(
            pretrained.variables, NamedSharding(self._mesh, PartitionSpec())
        )
        self._classes = pretrained.classes
        self.batch_size = batch_size
        self._chunk_shape = (_CHUNK, batch_size, WAVEFORM_SAMPLES)
        self.trained = pretrained.trained
        digest = hashlib.blake2b(digest_size=16)
        for name, array in sorted(flat_variables(pretrained.variables).items()):
            if not name.startswith("params.output."):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(array))
        self.fingerprint = digest.hexdigest()
        self.embedding_size = pretrained.network.dense_units[-1]
        self.sample_rate_hz = SAMPLE_RATE_HZ

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path,
        *,
        ontology: str | pathlib.Path | None = None,
        batch_size: int | None = None,
    ) -> "Embedder":
        """Loads the workdir of a finished training, or a folder that `relabel_jax.export` wrote.

        Args:
          path: the folder.
          ontology: `ontology.json`, the names of a workdir's classes; by default that of the data
            set that it was trained on.
          batch_size: windows that the devices compute together; by default what suits them.

        Raises:
          InputError: the folder is neither, is damaged, or has another network.
        """
        return cls(load_pretrained(path, ontology), batch_size=batch_size)

    @property
    def classes(self) -> tuple[SoundClass, ...]:
        """The classes of the scores: `mid`, `display_name`, `paths`.

        Raises:
          InputError: their names were not found.
        """
        if self._classes is None:
            raise InputError(
                "the classes are not known: the ontology.json of the data set is not where the "
                "training found it; give it as `ontology` (--ontology)"
            )
        return self._classes

    def embed(
        self, clips: Iterable[np.ndarray], rate_hz: float, *, hop_s: float = DURATION_S
    ) -> np.ndarray:
        """One embedding a clip: the mean over its windows, each weighted by its seconds of sound.

        Args:
          clips: a sequence of recordings, each `[time]` or `[time, channels]`, from 0.01 s to
            hours; or one array `[clips, time]` or `[clips, time, channels]`; or one `[time]`.
            float of full scale 1, int16 or int32.
          rate_hz: their sample rate.
          hop_s: seconds from one 10 s window to the next, at most 10.

        Returns:
          float32[clips, 128].

        Raises:
          InputError: a clip or the rate is not of that form, has a NaN, or is empty.
        """
        return self._means(clips, rate_hz, hop_s)[0]

    def scores(
        self, clips: Iterable[np.ndarray], rate_hz: float, *, hop_s: float = DURATION_S
    ) -> np.ndarray:
        """How present each of `classes` is: float32[clips, classes] in 0 to 1.

        The mean over the windows, as of `embed`, with the same arguments and errors.
        """
        _ = self.classes
        return self._means(clips, rate_hz, hop_s)[1]

    def embed_timestamps(
        self,
        clips: Iterable[np.ndarray],
        rate_hz: float,
        *,
        hop_s: float = 0.5,
        window_s: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings along the time of clips of one length.

        A frame is `window_s` of sound around its centre, given to the network as a clip of that
        length would be: from the start of the 10 s, then zeros.

        Args:
          clips, rate_hz: as of `embed`, but of one length.
          hop_s: seconds from one centre to the next.
          window_s: seconds of sound in a frame, at most 10.

        Returns:
          `(embeddings, centers_ms)`: float32[clips, frames, 128], and float64[frames]: 0, hop_s,
          and so on, as long as the clip lasts.

        Raises:
          InputError: as `embed`; or the clips differ in length.
        """
        hop, width = _samples("hop_s", hop_s), _samples("window_s", window_s)
        lengths: list[int] = []

        def windows() -> Iterator[np.ndarray]:
            for waveform in self._waveforms(clips, rate_hz):
                lengths.append(len(waveform))
                if lengths[-1] != lengths[0]:
                    raise InputError(
                        f"clip {len(lengths) - 1}: has {lengths[-1] / SAMPLE_RATE_HZ:g} s, the "
                        f"first has {lengths[0] / SAMPLE_RATE_HZ:g} s; expected one length: give "
                        "clips of different lengths one by one"
                    )
                padded = np.pad(waveform, (width // 2, width))
                for start in range(0, len(waveform), hop):
                    yield _padded(padded[start : start + width])

        rows = [embeddings for embeddings, _ in self.embed_windows(windows())]
        frames = len(range(0, lengths[0], hop)) if lengths else 0
        embeddings = np.concatenate([np.zeros((0, self.embedding_size), np.float32), *rows])
        centers_ms = np.arange(frames) * (1000 * hop / SAMPLE_RATE_HZ)
        return embeddings.reshape(len(lengths), frames, self.embedding_size), centers_ms

    def embed_windows(
        self, windows: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Embeddings and scores of windows as the data set stores them, as a stream.

        Args:
          windows: int16[80000] each, mono at 8 kHz. While the devices compute, the next ones are
            read.

        Yields:
          `(embeddings, scores)`: float32[windows, 128] and float32[windows, outputs] of some
          windows, in their order.
        """
        windows = iter(windows)
        pending: collections.deque[tuple[jax.Array, jax.Array, int]] = collections.deque()
        while True:
            chunk = np.zeros(self._chunk_shape, np.int16)
            rows = chunk.reshape(-1, WAVEFORM_SAMPLES)
            number = 0
            for window in itertools.islice(windows, len(rows)):
                rows[number] = window
                number += 1
            if number:
                outputs = _forward(
                    self._network,
                    self._mesh,
                    self._variables,
                    jax.device_put(chunk, self._batched),
                    np.int32(-(-number // self.batch_size)),
                )
                pending.append((*outputs, number))
            while len(pending) > (number == len(rows)):
                embeddings, scores, count = pending.popleft()
                yield _rows(embeddings, count), _rows(scores, count)
            if number < len(rows):
                return

    def _means(
        self, clips: Iterable[np.ndarray], rate_hz: float, hop_s: float
    ) -> tuple[np.ndarray, np.ndarray]:
        hop = _samples("hop_s", hop_s)
        owners: collections.deque[tuple[int, int]] = collections.deque()
        sizes = (self.embedding_size, self._network.num_classes)
        means: tuple[list[np.ndarray], ...] = ([], [])
        seconds: list[int] = []

        def windows() -> Iterator[np.ndarray]:
            for clip, waveform in enumerate(self._waveforms(clips, rate_hz)):
                for start, window in cut_windows([waveform], WAVEFORM_SAMPLES, hop):
                    owners.append((clip, min(WAVEFORM_SAMPLES, len(waveform) - start)))
                    yield window

        for chunk in self.embed_windows(windows()):
            for rows in zip(*chunk, strict=True):
                clip, weight = owners.popleft()
                if clip == len(seconds):
                    seconds.append(0)
                    for totals, size in zip(means, sizes, strict=True):
                        totals.append(np.zeros(size))
                seconds[clip] += weight
                for totals, row in zip(means, rows, strict=True):
                    totals[clip] += (row - totals[clip]) * (weight / seconds[clip])
        embeddings, scores = (
            np.array(totals, np.float32).reshape(-1, size)
            for totals, size in zip(means, sizes, strict=True)
        )
        return embeddings, scores

    def _waveforms(self, clips: Iterable[np.ndarray], rate_hz: float) -> Iterator[np.ndarray]:
        """int16[time] at 8 kHz of each clip."""
        if (
            not isinstance(rate_hz, numbers.Real)
            or isinstance(rate_hz, bool)
            or not 0 < rate_hz < math.inf
        ):
            raise InputError(f"rate_hz: expected a sample rate above 0 Hz, got {rate_hz!r}")
        if isinstance(clips, np.ndarray):
            if not 1 <= clips.ndim <= 3:
                raise InputError(
                    f"clips: expected [time], [clips, time] or [clips, time, channels], got an "
                    f"array of shape {clips.shape}"
                )
            clips = clips[None] if clips.ndim == 1 else clips
        for number, clip in enumerate(clips):
            try:
                mono = _mono(np.asarray(clip))
                if len(mono) / rate_hz < MIN_DURATION_S:
                    raise Rejected(
                        "empty",
                        f"{len(mono)} samples at {rate_hz:g} Hz; expected at least "
                        f"{MIN_DURATION_S} s; one recording of several channels is given as "
                        "[samples], with samples of shape [time, channels]",
                    )
                waveform = resample(mono, rate_hz, SAMPLE_RATE_HZ)
            except Rejected as error:
                raise InputError(f"clip {number}: {error}") from error
            yield waveform


def _mono(clip: np.ndarray) -> np.ndarray:
    """float32[time], the mean over the channels."""
    if clip.ndim not in (1, 2):
        raise Rejected("rank", f"has shape {clip.shape}; expected [time] or [time, channels]")
    if clip.ndim == 2 and clip.shape[1] > clip.shape[0]:
        raise Rejected("rank", f"has shape {clip.shape}; expected [time, channels]: transpose it")
    if clip.dtype not in _PEAKS and not np.issubdtype(clip.dtype, np.floating):
        raise Rejected("dtype", f"has dtype {clip.dtype}; expected float, int16 or int32")
    if not clip.size:
        raise Rejected("empty", f"has no samples (shape {clip.shape})")
    mono = clip / np.float32(_PEAKS.get(clip.dtype, 1))
    mono = (mono if mono.ndim == 1 else mono.mean(axis=1)).astype(np.float32)
    peak = np.abs(mono).max()
    if _LOUDEST < peak < math.inf:
        raise Rejected(
            "level", f"its largest sample is {peak:g}; float samples have the full scale 1: divide"
        )
    return mono


def _samples(name: str, seconds: float) -> int:
    if not isinstance(seconds, numbers.Real) or not 1 <= seconds * SAMPLE_RATE_HZ <= (
        WAVEFORM_SAMPLES
    ):
        raise InputError(f"{name}: expected more than 0 and at most {DURATION_S} s, got {seconds}")
    return round(seconds * SAMPLE_RATE_HZ)


def _padded(samples: np.ndarray) -> np.ndarray:
    window = np.zeros(WAVEFORM_SAMPLES, np.int16)
    window[: len(samples)] = samples
    return window


def _rows(outputs: jax.Array, number: int) -> np.ndarray:
    rows = np.asarray(outputs)
    return rows.reshape(-1, rows.shape[-1])[:number]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    network: AudioNetwork,
    mesh: Mesh,
    variables: dict[str, Any],
    chunk: jax.Array,
    num_batches: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Embeddings [chunk, batch, 128] and scores [chunk, batch, classes]; after `num_batches` 0."""

    def embed(variables, chunk, num_batches):
        embeddings = predict_chunk(network, "embed", variables, (), chunk, num_batches)
        return embeddings, network.apply(variables, embeddings, method="score")

    axes = (PartitionSpec(), _BATCHES, PartitionSpec())
    return on_each_device(embed, mesh, axes, _BATCHES)(variables, chunk, num_batches)
