"""Shards are tasks: a plan says which clips go into which shard, and each task writes one shard.

The plan is made once and holds all that a task needs, so that a task is no more than its number:
local worker processes or a cluster engine run the same ones, in any order and any number of times.
A seeded hash of the clip id places the clips: every shard is a random sample of its split, all
shards of a split have equal sizes but for one clip, and the number of workers has no say. Clips
that can only be read with their neighbours (a row group of a Parquet file) are placed with them.

In the working folder `DATA/.build`:

- `plan.arrow`: one record batch a shard, in the order of the data set, and last a batch of the
  clips that have no recording. The schema's metadata carry the ontology and the inputs.
- `train-00000.json` ...: the outcome of a task. It is written last: a shard that has one is done.

A file gets its final name when it is complete and on disk; until then it is `.*.tmp` beside it.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from array_record.python.array_record_module import ArrayRecordWriter

from data_prep.segments import Segments, multi_hot
from data_prep.sources import Recording, read_recording
from relabel_jax.data.schema import serialize_record
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

DATASET_NAME = "relabel_audioset"
WORKING_FOLDER = ".build"
_PLAN = f"{WORKING_FOLDER}/plan.arrow"

_SCHEMA = pa.schema(
    {
        "row": pa.int32(),  # in the segments
        "clip_id": pa.string(),
        "split": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "ol": pa.list_(pa.int16()),
        "path": pa.binary(),  # the bytes of the file system: they need not be UTF-8
        "member": pa.string(),  # where the recording lies in a file with many; else ""
        "reason": pa.string(),
        "detail": pa.string(),
    }
)
_READ_COLUMNS = ("clip_id", "path", "member")


@dataclasses.dataclass(frozen=True)
class Shard:
    """Shard `index` of the `count` shards of a split; `number` counts over all splits."""

    number: int
    split: str
    index: int
    count: int

    @property
    def name(self) -> str:
        """Its file's name, as TFDS has it."""
        return f"{DATASET_NAME}-{self.split}.array_record-{self.index:05d}-of-{self.count:05d}"

    @property
    def outcome_name(self) -> str:
        return f"{WORKING_FOLDER}/{self.split}-{self.index:05d}.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a task did.

    Attributes:
      num_records: clips written.
      num_bytes: the size of the shard.
      duration_s: seconds of the recordings in it, without the padding.
      rejects: position in the plan's batch, reason and detail of each clip left out.
    """

    num_records: int
    num_bytes: int
    duration_s: float
    rejects: list[tuple[int, str, str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A plan on disk, memory-mapped: clips that nobody looks at take no memory.

    Attributes:
      data_dir: the data set's folder.
      inputs: what it was made from, by flag.
      shards: all tasks, in the order of the data set.
    """

    data_dir: pathlib.Path
    inputs: dict[str, str]
    shards: tuple[Shard, ...]
    _file: pa.RecordBatchFileReader

    @classmethod
    def open(cls, data_dir: pathlib.Path) -> "Plan":
        """Raises FileNotFoundError if there is none yet, InputError if it cannot be read."""
        try:
            file = pa.ipc.open_file(pa.memory_map(os.fspath(data_dir / _PLAN)))
            about = json.loads(file.schema.metadata[b"about"])
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid, TypeError, KeyError, ValueError) as error:
            raise InputError(
                f"{data_dir / _PLAN}: damaged ({error}); delete {data_dir} and build it again"
            ) from error
        shards: list[Shard] = []
        for split, count in about["num_shards"].items():
            for index in range(count):
                shards.append(Shard(len(shards), split, index, count))
        return cls(data_dir, about["inputs"], tuple(shards), file)

    def clips(self, shard: Shard) -> pa.RecordBatch:
        """The clips of one shard, in the order of its records."""
        return self._file.get_batch(shard.number)

    def num_recordings_below(self, folder: str) -> int:
        """How many of the plan's recordings lie in a folder, at whatever depth."""
        prefix = os.fsencode(folder.rstrip(os.sep) + os.sep)
        batches = (self.clips(shard)["path"] for shard in self.shards)
        return sum(pc.sum(pc.starts_with(paths, prefix)).as_py() or 0 for paths in batches)

    @property
    def without_recording(self) -> pa.RecordBatch:
        """The clips of no shard, with reason and detail."""
        return self._file.get_batch(len(self.shards))

    @functools.cached_property
    def ontology(self) -> Ontology:
        return Ontology.from_text(self._file.schema.metadata[b"ontology"].decode())

    def outcome(self, shard: Shard) -> Outcome | None:
        """What a finished task left, or None: the task is (still, or again) to be done."""
        try:
            outcome = Outcome(**json.loads((self.data_dir / shard.outcome_name).read_bytes()))
            size = (self.data_dir / shard.name).stat().st_size
        except (FileNotFoundError, ValueError, TypeError):  # not there, or damaged
            return None
        return outcome if size == outcome.num_bytes else None

    def outcomes(self) -> list[Outcome]:
        """What all tasks left; they must be done."""
        outcomes = [self.outcome(shard) for shard in self.shards]
        assert None not in outcomes
        return [outcome for outcome in outcomes if outcome is not None]


