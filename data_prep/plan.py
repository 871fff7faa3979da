"""The plan of a data set: the clips of each shard. Each shard is a task.

The plan is made once and has everything that a task needs, so the number of a task is enough to do
it. Local worker processes or a cluster engine do the tasks, in any order and any number of times.

A seeded hash of the clip id chooses the shard of a clip. So every shard is a random sample of its
split, and the sizes of the shards of a split differ by at most one clip. The number of workers does
not matter. Clips that can only be read together (a row group of a Parquet file) are in one shard.

The working folder `DATA/.build` holds

- `plan.arrow`: one record batch for each shard, in the order of the data set, and a last batch of
  the clips that have no recording. The metadata of the schema hold the ontology and the inputs;
- `train-00000.json` and so on: the outcome of a task, which is written last. A shard with an
  outcome is done.

A file gets its final name when it is complete and on disk. Until then its name is `.*.tmp`.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_prep.reading import Reading
from data_prep.recordings import Candidates
from data_prep.sources import Recording
from data_prep.working_folder import WORKING_FOLDER
from relabel_jax.audio.decode import decoders
from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.data.layout import CLIP_SCHEMA, shard_name
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import Segments
from relabel_jax.labels.views import SPLITS

_PLAN = f"{WORKING_FOLDER}/plan.arrow"

_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int32()),  # row in the segments
        *CLIP_SCHEMA,
        pa.field("path", pa.binary()),  # file names are bytes and need not be UTF-8
        pa.field("member", pa.string()),  # name in a file with many recordings; else ""
        # The recordings to try if this one cannot be read.
        pa.field("others", pa.list_(pa.struct({"path": pa.binary(), "member": pa.string()}))),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Shard:
    """Shard `index` of the `count` shards of a split; `number` counts over all splits."""

    number: int
    split: str
    index: int
    count: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return shard_name(self.split, self.index, self.count)

    @property
    def outcome_name(self) -> str:
        """The name of its outcome, below the data set's folder."""
        return f"{WORKING_FOLDER}/{self.split}-{self.index:05d}.json"


@dataclasses.dataclass
class Outcome:
    """The outcome of a task. Those of older versions have the first four fields only.

    Attributes:
      num_records: number of clips written.
      num_bytes: size of the shard.
      duration_s: seconds of sound in the shard, without the padding.
      rejects: position in the shard, reason and detail of each clip that was left out.
      partial: position in the shard of each clip that was written although a part of its recording
        is missing or damaged.
      num_cancelled: number of clips whose channels cancel each other in their mean.
      num_trimmed: number of clips that were cut out of whole videos.
      num_whole_videos: number of clips that are the beginning of a whole video, although their
        times begin later.
    """

    num_records: int = 0
    num_bytes: int = 0
    duration_s: float = 0.0
    rejects: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    partial: list[int] = dataclasses.field(default_factory=list)
    num_cancelled: int = 0
    num_trimmed: int = 0
    num_whole_videos: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A plan on disk. It is memory-mapped, so clips take memory only when they are read.

    Attributes:
      data_dir: the data set's folder.
      inputs: the inputs that the plan was made from, by flag.
      shards: all tasks, in the order of the data set.
      decoders: the libraries that make the waveforms, see `audio.decode.decoders`; "" in a plan of
        an older version, which does not say it.
    """

    data_dir: pathlib.Path
    inputs: dict[str, str]
    shards: tuple[Shard, ...]
    decoders: str
    _file: pa.RecordBatchFileReader

    @classmethod
    def open(cls, data_dir: pathlib.Path) -> "Plan":
        """Opens the plan of a data set's folder.

        Raises:
          FileNotFoundError: there is no plan yet.
          InputError: the plan cannot be read.
        """
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
        # A plan without a format is of a version that knew only the paper's format.
        inputs = format_inputs(PAPER_FORMAT) | about["inputs"]
        return cls(data_dir, inputs, tuple(shards), about.get("decoders", ""), file)

    @property
    def waveform_format(self) -> WaveformFormat:
        """Sample rate and length of the waveforms."""
        return WaveformFormat(
            int(self.inputs["--sample_rate_hz"]), float(self.inputs["--duration_s"])
        )

    @property
    def reading(self) -> Reading:
        """The ways to make a waveform of a recording."""
        return Reading.of_inputs(self.inputs)

    def check_decoders(self) -> None:
        """Raises InputError if this process has other decoders than the plan was made with.

        A plan of an older version does not say which. It is finished with those that are here.
        """
        here = decoders()
        if self.decoders not in ("", here):
            raise InputError(
                f"{self.data_dir}: was begun with {self.decoders}; here are {here}, which may give "
                "other samples; install those versions, or choose another --output_dir"
            )

    @functools.cached_property
    def ontology(self) -> Ontology:
        """The ontology that the labels refer to."""
        return Ontology.from_text(self._file.schema.metadata[b"ontology"].decode())

    def clips(self, shard: Shard) -> pa.RecordBatch:
        """Reads the clips of one shard, in the order of its records."""
        return self._file.get_batch(shard.number)

    def recordings(self, shard: Shard) -> list[Candidates]:
        """The recordings of each clip of a shard, in the order in which they are tried."""
        clips = self.clips(shard)
        first = zip(clips["path"].to_pylist(), clips["member"].to_pylist(), strict=True)
        candidates = [[place] for place in first]
        if "others" in clips.schema.names:  # a plan of an older version has one recording each
            for place, others in zip(candidates, clips["others"].to_pylist(), strict=True):
                place += [(other["path"], other["member"]) for other in others]
        return [
            tuple(Recording(os.fsdecode(path), member) for path, member in place)
            for place in candidates
        ]

    @property
    def without_recording(self) -> pa.RecordBatch:
        """The clips without a recording, which are in no shard, with reason and detail."""
        return self._file.get_batch(len(self.shards))

    def num_recordings_below(self, folder: str) -> int:
        """Counts the recordings of the plan in a folder, at any depth."""
        prefix = os.fsencode(folder.rstrip(os.sep) + os.sep)
        batches = (self.clips(shard)["path"] for shard in self.shards)
        return sum(pc.sum(pc.starts_with(paths, prefix)).as_py() or 0 for paths in batches)

    def outcome(self, shard: Shard) -> Outcome | None:
        """Reads the outcome of a finished task; None if the task must be done or done again."""
        try:
            outcome = Outcome(**json.loads((self.data_dir / shard.outcome_name).read_bytes()))
            size = (self.data_dir / shard.name).stat().st_size
        except (FileNotFoundError, ValueError, TypeError):  # absent or damaged
            return None
        return outcome if size == outcome.num_bytes else None

    def outcomes(self) -> list[Outcome]:
        """Reads the outcomes of all tasks, which must be done."""
        outcomes = [self.outcome(shard) for shard in self.shards]
        assert None not in outcomes
        return [outcome for outcome in outcomes if outcome is not None]


def format_inputs(waveform_format: WaveformFormat) -> dict[str, str]:
    """Returns the entries of a plan's `inputs` for the format of the waveforms."""
    return {
        "--sample_rate_hz": str(waveform_format.sample_rate_hz),
        "--duration_s": str(float(waveform_format.duration_s)),
    }


