"""A built data set on disk: its ontology, its clip index, and random access to its records."""

import dataclasses
import functools
import hashlib
import pathlib
import re
import resource

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.core.features import FeaturesDict

from relabel_jax.data.schema import WAVEFORM_SAMPLES, waveform_feature
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

INDEX_NAME = "clips.parquet"
ONTOLOGY_NAME = "ontology.json"
_OTHER_OPEN_FILES = 512  # a training's checkpoints, threads, libraries
# The columns of the index that are read here.
_INDEX = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("ol", pa.list_(pa.int16()), nullable=False),
    ]
)


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """What `data_prep.build` wrote. Row r is the r-th record of the shards in order.

    Attributes:
      path: the folder.
      ontology: the ontology that its labels refer to.
      clip_ids: string array [clips].
      labels: bool[clips, classes], the original labels.
      clip_splits: int8[clips], index into `SPLITS`.
      fingerprint: a digest of ontology, ids, splits and labels; equal for equal contents.
    """

    path: pathlib.Path
    ontology: Ontology
    clip_ids: np.ndarray
    labels: np.ndarray
    clip_splits: np.ndarray
    fingerprint: str

    @functools.cached_property
    def _records(self) -> ArrayRecordDataSource:
        shards = [str(shard) for shard in _shards(self.path)]
        _allow_open_files(self.path, len(shards))
        try:
            return ArrayRecordDataSource(shards)
        except (OSError, RuntimeError) as error:
            what = str(error).splitlines()[0]
            raise InputError(
                f"{self.path}: cannot open the shards ({what}); build the data set again"
            ) from error

    def read_waveforms(self, rows: np.ndarray) -> np.ndarray:
        """int16[rows, 80000]: the waveforms of these rows, in their order.

        Raises:
          InputError: a record cannot be read.
        """
        features = FeaturesDict({"waveform": waveform_feature()})
        waveforms = np.empty((len(rows), WAVEFORM_SAMPLES), np.int16)
        try:
            for i, record in enumerate(self._records.__getitems__(rows.tolist())):
                waveforms[i] = features.deserialize_example_np(record)["waveform"]
        except Exception as error:  # array_record and protobuf raise what they like
            raise InputError(
                f"{self.path}: cannot read a record ({error}); the shards are damaged or not all "
                "there: build the data set again"
            ) from error
        return waveforms


def open_data_set(path: str | pathlib.Path) -> DataSet:
    """Opens a folder that `data_prep.build` wrote.

    Raises:
      InputError: it is not one, it is unfinished, or index and shards do not fit together.
    """
    path = pathlib.Path(path)
    if not (path / INDEX_NAME).is_file():
        raise InputError(
            f"{path}: not a finished data set (it has no {INDEX_NAME}); set config.data_dir to the "
            "--output_dir of a data_prep.build that has ended"
        )
    ontology = Ontology.from_json(path / ONTOLOGY_NAME)
    try:
        index = pq.read_table(path / INDEX_NAME, columns=_INDEX.names).cast(_INDEX)
    except (OSError, ValueError, pa.ArrowException) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"{path / INDEX_NAME}: cannot read the clip index ({what}); build the data set again"
        ) from error
    clip_ids = np.asarray(index["clip_id"]).astype(str)
    for split in index["split"].unique().to_pylist():
        if split not in SPLITS:
            raise InputError(
                f"{path / INDEX_NAME}: has the split {split!r}, expected {', '.join(SPLITS)}; "
                "build the data set again"
            )
    clip_splits = np.asarray(pc.index_in(index["split"], pa.array(SPLITS))).astype(np.int8)
    numbers = index["ol"].combine_chunks()
    counts = np.asarray(pc.list_value_length(numbers))
    flat = np.asarray(numbers.flatten())
    clips = np.repeat(np.arange(len(clip_ids)), counts)
    outside = np.flatnonzero(~((flat >= 0) & (flat < len(ontology))))
    if len(outside):
        raise InputError(
            f"{path / INDEX_NAME}: clip {str(clip_ids[clips[outside[0]]])!r} has the class number "
            f"{flat[outside[0]]} but {ONTOLOGY_NAME} has {len(ontology)} classes; build the data "
            "set again"
        )
    labels = np.zeros((len(clip_ids), len(ontology)), bool)
    labels[clips, flat] = True

    digest = hashlib.blake2b(digest_size=16)
    for part in (ontology.text.encode(), "\n".join(clip_ids).encode(), clip_splits, counts, flat):
        digest.update(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else part)
    data_set = DataSet(
        path=path,
        ontology=ontology,
        clip_ids=clip_ids,
        labels=labels,
        clip_splits=clip_splits,
        fingerprint=digest.hexdigest(),
    )
    num_records = len(data_set._records)
    if num_records != len(clip_ids):
        raise InputError(
            f"{path}: the shards hold {num_records} records but {INDEX_NAME} lists "
            f"{len(clip_ids)} clips; build the data set again"
        )
    return data_set


def check_format(data_set: DataSet, needed, what: str) -> None:
    """Replaced by the data side."""


def _allow_open_files(path: pathlib.Path, num_shards: int) -> None:
    """A shard that is read stays open, and the usual limit is 1,024 files; a process may raise it
    up to a hard limit.

    Raises:
      InputError: that is too low too.
    """
    wanted = num_shards + _OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        if hard <= num_shards:
            raise InputError(
                f"{path}: has {num_shards} shards, which are all kept open, and this process may "
                f"open {hard} files; raise that limit (ulimit -Hn) to {wanted}, or build the data "
                "set with more --clips_per_shard"
            )
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shards(path: pathlib.Path) -> list[pathlib.Path]:
    """All shard files in the index's order: by split, then by number.

    Raises:
      InputError: a shard is missing, or all are.
    """
    shards = []
    for split in SPLITS:
        # Not what a copying program left beside them, such as `.NAME.x8Tq` or `NAME.part`.
        found = sorted(path.glob(f"[!.]*-{split}.array_record-?????-of-?????"))
        counts = {re.sub(r".*-of-", "", shard.name) for shard in found}
        if found and {len(found)} != {int(count) for count in counts}:
            raise InputError(
                f"{path}: {len(found)} shards of the split {split} are there, expected "
                f"{' or '.join(counts)}; build the data set again"
            )
        shards += found
    if not shards:
        raise InputError(f"{path}: has an index but no shards; build the data set again")
    return shards