def write_plan(
    data_dir: pathlib.Path,
    *,
    inputs: Mapping[str, str],
    ontology: Ontology,
    segments: Segments,
    recordings: Sequence[Recording | Rejected],
    clip_splits: np.ndarray,
    clips_per_shard: int,
    seed: int,
) -> None:
    """Places every clip in a shard.

    Args:
      data_dir: the data set's folder, with its working folder.
      inputs: what the plan is made from, by flag; a later run compares.
      ontology: goes into the plan.
      segments: all clips.
      recordings: of each clip, or why it has none.
      clip_splits: int8[clips], index into `SPLITS`.
      clips_per_shard: at most so many.
      seed: of the hash that orders the clips.
    """
    clip_ids = segments.clip_ids.to_pylist()
    salt = f"shard:{seed}:".encode()
    nowhere = Recording("")
    places = [each if isinstance(each, Recording) else nowhere for each in recordings]

    def key(row: int):
        place = places[row]
        name = (place.block or clip_ids[row]).encode()
        digest = hashlib.blake2b(salt + name, digest_size=8).digest()
        return digest, place.path if place.block else "", place.row, clip_ids[row]

    order = np.array(sorted(range(len(clip_ids)), key=key))
    has_recording = np.array([isinstance(recording, Recording) for recording in recordings])
    batches: list[np.ndarray] = []
    num_shards: dict[str, int] = {}
    for split_number, split in enumerate(SPLITS):
        rows = order[((clip_splits == split_number) & has_recording)[order]]
        num_shards[split] = -(-len(rows) // clips_per_shard)
        if len(rows):
            batches += np.array_split(rows, num_shards[split])
    batches.append(np.flatnonzero(~has_recording))

    columns = {
        "row": np.arange(len(clip_ids)),
        "clip_id": segments.clip_ids,
        "split": pa.array(SPLITS).take(pa.array(clip_splits)),
        "start_s": segments.start_s,
        "end_s": segments.end_s,
        "ol": segments.labels,
        "path": [os.fsencode(place.path) for place in places],
        "member": [place.member for place in places],
        "reason": [each.reason if isinstance(each, Rejected) else None for each in recordings],
        "detail": [each.detail if isinstance(each, Rejected) else None for each in recordings],
    }
    about = {"inputs": dict(inputs), "num_shards": num_shards}
    clips = pa.RecordBatch.from_pydict(
        columns,
        _SCHEMA.with_metadata({"about": json.dumps(about), "ontology": ontology.text}),
    )
    with (
        complete_file(data_dir / _PLAN) as path,
        pa.ipc.new_file(os.fspath(path), clips.schema) as file,
    ):
        for rows in batches:
            file.write_batch(clips.take(pa.array(rows)))


def write_shard(
    plan: Plan,
    shard: Shard,
    *,
    on_clip: Callable[[int], None],
    fatal: Mapping[int, tuple[str, str]],
) -> Outcome:
    """Does one task: reads its clips one at a time and leaves a finished shard and its outcome.

    Args:
      plan: the plan.
      shard: the task.
      on_clip: told each clip's position in the shard before its recording is opened, and after the
        last one the number of clips.
      fatal: positions of clips that kill or hold up the process that opens them; they are rejected
        with this reason and detail.

    Raises:
      InputError: the shard cannot be written, or the folder of the recordings is gone.
    """
    clips = plan.clips(shard)
    ol = multi_hot(clips["ol"], len(plan.ontology))
    pel, masked = relabel(ol, plan.ontology.is_ancestor, "pe_cml")
    rejects: list[tuple[int, str, str]] = []
    durations_s: list[float] = []
    try:
        with complete_file(plan.data_dir / shard.name) as temporary:
            # zstd's level -1: a sixth larger than by the default, 3, but written in a third of the
            # time, and read in less than half, which every epoch of a training does.
            writer = ArrayRecordWriter(os.fspath(temporary), "group_size:1,zstd:-1")
            for position, (clip_id, path, member) in enumerate(
                zip(*(clips[name].to_pylist() for name in _READ_COLUMNS), strict=True)
            ):
                on_clip(position)
                if position in fatal:
                    rejects.append((position, *fatal[position]))
                    continue
                try:
                    waveform, duration_s = read_recording(os.fsdecode(path), member)
                except Rejected as error:
                    _refuse_lost_recordings(plan, os.fsdecode(path))
                    rejects.append((position, error.reason, error.detail))
                    continue
                labels = (each[position] for each in (ol, pel, masked))
                writer.write(serialize_record(clip_id, waveform, *labels))
                durations_s.append(duration_s)
            on_clip(clips.num_rows)
            writer.close()
            num_bytes = temporary.stat().st_size
        outcome = Outcome(len(durations_s), num_bytes, sum(durations_s), rejects)
        with complete_file(plan.data_dir / shard.outcome_name) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(outcome)))
    except (InputError, RuntimeError) as error:  # ArrayRecord's failures are RuntimeErrors
        what = error if isinstance(error, InputError) else f"{shard.name}: cannot write: {error}"
        raise InputError(
            f"{what}; finished shards are kept, so mend this and run the same command again"
        ) from error
    return outcome