def write_plan(
    data_dir: pathlib.Path,
    *,
    inputs: Mapping[str, str],
    ontology: Ontology,
    segments: Segments,
    recordings: Sequence[Candidates | Rejected],
    clip_splits: np.ndarray,
    clips_per_shard: int,
    seed: int,
) -> None:
    """Places every clip in a shard and writes the plan.

    Args:
      data_dir: the data set's folder, which has its working folder.
      inputs: the inputs of the plan, by flag; a later build compares them.
      ontology: the ontology, which is written into the plan.
      segments: all clips.
      recordings: for each clip its recordings in the order in which they are tried, or the reason
        if it has none. The first one places the clip.
      clip_splits: int8[clips], index into `SPLITS`.
      clips_per_shard: the largest number of clips in a shard.
      seed: the seed of the hash that orders the clips.
    """
    nowhere = (Recording(""),)
    candidates = [nowhere if isinstance(each, Rejected) else each for each in recordings]
    places = [first for first, *_ in candidates]
    has_recording = np.array([not isinstance(each, Rejected) for each in recordings])
    order = _random_order(segments.clip_ids.to_pylist(), places, seed)
    batches: list[np.ndarray] = []
    num_shards: dict[str, int] = {}
    for split_number, split in enumerate(SPLITS):
        rows = order[((clip_splits == split_number) & has_recording)[order]]
        num_shards[split] = -(-len(rows) // clips_per_shard)
        if len(rows):
            batches += np.array_split(rows, num_shards[split])
    batches.append(np.flatnonzero(~has_recording))

    columns = {
        "row": np.arange(len(segments)),
        "clip_id": segments.clip_ids,
        "split": pa.array(SPLITS).take(pa.array(clip_splits)),
        "start_s": segments.start_s,
        "end_s": segments.end_s,
        "ol": segments.labels,
        "path": [os.fsencode(place.path) for place in places],
        "member": [place.member for place in places],
        "others": [
            [{"path": os.fsencode(other.path), "member": other.member} for other in others]
            for _, *others in candidates
        ],
        "reason": [each.reason if isinstance(each, Rejected) else None for each in recordings],
        "detail": [each.detail if isinstance(each, Rejected) else None for each in recordings],
    }
    about = {"inputs": dict(inputs), "num_shards": num_shards, "decoders": decoders()}
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


def _random_order(clip_ids: Sequence[str], places: Sequence[Recording], seed: int) -> np.ndarray:
    """Sorts the clips by a seeded hash of their id or, if they are in a block, of its name.

    Returns:
      int64[clips], the numbers of the clips in their order.
    """
    salt = f"shard:{seed}:".encode()

    def key(row: int):
        place = places[row]
        name = (place.block or clip_ids[row]).encode()
        digest = hashlib.blake2b(salt + name, digest_size=8).digest()
        return digest, place.path if place.block else "", place.row, clip_ids[row]

    return np.array(sorted(range(len(clip_ids)), key=key))
