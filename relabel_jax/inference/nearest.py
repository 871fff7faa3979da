"""Finds the recordings of an embedded folder that are nearest to a sound.

    embedder = relabel_jax.Embedder.load("W/base")
    clips = Clips.read("embeddings.parquet", embedder)
    for path, start_s, similarity in clips.nearest_to("query.wav", embedder, 10): ...

The similarity of two windows is the cosine of their embeddings.
"""

import dataclasses
import itertools
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from relabel_jax.audio.places import path_of_text
from relabel_jax.errors import InputError, Rejected
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.listen import listen, without_padding
from relabel_jax.inference.parts import NETWORK_KEY


@dataclasses.dataclass(frozen=True)
class Clips:
    """The windows of an embedded folder.

    Attributes:
      paths: str[windows], paths of the recordings, as `relabel_jax.embed` found them.
      starts_s: float64[windows], where the windows start in their recordings.
      directions: float32[windows, embedding_size], embeddings of length 1.
    """

    paths: np.ndarray
    starts_s: np.ndarray
    directions: np.ndarray

    @classmethod
    def read(cls, path: str | pathlib.Path, embedder: Embedder) -> "Clips":
        """Reads a file that `relabel_jax.embed` wrote with this network.

        Args:
          path: the Parquet file.
          embedder: the network.

        Raises:
          InputError: the file cannot be read, has no rows or was made by another network.
        """
        where = f"--embeddings={path}"
        width = embedder.embedding_size
        schema = pa.schema(
            [
                pa.field("path", pa.string(), nullable=False),
                pa.field("start_s", pa.float64(), nullable=False),
                pa.field("embedding", pa.list_(pa.float32(), width), nullable=False),
            ]
        )
        try:
            table = pq.read_table(path, columns=schema.names)
            network = (table.schema.metadata or {}).get(NETWORK_KEY, b"").decode()
            paths, starts_s, embeddings = table.cast(schema).combine_chunks().columns
            values = embeddings.combine_chunks().flatten().to_numpy().reshape(-1, width)
        except (OSError, ValueError, pa.ArrowException) as error:
            line, *_ = str(error).split("\n")
            raise InputError(
                f"{where}: expected a Parquet file as relabel_jax.embed writes it with this "
                f"checkpoint, with embeddings of {width} values: {line}"
            ) from error
        if network not in ("", embedder.fingerprint):  # older files do not name it
            raise InputError(
                f"{where}: is of another network than --checkpoint; embed the folder again with it"
            )
        if not len(values):
            raise InputError(f"{where}: has no rows; embed a folder with recordings")
        if not np.isfinite(values).all():
            raise InputError(f"{where}: has a NaN or an infinity; embed the folder again")
        return cls(paths.to_numpy(), starts_s.to_numpy(), _directions(values))

    def nearest_to(
        self, recording: str | pathlib.Path, embedder: Embedder, number: int
    ) -> list[tuple[str, float, float]]:
        """Returns what `nearest` returns for a recording of any length.

        The recording itself is left out if it is one of the embedded recordings. So is its last
        window if that is mostly padding.

        Args:
          recording: path of the recording.
          embedder: the network that made the embeddings.
          number: recordings to return, at most.

        Raises:
          InputError: the recording cannot be decoded, is shorter than 0.01 s or has a NaN.
        """
        try:
            duration_s, embeddings, _ = listen(embedder, str(recording))
        except Rejected as error:
            raise InputError(f"{recording}: {error}") from error
        embeddings = without_padding(embedder, duration_s, embeddings)
        itself = os.path.realpath(recording)
        others = self.nearest(embeddings, number + 1)
        is_other = [os.path.realpath(path_of_text(path)) != itself for path, *_ in others]
        return list(itertools.compress(others, is_other))[:number]

    def nearest(self, embeddings: np.ndarray, number: int) -> list[tuple[str, float, float]]:
        """Returns the recordings that are nearest to a sound, the nearest first.

        Args:
          embeddings: float32[windows, embedding_size] of the sound.
          number: recordings to return, at most.

        Returns:
          `(path, start_s, similarity)` of each recording. The similarity is the largest cosine
          between a window of the sound and a window of the recording, which starts at `start_s`.
        """
        similarities = np.full(len(self.paths), -np.inf, np.float32)
        for direction in _directions(embeddings):  # one by one: a sound may last hours
            np.maximum(similarities, self.directions @ direction, out=similarities)
        found: dict[str, tuple[str, float, float]] = {}
        for row in np.argsort(-similarities, kind="stable"):
            path = self.paths[row]
            found.setdefault(path, (path, float(self.starts_s[row]), float(similarities[row])))
            if len(found) == number:
                break
        return list(found.values())


def _directions(embeddings: np.ndarray) -> np.ndarray:
    """Scales embeddings to length 1. Zeros stay zeros."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
