"""Embeddings and scores of any sound by a trained network, NumPy in and NumPy out.

    embedder = relabel_jax.Embedder.load("W/base")       # or an exported folder
    embedder.embed([samples], rate_hz=44_100)            # float32[1, 128]

A network takes mono waveforms of one sample rate and one length; the paper's takes 10 s at 8 kHz.
Recordings are averaged over their channels, resampled as data preparation does it (soxr VHQ) and
cut into windows of that length. The last window is zero-padded, as the clips of the training were.
All windows go through one program of one shape, so nothing is compiled again for any number of
windows.
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
_CHUNK = 8  # Batches in one program. Batches without any window are not computed.


class Embedder:
    """A trained network as a function of recordings.

    Attributes:
      waveform_format: sample rate and length of a window, which are the network's. Recordings are
        resampled to this rate.
      embedding_size: values of an embedding; 128 for the paper's network.
      trained: facts of the training: root, side, labeling, method, clips, test metrics.
      fingerprint: a digest of the weights that embeddings depend on. The output layer is left out:
        it has only the trained classes or, if their names are not known, all of the side.
      batch_size: windows that the devices compute together.
    """

    def __init__(self, pretrained: Pretrained, *, batch_size: int | None = None):
        """Makes an embedder of a network that is loaded already; `batch_size` as in `load`."""
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
          ontology: `ontology.json`, which names the classes of a workdir; by default that of the
            data set of the training, or AudioSet's own if that has the same classes.
          batch_size: windows that the devices compute together; by default what suits the devices.

        Raises:
          InputError: the folder is neither, is damaged, or has another network.
        """
        return cls(load_pretrained(path, ontology), batch_size=batch_size)

    @property
    def sample_rate_hz(self) -> int:
        """The rate that recordings are resampled to; 8,000 for the paper's network."""
        return self.waveform_format.sample_rate_hz

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
        self, clips: Iterable[np.ndarray], rate_hz: float, *, hop_s: float | None = None
    ) -> np.ndarray:
        """One embedding a clip: the mean over its windows, each weighted by its seconds of sound.

        Args:
          clips: a sequence of recordings, each `[time]` or `[time, channels]`, from 0.01 s to
            hours; or one array `[clips, time]` or `[clips, time, channels]`; or one `[time]`.
            Samples are float in -1 to 1, int16 or int32.
          rate_hz: their sample rate.
          hop_s: seconds from the start of one window to the start of the next; at most, and by
            default, the length of a window.

        Returns:
          float32[clips, embedding_size].

        Raises:
          InputError: a clip or the rate does not have that form, or a clip has a NaN or is empty.
        """
        return self._means(clips, rate_hz, hop_s)[0]

    def scores(
        self, clips: Iterable[np.ndarray], rate_hz: float, *, hop_s: float | None = None
    ) -> np.ndarray:
        """How present each of `classes` is, in 0 to 1.

        The mean over the windows, as in `embed`, with the same arguments and errors.

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
        """Embeddings along the time of clips of one length.

        A frame is `window_s` of sound around its centre. The network gets it as it gets a clip of
        that length: at the start of a window, followed by zeros.

        Args:
          clips, rate_hz: as in `embed`, but of one length.
          hop_s: seconds from one centre to the next.
          window_s: seconds of sound in a frame; at most the length of a window.

        Returns:
          `(embeddings, centers_ms)`: float32[clips, frames, embedding_size], and float64[frames]:
          0, hop_s, and so on, up to the end of the clip.

        Raises:
          InputError: as `embed`; or the clips differ in length.
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
        """Embeddings and scores of windows as a data set stores them, as a stream.

        The next windows are read while the devices compute.

        Args:
          windows: int16[waveform_format.num_samples] each.

        Yields:
          `(embeddings, scores)`: float32[windows, embedding_size] and float32[windows, outputs] of
          some windows, in their order.
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
        """Samples from the start of one window to the start of the next.

        Raises:
          InputError: `hop_s` is not above 0, or longer than a window.
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
    """The first rows of [chunk, batch, values], [number, values]."""
    rows = np.asarray(outputs)
    return rows.reshape(-1, rows.shape[-1])[:number]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    network: Backbone, mesh: Mesh, variables: Variables, chunk: jax.Array, num_batches: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Embeddings [chunk, batch, embedding_size] and scores [chunk, batch, outputs].

    Only the first `num_batches` batches are computed; the embeddings of the others are 0.
    """

    def embed(variables, chunk, num_batches):
        embeddings = predict_chunk(network, "embed", variables, (), chunk, num_batches)
        return embeddings, network.apply(variables, embeddings, method="head").scores

    axes = (PartitionSpec(), _BATCHES, PartitionSpec())
    return on_each_device(embed, mesh, axes, _BATCHES)(variables, chunk, num_batches)
