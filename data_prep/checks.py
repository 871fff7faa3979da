"""The checks of the files of a data set. verify.py calls them in order."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from relabel_jax import digests
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.data import integrity
from relabel_jax.data.layout import (
    CLIP_SCHEMA,
    FEATURES_NAME,
    INDEX_NAME,
    INDEX_SCHEMA,
    INFO_NAME,
    ONTOLOGY_NAME,
    REJECTS_NAME,
    SHARD_NAME,
    shard_name,
    stored_format,
)
from relabel_jax.data.schema import record_features
from relabel_jax.errors import InputError
from relabel_jax.faults import ARRAY_RECORD_BYTES, check_memory
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot
from relabel_jax.labels.views import SPLITS


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem of one file of the data set."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def read_ontology(data_dir: pathlib.Path, problems: list[Problem]) -> Ontology | None:
    """Reads the ontology. If it cannot be read, adds a problem and returns None."""
    try:
        return Ontology.from_json(data_dir / ONTOLOGY_NAME)
    except InputError as error:
        problems.append(Problem(ONTOLOGY_NAME, str(error)))
        return None


def read_metadata(
    data_dir: pathlib.Path,
    ontology: Ontology | None,
    waveform_format: WaveformFormat | None,
    problems: list[Problem],
) -> dict[str, list[int]] | None:
    """Reads TFDS's metadata and checks them.

    Args:
      data_dir: the data set's folder.
      ontology, waveform_format: those of the data set; if one is None, the schema is not checked.
      problems: problems are added to this list.

    Returns:
      The number of records of each shard, by split; None if the metadata cannot be read.
    """
    try:
        info = tfds.builder_from_directory(data_dir).info
        lengths = {name: list(split.shard_lengths) for name, split in info.splits.items()}
        # The first has the shapes, the second the encoding.
        features = info.features.get_tensor_info(), info.features.get_serialized_info()
    except Exception as error:  # TFDS raises errors of many kinds
        what = f"TFDS cannot read it, or {FEATURES_NAME}: {_line(error)}"
        problems.append(Problem(INFO_NAME, what))
        return None
    if set(lengths) - set(SPLITS):
        problems.append(Problem(INFO_NAME, f"splits {sorted(lengths)}"))
    if ontology and waveform_format:
        expected = record_features(len(ontology), waveform_format.num_samples)
        if features != (expected.get_tensor_info(), expected.get_serialized_info()):
            what = (
                f"is not the schema of records over the {len(ontology)} classes of "
                f"{ONTOLOGY_NAME}, with waveforms of {waveform_format}"
            )
            problems.append(Problem(FEATURES_NAME, what))
    return lengths


def read_index(
    data_dir: pathlib.Path, ontology: Ontology | None, problems: list[Problem]
) -> tuple[pa.Table | None, WaveformFormat | None]:
    """Reads the clip index and checks it.

    Args:
      data_dir: the data set's folder.
      ontology: if None, the labels are not checked.
      problems: problems are added to this list.

    Returns:
      `(index, waveform_format)`: the index, or None if it has a problem; and the format of the
      waveforms, or None if the index cannot be read.
    """
    try:
        index = pq.read_table(data_dir / INDEX_NAME)
        waveform_format = stored_format(index.schema)
    except FileNotFoundError:
        what = "is missing: the build has not ended; the same data_prep.build finishes it"
        problems.append(Problem(INDEX_NAME, what))
        return None, None
    except (OSError, pa.ArrowException, ValueError) as error:
        problems.append(Problem(INDEX_NAME, f"cannot be read: {_line(error)}"))
        return None, None
    if index.schema == CLIP_SCHEMA:  # of an older version, which did not look for it
        index = index.append_column(
            INDEX_SCHEMA.field("partial"), pa.array(np.zeros(len(index), bool))
        )
    if index.schema != INDEX_SCHEMA:
        names = ", ".join(f"{field.name} {field.type}" for field in index.schema)
        problems.append(Problem(INDEX_NAME, f"has the columns {names}"))
        return None, waveform_format
    wrong: list[str] = []
    if any(column.null_count for column in index.columns):
        wrong.append("has empty cells")
    counts = pc.value_counts(index["clip_id"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        wrong.append(f"has {len(twice)} clips more than once, the first is {twice[0]}")
    place = pc.index_in(index["split"], pa.array(SPLITS))
    if place.null_count or (np.diff(np.asarray(place)) < 0).any():
        wrong.append(f"is not in the order {', '.join(SPLITS)}")
    if not wrong and ontology is not None:
        numbers = np.asarray(pc.list_flatten(index["ol"]))
        lengths = np.asarray(pc.list_value_length(index["ol"]))
        of_row = np.repeat(np.arange(len(index)), lengths)
        if ((numbers < 0) | (numbers >= len(ontology))).any():
            wrong.append(f"has labels that are not among the {len(ontology)} classes")
        elif ((np.diff(numbers) <= 0) & (np.diff(of_row) == 0)).any():
            wrong.append("has labels that are not in ascending order")
    problems += [Problem(INDEX_NAME, what) for what in wrong]
    return (None if wrong else index), waveform_format


def check_rejects(data_dir: pathlib.Path, index: pa.Table) -> list[Problem]:
    """Checks the table of rejects and returns its problems."""
    try:
        with open(data_dir / REJECTS_NAME, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        ids = [row["clip_id"] for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        return [Problem(REJECTS_NAME, f"cannot be read: {_line(error)}")]
    both = set(ids) & set(index["clip_id"].to_pylist())
    if both:
        what = f"{len(both)} clips are in the index too, one is {min(both)}"
        return [Problem(REJECTS_NAME, what)]
    return []


def read_digests(data_dir: pathlib.Path, problems: list[Problem]) -> integrity.Recorded | None:
    """Reads the digests of the files and compares those of the files beside the shards.

    Args:
      data_dir: the data set's folder.
      problems: a problem is added for each file that has another digest and no problem yet.

    Returns:
      The digests, or None if there are none.
    """
    try:
        recorded = integrity.read(data_dir)
    except InputError as error:
        problems.append(Problem(digests.LIST_NAME, str(error)))
        return None
    if recorded is None:
        return None
    known = {problem.file for problem in problems}
    if INFO_NAME in known:  # TFDS reads both, and that problem names both
        known.add(FEATURES_NAME)
    problems += [
        Problem(name, what)
        for name, what in integrity.changed_files(data_dir, recorded, integrity.SMALL_FILES)
        if name not in known
    ]
    return recorded


def shard_rows(
    data_dir: pathlib.Path,
    shard_lengths: Mapping[str, list[int]],
    index: pa.Table,
    problems: list[Problem],
) -> dict[str, pa.Table]:
    """Finds the rows of the index that each shard must have.

    Args:
      data_dir: the data set's folder.
      shard_lengths: the number of records of each shard, by split.
      index: the clip index.
      problems: missing and unexpected shards and splits of wrong length are added to this list.

    Returns:
      The rows of each shard that exists and is expected, by its name.
    """
    found = sorted(path.name for path in data_dir.glob("*.array_record*"))
    expected: dict[str, tuple[int, int]] = {}  # by name, first row and number of records
    row = 0
    for split in SPLITS:
        lengths = shard_lengths.get(split, [])
        num_rows = pc.sum(pc.equal(index["split"], split)).as_py() or 0
        if sum(lengths) != num_rows:
            what = f"{sum(lengths)} {split} records, but {INDEX_NAME} has {num_rows}"
            problems.append(Problem(INFO_NAME, what))
        for number, length in enumerate(lengths):
            expected[shard_name(split, number, len(lengths))] = (row, length)
            row += length
    # TFDS's metadata omit an empty split, but the build may have written its empty shards.
    for name in found:
        match = SHARD_NAME.fullmatch(name)
        if match and match[1] in SPLITS and match[1] not in shard_lengths:
            expected.setdefault(name, (0, 0))
    problems += [Problem(name, f"is not in {INFO_NAME}") for name in found if name not in expected]
    problems += [Problem(name, "is missing") for name in expected if name not in found]
    return {
        name: index.slice(first_row, length).combine_chunks()
        for name, (first_row, length) in expected.items()
        if name in found
    }


def check_shard(
    data_dir: pathlib.Path,
    ontology: Ontology,
    waveform_format: WaveformFormat,
    name: str,
    rows: pa.Table,
    facts: integrity.ShardFacts | None,
) -> list[str]:
    """Checks one shard and returns its problems.

    Args:
      data_dir: the data set's folder.
      ontology: the ontology of the labels.
      waveform_format: the format of the waveforms.
      name: the name of the shard.
      rows: the rows of the index for the records of the shard.
      facts: size, number of records and digest by the build; None if an older version built it.

    Raises:
      MemoryError: ArrayRecord would have too little memory.
    """
    path = data_dir / name
    try:
        digest = digests.of_file(path)
    except InputError as error:  # a fault of the disk, which ArrayRecord reads as an empty shard
        return [str(error).removeprefix(f"{path}: ")]
    check_memory(ARRAY_RECORD_BYTES)
    try:
        reader = ArrayRecordReader(os.fspath(path), "readahead_buffer_size:0")
        num_records = reader.num_records()
    except Exception as error:  # ArrayRecord raises RuntimeError, ValueError, IndexError
        return [f"cannot be read: {_line(error)}"]
    if num_records != len(rows):
        return [f"{num_records} records, but {INFO_NAME} says {len(rows)}"]
    ol = multi_hot(rows["ol"].combine_chunks(), len(ontology))
    pel, masked = relabel(ol, ontology, "pe_cml")
    expected = {"ol": ol, "pel": pel, "masked": masked}
    features = record_features(len(ontology), waveform_format.num_samples)
    problems: list[str] = []
    for position, clip_id in enumerate(rows["clip_id"].to_pylist()):
        try:
            # One by one, because a damaged record hides those that are read together with it.
            (serialized,) = reader.read([position])
            record = features.deserialize_example_np(serialized)
        except Exception as error:
            problems.append(f"record {position} ({clip_id}): cannot be read: {_line(error)}")
            continue
        found_id = record["clip_id"].decode(errors="replace")
        if found_id != clip_id:
            problems.append(f"record {position}: is {found_id}, but {INDEX_NAME} says {clip_id}")
            continue
        wrong = [key for key, labels in expected.items() if (record[key] != labels[position]).any()]
        if wrong:
            problems.append(
                f"record {position} ({clip_id}): {', '.join(wrong)} are not what {INDEX_NAME} and "
                f"{ONTOLOGY_NAME} make of it"
            )
    reader.close()
    if not problems and facts and digest != facts.sha256:
        problems.append(digests.CHANGED)
    return problems


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
