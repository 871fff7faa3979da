"""Writes the files beside the shards of a data set: rejects, ontology, TFDS's metadata, index."""

import collections
import csv
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds

from data_prep.plan import Outcome, Plan
from data_prep.sources import Recording
from data_prep.working_folder import METADATA_FOLDER
from relabel_jax import digests
from relabel_jax.data import integrity
from relabel_jax.data.layout import (
    CLIP_SCHEMA,
    FEATURES_NAME,
    INDEX_NAME,
    INDEX_SCHEMA,
    INFO_NAME,
    ONTOLOGY_NAME,
    REJECTS_FIELDS,
    REJECTS_NAME,
    index_schema,
)
from relabel_jax.data.schema import record_features
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.labels.views import SPLITS

# The row in the segments, and the columns of rejects.csv.
_Reject = tuple[int, str, str, str, str]


def write_data_set_files(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    """Writes the files that describe the shards. The index is last: a folder with it is complete.

    Right before it, `sha256.json` is written, which holds the digest of the index too.

    Args:
      plan: the plan, whose tasks are all done.
      outcomes: their outcomes, in the order of the plan's shards.

    Raises:
      InputError: a file cannot be written, or all clips were rejected.
    """
    data_dir = plan.data_dir
    index, rejects = _index_and_rejects(plan, outcomes)
    _write_rejects(data_dir / REJECTS_NAME, rejects)
    if not len(index):
        raise InputError(
            f"{data_dir}: none of the {len(rejects)} clips could be written; "
            f"{data_dir / REJECTS_NAME} says why"
        )
    with complete_file(data_dir / ONTOLOGY_NAME) as path:
        path.write_bytes(plan.ontology.text.encode())
    _write_tfds_metadata(plan, outcomes)
    with complete_file(data_dir / INDEX_NAME) as path:
        pq.write_table(index, path)
        integrity.write(data_dir, path, _shard_facts(plan, outcomes))


def is_complete(plan: Plan) -> bool:
    """Whether the files that describe the shards are there and belong to the plan's outcomes.

    Args:
      plan: the plan, whose tasks are all done.
    """
    data_dir = plan.data_dir
    if not (data_dir / INDEX_NAME).exists():
        return False
    try:
        recorded = integrity.read(data_dir)
        if recorded is None:
            return plan.is_old
    except InputError:
        return False
    if any(integrity.changed_files(data_dir, recorded, integrity.SMALL_FILES)):
        return False
    return recorded.shards == _shard_facts(plan, plan.outcomes())


def _shard_facts(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, integrity.ShardFacts]:
    return {
        shard.name: integrity.ShardFacts(
            outcome.num_bytes,
            outcome.num_records,
            # A build that an older version began has no digest.
            outcome.sha256 or digests.of_file(plan.data_dir / shard.name),
        )
        for shard, outcome in zip(plan.shards, outcomes, strict=True)
    }


def count_rejects(plan: Plan, outcomes: Sequence[Outcome]) -> collections.Counter[str]:
    """Counts the rejected clips by reason."""
    reasons = collections.Counter(plan.without_recording["reason"].to_pylist())
    for outcome in outcomes:
        reasons.update(reason for _, reason, _ in outcome.rejects)
    return reasons


def _index_and_rejects(plan: Plan, outcomes: Sequence[Outcome]) -> tuple[pa.Table, list[_Reject]]:
    """Returns the clips that were written, in the order of the records, and the rejected ones."""
    rejects: list[_Reject] = []
    index: list[pa.RecordBatch] = []
    for shard, outcome in zip(plan.shards, outcomes, strict=True):
        clips = plan.clips(shard)
        is_written = np.ones(clips.num_rows, bool)
        is_partial = np.zeros(clips.num_rows, bool)
        is_partial[outcome.partial] = True
        for position, reason, detail in outcome.rejects:
            is_written[position] = False
            row, clip_id, path, member = (
                clips[name][position].as_py() for name in ("row", "clip_id", "path", "member")
            )
            source = str(Recording(os.fsdecode(path), member))
            rejects.append((row, clip_id, source, reason, detail))
        columns = [*clips.select(CLIP_SCHEMA.names).columns, pa.array(is_partial)]
        batch = pa.RecordBatch.from_arrays(columns, schema=INDEX_SCHEMA)
        index.append(batch.filter(pa.array(is_written)))
    left_out = plan.without_recording.select(["row", "clip_id", "path", "reason", "detail"])
    rejects += [
        (row, clip_id, os.fsdecode(path), reason, detail)
        for row, clip_id, path, reason, detail in zip(
            *(column.to_pylist() for column in left_out.columns), strict=True
        )
    ]
    metadata = index_schema(plan.waveform_format, plan.decoders).metadata
    return pa.Table.from_batches(index).replace_schema_metadata(metadata), rejects


def _write_rejects(rejects_path: pathlib.Path, rejects: Sequence[_Reject]) -> None:
    with (
        complete_file(rejects_path) as path,
        # The name of a recording need not be UTF-8.
        open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(REJECTS_FIELDS)
        table.writerows(reject[1:] for reject in sorted(rejects))


def _write_tfds_metadata(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    # TFDS reads the name and the splits of the data set from the names of the shards beside its
    # metadata, so this makes empty files with these names. It uses a separate folder, so that
    # nobody sees half of a file.
    folder = plan.data_dir / METADATA_FOLDER
    folder.mkdir()
    split_infos = []
    for split in SPLITS:
        of_split = {
            shard: outcome
            for shard, outcome in zip(plan.shards, outcomes, strict=True)
            if shard.split == split
        }
        lengths = [outcome.num_records for outcome in of_split.values()]
        num_bytes = sum(outcome.num_bytes for outcome in of_split.values())
        if any(lengths):
            split_infos.append(
                tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=num_bytes)
            )
            for shard in of_split:
                (folder / shard.name).touch()
    decoded = f" Decoded by {plan.decoders}." if plan.decoders else ""
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=record_features(len(plan.ontology), plan.waveform_format.num_samples),
        split_infos=split_infos,
        check_data=False,
        description="AudioSet's labels re-labelled by its ontology; "
        f"waveforms of {plan.waveform_format}." + decoded,
    )
    for name in (FEATURES_NAME, INFO_NAME):
        with complete_file(plan.data_dir / name) as path:
            path.write_bytes((folder / name).read_bytes())