def _refuse_lost_recordings(plan: Plan, path: str) -> None:
    """Raises InputError if a place with recordings is gone: no fault of the clip at `path`."""
    if os.path.exists(path):
        return
    places = list(filter(None, plan.inputs["--audio"].split("\0")))
    # The highest of its own folders that is gone: --paths needs no --audio, and a disk may be
    # mounted below it. But a folder of this one clip goes with the clip.
    folder, gone = os.path.dirname(path), ""
    while _why_gone(folder) and folder != os.path.dirname(folder):
        folder, gone = os.path.dirname(folder), folder
    if gone and plan.num_recordings_below(gone) > 1:
        places.append(gone)
    for place in places:
        if why := _why_gone(place):
            raise InputError(f"{place}: the recordings were here when the build began, now: {why}")


def _why_gone(place: str) -> str:
    """Why there can be no recordings; "" if it is a file or a folder with something in it."""
    try:
        if os.path.isfile(place):
            return ""
        with os.scandir(place) as entries:
            return "" if any(entries) else "it is empty"  # as the place where a disk was mounted
    except OSError as error:
        return error.strerror or str(error)


def count_rejects(plan: Plan, outcomes: Sequence[Outcome]) -> collections.Counter[str]:
    """Number of rejected clips by reason."""
    reasons = collections.Counter(plan.without_recording["reason"].to_pylist())
    for outcome in outcomes:
        reasons.update(reason for _, reason, _ in outcome.rejects)
    return reasons
