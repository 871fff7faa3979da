"""The plan of a data set: the clips of each shard. Each shard is a task.

The plan is made once (planning.py) and has everything that a task needs, so the number of a task is
enough to do it. Local worker processes or a cluster engine do the tasks, in any order and any
number of times.

A seeded hash of the clip id chooses the shard of a clip. So every shard is a random sample of its
split, and the sizes of the shards of a split differ by at most one clip. The number of workers does
not matter. Clips that can only be read together (a row group of a Parquet file) are in one shard.

The working folder `DATA/.build` holds

- `plan.arrow`: one record batch for each shard, in the order of the data set, and a last batch of
  the clips that have no recording. The metadata of the schema hold the ontology and the inputs;
- `sha256.json`: the digest of `plan.arrow`;
- `train-00000.json` and so on: the outcome of a task, which is written last. A shard with an
  outcome is done. The outcome holds a digest of itself and of the plan, so the outcomes of another
  plan do not count.

A file gets its final name when it is complete and on disk. Until then its name is `.*.tmp`.
"""

import dataclasses
import functools
import json
import os
import pathlib

import pyarrow as pa
import pyarrow.compute as pc

from data_prep.reading import Reading
from data_prep.recordings import Candidates
from data_prep.sources import Recording
from data_prep.working_folder import WORKING_FOLDER
from relabel_jax import digests
from relabel_jax.audio.decode import decoders
from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.data.layout import shard_name
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.labels.ontology import Ontology

PLAN_NAME = f"{WORKING_FOLDER}/plan.arrow"
_REMEDY = "delete it and give the same data_prep.build again, which keeps finished shards"


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
      sha256: digest of the shard; "" in outcomes of older versions.
    """

    num_records: int = 0
    num_bytes: int = 0
    duration_s: float = 0.0
    rejects: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)
    partial: list[int] = dataclasses.field(default_factory=list)
    num_cancelled: int = 0
    num_trimmed: int = 0
    num_whole_videos: int = 0
    sha256: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A plan on disk. It is memory-mapped, so clips take memory only when they are read.

    Attributes:
      data_dir: the data set's folder.
      inputs: the inputs that the plan was made from, by flag.
      shards: all tasks, in the order of the data set.
      decoders: the libraries that make the waveforms, see `audio.decode.decoders`; "" in a plan of
        an older version, which does not say it.
      digest: the digest of the plan.
      is_old: whether an older version made it, which wrote no digests.
    """

    data_dir: pathlib.Path
    inputs: dict[str, str]
    shards: tuple[Shard, ...]
    decoders: str
    digest: str
    is_old: bool
    _file: pa.RecordBatchFileReader

    @classmethod
    def open(cls, data_dir: pathlib.Path) -> "Plan":
        """Opens the plan of a data set's folder.

        Raises:
          FileNotFoundError: there is no plan yet.
          InputError: the plan cannot be read.
        """
        path = data_dir / PLAN_NAME
        if not path.exists():
            raise FileNotFoundError(path)
        # Before Arrow reads the plan, because a damaged one can crash it.
        digest = digests.of_file(path)
        recorded = digests.read_list(path.parent, _REMEDY)
        if recorded is not None and recorded.get(path.name) != digest:
            raise InputError(
                f"{path}: damaged: its digest is not the one in {digests.LIST_NAME}; {_REMEDY}"
            )
        try:
            file = pa.ipc.open_file(pa.memory_map(os.fspath(path)))
            if recorded is None:
                for number in range(file.num_record_batches):
                    file.get_batch(number).validate(full=True)
            about = json.loads(file.schema.metadata[b"about"])
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid, TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path}: damaged ({error}); {_REMEDY}") from error
        shards: list[Shard] = []
        for split, count in about["num_shards"].items():
            for index in range(count):
                shards.append(Shard(len(shards), split, index, count))
        # A plan without a format is of a version that knew only the paper's format.
        inputs = format_inputs(PAPER_FORMAT) | about["inputs"]
        return cls(
            data_dir=data_dir,
            inputs=inputs,
            shards=tuple(shards),
            decoders=about.get("decoders", ""),
            digest=digest,
            is_old=recorded is None,
            _file=file,
        )

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
            content = json.loads((self.data_dir / shard.outcome_name).read_bytes())
            digest = content.pop("digest", None)
            outcome = Outcome(**content)
            size = (self.data_dir / shard.name).stat().st_size
        except (FileNotFoundError, ValueError, TypeError, AttributeError):  # absent or damaged
            return None
        is_right = (
            self.is_old if digest is None else digest == self._digest_of_outcome(shard, outcome)
        )
        return outcome if is_right and size == outcome.num_bytes else None

    def write_outcome(self, shard: Shard, outcome: Outcome) -> None:
        """Writes the outcome of a task, whose shard is complete."""
        content = dataclasses.asdict(outcome)
        content["digest"] = self._digest_of_outcome(shard, outcome)
        with complete_file(self.data_dir / shard.outcome_name) as temporary:
            temporary.write_text(json.dumps(content))

    def _digest_of_outcome(self, shard: Shard, outcome: Outcome) -> str:
        return digests.of_json([self.digest, shard.name, dataclasses.asdict(outcome)])

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
