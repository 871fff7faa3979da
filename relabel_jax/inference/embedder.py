"""Computes embeddings and scores of any sound with a trained network, from and to NumPy arrays.

    embedder = relabel_jax.Embedder.load("W/base")       # or an exported folder
    embedder.embed([samples], rate_hz=44_100)            # float32[1, 128]

A network takes mono waveforms of one sample rate and one length: 10 s at 8 kHz for the paper's
network. The embedder averages the channels of a recording, resamples it as data preparation does
(soxr VHQ) and cuts it into windows of that length. It pads the last window with zeros, as in the
training. One program of one shape computes all windows, so no number of windows causes another
compilation.
"""

import collections
import functools
import hashlib
import itertools
import numbers
import pathlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.audio.windows import cut_windows
from relabel_jax.errors import InputError
from relabel_jax.inference.clips import read_clips
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.inference.pretrained import Pretrained, SoundClass
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.variables import Variables, without_outputs
from relabel_jax.ops.batch_axis import on_each_device
from relabel_jax.train.step import predict_chunk

_BATCHES = PartitionSpec(None, "data")  # [chunk, batch, ...]
_CHUNK = 8  # batches of one call of the program, which skips batches without windows


class Embedder:
    """Applies a trained network to recordings.

    Attributes:
      waveform_format: sample rate and length of the windows that the network takes. Recordings are
        resampled to this rate.
      embedding_size: number of values of an embedding; 128 for the paper's network.
      trained: facts of the training, such as root, side, labeling, method and test metrics.
      fingerprint: a digest of the weights that embeddings depend on. It leaves out the output
        layer, whose size depends on whether the names of the classes are known.
      batch_size: number of windows that the devices compute together.
    """

    def __init__(self, pretrained: Pretrained, *, batch_size: int | None = None):
        """Makes an embedder of a loaded network; see `load` for `batch_size` and the errors."""
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
        self.waveform_format: WaveformFormat = pretrained.network.waveform_format
        self.embedding_size = pretrained.network.embedding_size
        self.trained = pretrained.trained
        self.fingerprint = _fingerprint(pretrained)

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
          ontology: an `ontology.json` that names the classes. It is needed only if the folder does
            not have the names and the data set of the training has moved.
          batch_size: number of windows that the devices compute together, a multiple of the number
            of devices. By default 4 for each CPU device and 64 for each other device.

        Raises:
          InputError: the folder is neither of them, is damaged, or has another network.
        """
        return cls(load_pretrained(path, ontology), batch_size=batch_size)

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate of the network; 8,000 for the paper's network."""
        return self.waveform_format.sample_rate_hz

    @property
    def classes(self) -> tuple[SoundClass, ...]:
        """The classes of the scores, in their order.

        Raises:
          InputError: the names of the classes are not known.
        """
        if self._classes is None:
            raise InputError(
                "the classes are not known: the ontology.json of the data set is not where the "
                "training found it; give it as `ontology` (--ontology)"
            )
        return self._classes

    def embed(
        self, clips: Iterable[np.ndarray], rate_hz: float, *, hop_s: float | None = None
    ) -> np.ndarray:
        """Computes one embedding for each clip.

        It is the mean over the windows of the clip, each weighted by its seconds of sound.

        Args:
          clips: a sequence of recordings of 0.01 s or more, each `[time]` or `[time, channels]`; or
            one array `[clips, time]` or `[clips, time, channels]`; or one recording `[time]`.
            Samples are float in -1 to 1, int16 or int32.
          rate_hz: the sample rate of the clips.
          hop_s: seconds from the start of one window to the start of the next. The default, and the
            largest value, is the length of a window.

        Returns:
          float32[clips, embedding_size].

        Raises:
          InputError: a clip or the rate has another form, or a clip has a NaN or is empty.
        """
        return self._means(clips, rate_hz, hop_s)[0]

    def scores(
        self, clips: Iterable[np.ndarray], rate_hz: float, *, hop_s: float | None = None
    ) -> np.ndarray:
        """Computes the score of each of `classes` for each clip, in 0 to 1.

        It is the mean over the windows. Arguments and errors are those of `embed`.

        Returns:
          float32[clips, classes].
        """
        _ = self.classes  # raises if they are not known
        return self._means(clips, rate_hz, hop_s)[1]

    def embed_timestamps(
        self,
        clips: Iterable[np.ndarray],
        rate_hz: float,
        *,
        hop_s: float = 0.5,
        window_s: float = 1.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Computes embeddings along the time of clips of one length.

        A frame is `window_s` of sound around its centre. The network takes it like a clip of that
        length: at the start of a window, followed by zeros.

        Args:
          clips, rate_hz: see `embed`. All clips must have one length.
          hop_s: seconds from one centre to the next.
          window_s: length of a frame in seconds; at most the length of a window.

        Returns:
          `(embeddings, centers_ms)`: float32[clips, frames, embedding_size], and float64[frames] in
          milliseconds: 0, `hop_s`, and so on to the end of the clip.

        Raises:
          InputError: see `embed`; or the clips differ in length.
        """
        hop, width = self.hop_samples(hop_s), self._to_samples("window_s", window_s)
        lengths: list[int] = []

        def windows() -> Iterator[np.ndarray]:
            for waveform in read_clips(clips, rate_hz, self.sample_rate_hz):
                lengths.append(len(waveform))
                if lengths[-1] != lengths[0]:
                    raise InputError(
                        f"clip {len(lengths) - 1}: has {lengths[-1] / self.sample_rate_hz:g} s, "
                        f"the first has {lengths[0] / self.sample_rate_hz:g} s; expected one "
                        "length: give clips of different lengths one by one"
                    )
                padded = np.pad(waveform, (width // 2, width))
                for start in range(0, len(waveform), hop):
                    window = np.zeros(self.waveform_format.num_samples, np.int16)
                    window[:width] = padded[start : start + width]
                    yield window

        rows = [embeddings for embeddings, _ in self.embed_windows(windows())]
        frames = len(range(0, lengths[0], hop)) if lengths else 0
        embeddings = np.concatenate([np.zeros((0, self.embedding_size), np.float32), *rows])
        centers_ms = np.arange(frames) * (1000 * hop / self.sample_rate_hz)
        return embeddings.reshape(len(lengths), frames, self.embedding_size), centers_ms

    def embed_windows(
        self, windows: Iterable[np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Computes embeddings and scores of a stream of windows.

        It reads the next windows while the devices compute.

        Args:
          windows: int16[waveform_format.num_samples] each, as a data set stores clips.

        Yields:
          `(embeddings, scores)`: float32[windows, embedding_size] and float32[windows, outputs] of
          the next windows, in their order.
        """
        windows = iter(windows)
        pending: collections.deque[tuple[jax.Array, jax.Array, int]] = collections.deque()
        while True:
            chunk = np.zeros((_CHUNK, self.batch_size, self.waveform_format.num_samples), np.int16)
            rows = chunk.reshape(-1, self.waveform_format.num_samples)
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
            is_last = number < len(rows)
            while len(pending) > (0 if is_last else 1):
                embeddings, scores, count = pending.popleft()
                yield _to_rows(embeddings, count), _to_rows(scores, count)
            if is_last:
                return

    def hop_samples(self, hop_s: float | None) -> int:
        """Converts `hop_s` to samples; None is the length of a window.

        Raises:
          InputError: `hop_s` is 0 or less, or longer than a window.
        """
        return self._to_samples(
            "hop_s", self.waveform_format.duration_s if hop_s is None else hop_s
        )

    def _to_samples(self, name: str, seconds: float) -> int:
        duration_s = self.waveform_format.duration_s
        is_number = isinstance(seconds, numbers.Real)
        if not is_number or not 1 / self.sample_rate_hz <= seconds <= duration_s:
            raise InputError(
                f"{name}: expected more than 0 and at most {duration_s:g} s, got {seconds}"
            )
        return round(seconds * self.sample_rate_hz)

    def _means(
        self, clips: Iterable[np.ndarray], rate_hz: float, hop_s: float | None
    ) -> tuple[np.ndarray, np.ndarray]:
        hop, num_samples = self.hop_samples(hop_s), self.waveform_format.num_samples
        owners: collections.deque[tuple[int, int]] = collections.deque()
        sizes = (self.embedding_size, self._network.num_classes)
        means: tuple[list[np.ndarray], ...] = ([], [])
        seconds: list[int] = []

        def windows() -> Iterator[np.ndarray]:
            for clip, waveform in enumerate(read_clips(clips, rate_hz, self.sample_rate_hz)):
                for start, window in cut_windows([waveform], num_samples, hop):
                    owners.append((clip, min(num_samples, len(waveform) - start)))
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


def _fingerprint(pretrained: Pretrained) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(without_outputs(pretrained.network, pretrained.variables).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _to_rows(outputs: jax.Array, number: int) -> np.ndarray:
    """Converts the first rows of [chunk, batch, values] to NumPy, [number, values]."""
    rows = np.asarray(outputs)
    return rows.reshape(-1, rows.shape[-1])[:number]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    network: Backbone, mesh: Mesh, variables: Variables, chunk: jax.Array, num_batches: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes embeddings [chunk, batch, embedding_size] and scores [chunk, batch, outputs].

    It computes only the first `num_batches` batches. The embeddings of the others are 0.
    """

    def embed(variables, chunk, num_batches):
        embeddings = predict_chunk(network, "embed", variables, None, chunk, num_batches)
        return embeddings, network.apply(variables, embeddings, method="head").scores

    axes = (PartitionSpec(), _BATCHES, PartitionSpec())
    return on_each_device(embed, mesh, axes, _BATCHES)(variables, chunk, num_batches)
