"""The output of an embedded folder, which is complete: a Parquet file and the list of rejects."""

import csv
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from relabel_jax.errors import InputError

NETWORK_KEY = b"relabel_jax.network"
"""Key of the Parquet file's metadata for the fingerprint of the network."""


class Output(NamedTuple):
    """A complete output.

    Attributes:
      path: the Parquet file.
      num_rows: its number of rows.
      rejected: the texts of the paths of the rejected recordings (`places.path_text`).
    """

    path: pathlib.Path
    num_rows: int
    rejected: list[str]

    @classmethod
    def open(cls, path: pathlib.Path, fingerprint: str, num_scores: int) -> "Output":
        """Opens an output.

        Args:
          path: the Parquet file.
          fingerprint: the fingerprint of the network.
          num_scores: the number of classes of a row.

        Raises:
          InputError: the output cannot be read, or is of another network or without the scores.
        """
        try:
            metadata = pq.read_metadata(path)
            with open(rejects_path(path), newline="", encoding="utf-8") as file:
                rejected = [row["path"] for row in csv.DictReader(file)]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise InputError(f"{path}: cannot read it: {error}") from error
        if (metadata.metadata or {}).get(NETWORK_KEY) != fingerprint.encode():
            raise InputError(f"{path}: was made with another network; give the same --checkpoint")
        if ("scores" in metadata.schema.to_arrow_schema().names) != bool(num_scores):
            raise InputError(f"{path}: was made with another --scores; give the same")
        return cls(path, metadata.num_rows, rejected)

    def count_recordings(self) -> int:
        """The number of recordings that have rows."""
        return len(pq.read_table(self.path, columns=["path"])["path"].unique())

    def tables(self) -> Iterator[pa.Table]:
        """Yields the rows, some at a time."""
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)


def rejects_path(output: pathlib.Path) -> pathlib.Path:
    """The path of the list of rejects of an output."""
    return output.with_name(f"{output.name}.rejects.csv")
