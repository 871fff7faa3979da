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
from array_record.python.array_record_module import ArrayRecordReader

from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.data import integrity
from relabel_jax.data.layout import (
    INDEX_NAME,
    INDEX_SCHEMA,
    ONTOLOGY_NAME,
    shard_pattern,
    stored_format,
)
from relabel_jax.data.schema import clip_id_and_waveform
from relabel_jax.errors import InputError
from relabel_jax.faults import ARRAY_RECORD_BYTES, check_memory, named_fault
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

_OTHER_OPEN_FILES = 512  # for checkpoints, threads and libraries
_FEWEST_OTHER_OPEN_FILES = 64
_READ_COLUMNS = pa.schema(
    [INDEX_SCHEMA.field(name).with_nullable(False) for name in ("clip_id", "split", "ol")]
)


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """A data set that `data_prep.build` wrote. Row r is record r of the shards in their order.

    Attributes:
      path: the folder.
      ontology: the ontology that the labels refer to.
      waveform_format: sample rate and length of the waveforms.
      clip_ids: string array [clips].
      labels: bool[clips, classes], the original labels.
      clip_splits: int8[clips], index into `SPLITS`.
      fingerprint: a digest of ontology, ids, splits, labels and format. Equal data sets have equal
        fingerprints.
    """

    path: pathlib.Path
    ontology: Ontology
    waveform_format: WaveformFormat
    clip_ids: np.ndarray
    labels: np.ndarray
    clip_splits: np.ndarray
    fingerprint: str

    @functools.cached_property
    def _records(self) -> ArrayRecordDataSource:
        shards = [str(shard) for shard in _shards(self.path)]
        _allow_open_files(self.path, len(shards))
        check_memory(ARRAY_RECORD_BYTES)
        try:
            return ArrayRecordDataSource(shards)
        except (OSError, RuntimeError) as error:
            what = str(error).splitlines()[0]
            raise InputError(
                f"{self.path}: cannot open the shards ({what}); {_remedy(what)}"
            ) from error

    def read_waveforms(self, rows: np.ndarray) -> np.ndarray:
        """Reads the waveforms of some rows.

        Args:
          rows: int[n], in any order; a row may occur more than once.

        Returns:
          int16[n, waveform_format.num_samples], in the order of `rows`.

        Raises:
          InputError: a record cannot be read, or is not that of the clip in the index.
        """
        num_samples = self.waveform_format.num_samples
        waveforms = np.empty((len(rows), num_samples), np.int16)
        found_ids: list[bytes] = []
        try:
            for i, record in enumerate(self._records.__getitems__(rows.tolist())):
                clip_id, waveform = clip_id_and_waveform(record)
                # A waveform of one sample would be broadcast.
                waveforms[i] = waveform.reshape(num_samples)
                found_ids.append(clip_id)
        except Exception as error:  # array_record and protobuf can raise any exception
            raise InputError(
                f"{self.path}: cannot read a record ({error}); {_remedy(str(error))}"
            ) from error
        for row, found, expected in zip(rows, found_ids, self.clip_ids[rows].tolist(), strict=True):
            if found != expected.encode():
                raise InputError(
                    f"{self._shard_of(row)}: has the record of {found.decode(errors='replace')!r} "
                    f"where {INDEX_NAME} has {expected!r}: it is of another place or another "
                    "build; build the data set again"
                )
        return waveforms

    def _shard_of(self, row: int) -> pathlib.Path:
        """Finds the shard that has the record of a row."""
        shards = _shards(self.path)
        ends = np.cumsum([ArrayRecordReader(str(shard)).num_records() for shard in shards])
        return shards[np.searchsorted(ends, row, side="right")]


