"""The inputs of a data set, and the plan that follows from them."""

import dataclasses
import functools
import hashlib
import math
import os
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from data_prep.listing import audio_places, warn
from data_prep.plan import Plan, format_inputs
from data_prep.planning import write_plan
from data_prep.reading import Reading
from data_prep.recordings import Candidates, find_by_list, find_by_name
from data_prep.source_labels import label_by_source
from data_prep.sources import SourceOptions
from relabel_jax.audio.waveform_format import MIN_SAMPLE_RATE_HZ, PAPER_FORMAT, WaveformFormat
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.class_indices import read_class_indices
from relabel_jax.labels.csv_columns import read_columns
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segment_flags import segment_files
from relabel_jax.labels.segments import Segments, read_segments
from relabel_jax.labels.views import SPLITS, hashed_splits

# Other names of the splits, in lower case. `eval` is left out: it means validation to some, and
# AudioSet's test set to others.
_SPLIT_NAMES = {name: name for name in SPLITS} | {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "testing": "test",
}
_MAX_SAMPLES = 1 << 29  # a record is a protobuf message, which can have at most 2 GB

_Path = str | pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs that determine the bytes of a data set. The fields are flags of `data_prep.build`.

    Attributes:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's ontology.
      segments: segment files, as `segment_files` finds them; if there are none, the sources in
        `audio` have the labels.
      audio: the place of the recordings: a folder, or a file with many recordings
        (`data_prep.sources`). Several are separated by commas; wildcards are allowed. Needed unless
        `paths` is given.
      paths: a CSV of `clip_id,path`, or the JSON of AST, that names the recordings, instead of a
        search by name.
      class_indices: AudioSet's class_labels_indices.csv, for segments and sources whose labels are
        numbers.
      source_rate_hz: sample rate of HDF5 files that do not say it.
      label_threshold: the smallest score of a positive label, for sources whose labels are scores.
      splits: a CSV of `clip_id,split` that overrides the hashed split of the clips it names.
      sample_rate_hz: sample rate of the waveforms, at least 1,000.
      duration_s: length of the waveforms in seconds.
      clips_per_shard: the largest number of clips in a shard.
      split_seed: the seed of the hashes that choose the split and the place of a clip.
      mono, partial, trim: see `data_prep.reading.Reading`.
      unknown: `refuse` or `drop` labels of the segments that are not in the ontology.
    """

    ontology: _Path | None = None
    segments: Sequence[_Path] = ()
    audio: _Path | None = None
    paths: _Path | None = None
    class_indices: _Path | None = None
    source_rate_hz: int | None = None
    label_threshold: float | None = None
    splits: _Path | None = None
    sample_rate_hz: int = PAPER_FORMAT.sample_rate_hz
    duration_s: float = PAPER_FORMAT.duration_s
    clips_per_shard: int = 256
    split_seed: int = 0
    mono: str = Reading.mono
    partial: str = Reading.partial
    trim: bool = Reading.trim
    unknown: str = "refuse"

    def __post_init__(self):
        object.__setattr__(self, "segments", segment_files(self.segments))

    @property
    def waveform_format(self) -> WaveformFormat:
        """Sample rate and length of the waveforms."""
        return WaveformFormat(self.sample_rate_hz, self.duration_s)

    @property
    def reading(self) -> Reading:
        """The ways to make a waveform of a recording."""
        return Reading(self.mono, self.partial, self.trim)

    @functools.cached_property
    def loaded_ontology(self) -> Ontology:
        """The ontology. Raises InputError if it cannot be read."""
        return Ontology.read(self.ontology)

    def check(self) -> None:
        """Raises InputError if the flags do not fit together or a number is out of range."""
        if self.audio is None and self.paths is None:
            raise InputError("where are the recordings? give --audio=FOLDER or --paths=CSV")
        if self.paths is not None and not self.segments:
            raise InputError("--paths needs --segments=CSV: single recordings have no labels")
        self.reading.check()
        if self.clips_per_shard < 1:
            raise InputError(
                f"--clips_per_shard={self.clips_per_shard}: expected a number of at least 1"
            )
        for name in ("sample_rate_hz", "source_rate_hz"):
            rate_hz = getattr(self, name)
            if rate_hz is not None and rate_hz < MIN_SAMPLE_RATE_HZ:
                raise InputError(f"--{name}={rate_hz}: expected at least {MIN_SAMPLE_RATE_HZ} Hz")
        num_samples = self.sample_rate_hz * self.duration_s
        if not (math.isfinite(num_samples) and 1 <= round(num_samples) <= _MAX_SAMPLES):
            raise InputError(
                f"--duration_s={self.duration_s:g}: expected seconds, more than 0 and at most "
                f"{_MAX_SAMPLES // self.sample_rate_hz} at {self.sample_rate_hz} Hz"
            )

    def identity(self) -> dict[str, str]:
        """Returns a text for each flag that changes if the input changes.

        Files are compared by their contents, recordings only by the names of their folders.

        Raises:
          InputError: a file cannot be read.
        """
        places = [] if self.audio is None else audio_places(self.audio)
        list_path = "" if self.paths is None else os.path.realpath(self.paths)
        return {
            "--ontology": hashlib.sha256(self.loaded_ontology.text.encode()).hexdigest(),
            "--segments": " ".join(_digest(path) for path in self.segments),
            # A name may contain a comma, but no NUL.
            "--audio": "\0".join(map(os.path.realpath, places)),
            # The folder of the list matters too: paths in the list may be relative to it.
            "--paths": f"{list_path} {_digest(self.paths)}".strip(),
            "--class_indices": _digest(self.class_indices),
            **{
                f"--{name}": str(value)
                for name in ("source_rate_hz", "label_threshold")
                if (value := getattr(self, name)) is not None
            },
            "--splits": _digest(self.splits),
            **format_inputs(self.waveform_format),
            **self.reading.inputs(),
            "--clips_per_shard": str(self.clips_per_shard),
            "--split_seed": str(self.split_seed),
        }


def open_plan(data_dir: pathlib.Path, inputs: Inputs, identity: dict[str, str]) -> Plan:
    """Opens the plan of a data set, or makes it if there is none yet.

    Args:
      data_dir: the data set's folder, whose working folder this process has locked.
      inputs: the inputs of the data set.
      identity: `inputs.identity()`.

    Raises:
      InputError: an input is wrong, or the plan was made from other inputs.
    """
    try:
        plan = Plan.open(data_dir)
    except FileNotFoundError:
        _make_plan(data_dir, inputs, identity)
        plan = Plan.open(data_dir)
    changed = [
        flag
        for flag in dict.fromkeys((*identity, *plan.inputs))
        if plan.inputs.get(flag) != identity.get(flag)
    ]
    if changed:
        raise InputError(
            f"{data_dir}: was begun with another {', '.join(changed)}; give the same again, "
            "or choose another --output_dir, or delete this one"
        )
    return plan


def _make_plan(data_dir: pathlib.Path, inputs: Inputs, identity: dict[str, str]) -> None:
    segments, recordings = _clips(inputs)
    clip_splits = _clip_splits(segments.clip_ids.to_pylist(), inputs.split_seed, inputs.splits)
    if all(isinstance(recording, Rejected) for recording in recordings):
        raise InputError(
            f"{inputs.audio if inputs.paths is None else inputs.paths}: no recording of any of the "
            f"{len(segments)} clips; of the first, {segments.clip_ids[0].as_py()}: {recordings[0]} "
            "(--help says how recordings are found)"
        )
    write_plan(
        data_dir,
        inputs=identity,
        ontology=inputs.loaded_ontology,
        segments=segments,
        recordings=recordings,
        clip_splits=clip_splits,
        clips_per_shard=inputs.clips_per_shard,
        seed=inputs.split_seed,
    )


def _clips(inputs: Inputs) -> tuple[Segments, list[Candidates | Rejected]]:
    """Returns all clips, and for each clip its recordings, or the reason if it has none."""
    ontology = inputs.loaded_ontology
    indices = inputs.class_indices
    class_mids = None if indices is None else read_class_indices(indices)
    options = SourceOptions(inputs.source_rate_hz, inputs.duration_s)
    if not inputs.segments:
        assert inputs.audio is not None
        segments, found = label_by_source(
            inputs.audio,
            ontology,
            class_mids,
            inputs.duration_s,
            label_threshold=inputs.label_threshold,
            options=options,
        )
        return segments, [each if isinstance(each, Rejected) else (each,) for each in found]
    read = read_segments(inputs.segments, ontology, inputs.unknown, class_mids=class_mids)
    if read.dropped:
        warn(
            f"dropped {sum(read.dropped.values())} labels of {len(read.dropped)} mids that "
            "are not in the ontology"
        )
    if inputs.paths is not None:
        return read, find_by_list(read, inputs.paths, inputs.audio)
    assert inputs.audio is not None
    return read, find_by_name(read, inputs.audio, options)


def _clip_splits(clip_ids: Sequence[str], seed: int, overrides_path: _Path | None) -> np.ndarray:
    """Returns the split of each clip, int8[clips], by the overrides or else by a hash."""
    clip_splits = hashed_splits(clip_ids, seed)
    if overrides_path is None:
        return clip_splits
    overrides = read_columns(overrides_path, "split")
    others = ", ".join(name for name in _SPLIT_NAMES if name not in SPLITS)
    for clip_id, split in overrides.items():
        if split.strip().lower() not in _SPLIT_NAMES:
            raise InputError(
                f"{overrides_path}: clip {clip_id!r} has the split {split!r}; expected one of "
                f"{', '.join(SPLITS)} (or {others})"
            )
    for row, clip_id in enumerate(clip_ids):
        if clip_id in overrides:
            split = _SPLIT_NAMES[overrides.pop(clip_id).strip().lower()]
            clip_splits[row] = SPLITS.index(split)
    if overrides:
        print(
            f"warning: {overrides_path}: {len(overrides)} clips are not in the segments, the "
            f"first is {next(iter(overrides))!r}",
            file=sys.stderr,
        )
    return clip_splits


def _digest(path: _Path | None) -> str:
    """Returns a digest of a file's contents; "" if no file is given."""
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error