def open_data_set(path: str | pathlib.Path) -> DataSet:
    """Opens a folder that `data_prep.build` wrote.

    Raises:
      InputError: the folder is not a finished data set, a file is not the one that the build
        wrote, or index and shards do not agree.
    """
    path = pathlib.Path(path)
    if not (path / INDEX_NAME).is_file():
        raise InputError(
            f"{path}: not a finished data set (it has no {INDEX_NAME}); set config.data_dir to the "
            "--output_dir of a data_prep.build that has ended"
        )
    integrity.check(path)
    ontology = Ontology.from_json(path / ONTOLOGY_NAME)
    try:
        schema = pq.read_schema(path / INDEX_NAME)
        waveform_format = stored_format(schema)
        index = pq.read_table(path / INDEX_NAME, columns=_READ_COLUMNS.names)
        index.validate(full=True)
        index = index.cast(_READ_COLUMNS)
    except (OSError, ValueError, pa.ArrowException) as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"{path / INDEX_NAME}: cannot read the clip index ({what}); build the data set again"
        ) from error
    clip_ids = np.asarray(index["clip_id"]).astype(str)
    clip_splits = _split_numbers(path, index)
    counts, numbers, labels = _labels(path, index, clip_ids, ontology)

    digest = hashlib.blake2b(ontology.text.encode(), digest_size=16)
    digest.update("\n".join(clip_ids).encode())
    for array in (clip_splits, counts, numbers):
        digest.update(np.ascontiguousarray(array))
    if waveform_format != PAPER_FORMAT:  # keeps the digest of version 0.1
        digest.update(str(waveform_format).encode())
    data_set = DataSet(
        path=path,
        ontology=ontology,
        waveform_format=waveform_format,
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


def check_format(data_set: DataSet, needed: WaveformFormat, what: str) -> None:
    """Checks that a data set has the waveforms that a network takes.

    Args:
      data_set: the data set.
      needed: sample rate and length that are needed.
      what: the part that needs them, such as "the network waveform_cnn".

    Raises:
      InputError: sample rate or length differ.
    """
    if data_set.waveform_format != needed:
        raise InputError(
            f"{data_set.path}: has waveforms of {data_set.waveform_format}, but {what} takes "
            f"{needed}; build a data set with data_prep.build "
            f"--sample_rate_hz={needed.sample_rate_hz} --duration_s={needed.duration_s:.12g}"
        )


def _split_numbers(path: pathlib.Path, index: pa.Table) -> np.ndarray:
    """int8[clips]: index into `SPLITS`."""
    for split in index["split"].unique().to_pylist():
        if split not in SPLITS:
            raise InputError(
                f"{path / INDEX_NAME}: has the split {split!r}, expected {', '.join(SPLITS)}; "
                "build the data set again"
            )
    return np.asarray(pc.index_in(index["split"], pa.array(SPLITS))).astype(np.int8)


def _labels(
    path: pathlib.Path, index: pa.Table, clip_ids: np.ndarray, ontology: Ontology
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The original labels.

    Returns:
      `(counts, numbers, labels)`: how many labels each clip has, int[clips]; the class numbers of
      all clips, one clip after the other, int16[labels]; and bool[clips, classes].
    """
    lists = index["ol"].combine_chunks()
    counts = np.asarray(pc.list_value_length(lists))
    numbers = np.asarray(lists.flatten())
    clips = np.repeat(np.arange(len(clip_ids)), counts)
    outside = np.flatnonzero(~((numbers >= 0) & (numbers < len(ontology))))
    if len(outside):
        raise InputError(
            f"{path / INDEX_NAME}: clip {str(clip_ids[clips[outside[0]]])!r} has the class number "
            f"{numbers[outside[0]]} but {ONTOLOGY_NAME} has {len(ontology)} classes; build the "
            "data set again"
        )
    labels = np.zeros((len(clip_ids), len(ontology)), bool)
    labels[clips, numbers] = True
    return counts, numbers, labels


def _remedy(message: str) -> str:
    """The advice after an error of ArrayRecord."""
    if named_fault(message):
        return "this is a fault of the system: mend it and run the same command again"
    return "the shards are damaged or not all there: build the data set again"


def _allow_open_files(path: pathlib.Path, num_shards: int) -> None:
    """Raises this process's limit of open files as far as `num_shards` open shards need it.

    A shard stays open once it is read. The usual limit is 1,024 files. A process may raise its
    limit up to a hard limit.

    Raises:
      InputError: the hard limit is too low.
    """
    wanted = num_shards + _OTHER_OPEN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY:
        if hard < num_shards + _FEWEST_OTHER_OPEN_FILES:
            raise InputError(
                f"{path}: has {num_shards} shards, which are all kept open, and this process may "
                f"open {hard} files; raise that limit (ulimit -Hn) to {wanted}, or build the data "
                "set with more --clips_per_shard"
            )
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shards(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists the shards in the order of the index: by split, then by number.

    Raises:
      InputError: a shard is missing, or all are.
    """
    shards = []
    for split in SPLITS:
        found = sorted(path.glob(shard_pattern(split)))
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
