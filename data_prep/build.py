"""Recordings, an ontology and labels in; a data set that relabel_jax trains on out.

    python -m data_prep.build --ontology=ontology.json --segments=segments.csv \
        --audio=AUDIO_DIR --output_dir=DATA

What it leaves in DATA:

- `relabel_audioset-SPLIT.array_record-...`, `features.json`, `dataset_info.json`: a TFDS data set
  (records.py has the schema), `tfds.builder_from_directory(DATA)` opens it without TensorFlow;
- `ontology.json`: the data set carries its own ontology;
- `clips.parquet`: the clip index, a row for each record, in the order of the records: the shards
  of train by number, then validation, then test; `clip_id`, `split`, `start_s`, `end_s`, and `ol`,
  the class numbers of the original labels;
- `rejects.csv`: the clips left out: `clip_id`, `source` (the file, if there is one, and the place
  in it), `reason`, `detail`. Every clip is in the shards or here;
- `.build`: the plan and what was done of it (shards.py). `clips.parquet` is written last of all: a
  folder that has it is complete.

A build that was stopped in whatever way is finished by the same command, to the same bytes.
"""

import argparse
import contextlib
import csv
import hashlib
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
import tqdm

from data_prep.recordings import (
    audio_places,
    find_by_list,
    find_by_name,
    label_by_source,
    read_class_indices,
    read_columns,
)
from data_prep.segments import Segments, read_segments
from data_prep.shards import (
    WORKING_FOLDER,
    Outcome,
    Plan,
    Shard,
    count_rejects,
    write_plan,
)
from data_prep.sources import Recording
from data_prep.workers import CLIP_TIMEOUT_S, Workers
from relabel_jax.data.schema import record_features
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, only_process
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS, hashed_splits

REJECTS = "rejects.csv"
INDEX = "clips.parquet"
INDEX_SCHEMA = pa.schema(
    {
        "clip_id": pa.string(),
        "split": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "ol": pa.list_(pa.int16()),
    }
)
METADATA_FOLDER = f"{WORKING_FOLDER}/metadata"

_Path = str | pathlib.Path


def build(
    *,
    ontology: _Path,
    output_dir: _Path,
    segments: Sequence[_Path] = (),
    audio: _Path | None = None,
    paths: _Path | None = None,
    class_indices: _Path | None = None,
    splits: _Path | None = None,
    num_workers: int | None = None,
    clips_per_shard: int = 256,
    split_seed: int = 0,
    clip_timeout_s: float = CLIP_TIMEOUT_S,
    runner: str | None = None,
    beam_options: str = "",
) -> None:
    """Builds a data set, or what is still missing of it; tells on stderr what it did.

    Args:
      ontology: AudioSet's ontology.json.
      output_dir: the data set's folder.
      segments: segment files; where there are none, the sources in `audio` have the labels.
      audio: where the recordings are: a folder, or a file with many (`data_prep.sources`); several
        with commas, wildcards. Needed unless `paths` is given.
      paths: a CSV of `clip_id,path` that names the recordings, instead of a search by name.
      class_indices: AudioSet's class_labels_indices.csv, for sources whose labels are numbers.
      splits: a CSV of `clip_id,split` that overrides the hashed split of the clips it names.
      num_workers: processes; by default the number of cores.
      clips_per_shard: the largest number of clips in a shard.
      split_seed: of the hashes that choose a clip's split and its place.
      clip_timeout_s: a clip that takes longer to read is rejected.
      runner: a Beam runner to do the work instead of processes here (beam.py).
      beam_options: its options, as on a command line.

    Raises:
      InputError: an input is wrong, `output_dir` holds something else, nothing can be written, a
        folder is gone.
    """
    began = time.monotonic()
    if audio is None and paths is None:
        raise InputError("where are the recordings? give --audio=FOLDER or --paths=CSV")
    if paths is not None and not segments:
        raise InputError("--paths needs --segments=CSV: files of their own have no labels")
    for flag, value in (("num_workers", num_workers), ("clips_per_shard", clips_per_shard)):
        if value is not None and value < 1:
            raise InputError(f"--{flag}={value}: expected a number of at least 1")
    if not clip_timeout_s > 0:
        raise InputError(f"--clip_timeout_s={clip_timeout_s:g}: expected seconds, more than 0")
    if beam_options and runner is None:
        raise InputError("--beam_options: only with --runner")
    if num_workers is not None and runner is not None:
        raise InputError("--num_workers: not with --runner, whose --beam_options say how many")
    data_dir = pathlib.Path(output_dir).absolute()
    the_ontology = Ontology.from_json(ontology)
    inputs = {
        "--ontology": hashlib.sha256(the_ontology.text.encode()).hexdigest(),
        "--segments": " ".join(_digest(path) for path in segments),
        # No name has a NUL in it, but one may have a comma.
        "--audio": "" if audio is None else "\0".join(map(os.path.realpath, audio_places(audio))),
        "--paths": "" if paths is None else f"{os.path.realpath(paths)} {_digest(paths)}",
        "--class_indices": "" if class_indices is None else _digest(class_indices),
        "--splits": "" if splits is None else _digest(splits),
        "--clips_per_shard": str(clips_per_shard),
        "--split_seed": str(split_seed),
    }
    with working_folder(data_dir):
        try:
            plan = Plan.open(data_dir)
        except FileNotFoundError:
            table: Segments
            if not segments:
                assert audio is not None
                class_mids = None if class_indices is None else read_class_indices(class_indices)
                table, recordings = label_by_source(audio, the_ontology, class_mids)
            else:
                table = read_segments(segments, the_ontology)
                if paths is not None:
                    recordings = find_by_list(table, paths, audio)
                else:
                    assert audio is not None
                    recordings = find_by_name(table, audio)
            clip_splits = _clip_splits(table.clip_ids.to_pylist(), split_seed, splits)
            if not any(isinstance(recording, Recording) for recording in recordings):
                raise InputError(
                    f"{audio if paths is None else paths}: no recording of any of the {len(table)} "
                    f"clips; of the first, {table.clip_ids[0].as_py()}: {recordings[0]} (--help "
                    "says how recordings are found)"
                ) from None
            write_plan(
                data_dir,
                inputs=inputs,
                ontology=the_ontology,
                segments=table,
                recordings=recordings,
                clip_splits=clip_splits,
                clips_per_shard=clips_per_shard,
                seed=split_seed,
            )
            del table, recordings
            plan = Plan.open(data_dir)
        changed = [flag for flag in inputs if plan.inputs.get(flag) != inputs[flag]]
        if changed:
            raise InputError(
                f"{data_dir}: was begun with another {', '.join(changed)}; give the same again, "
                "or choose another --output_dir, or delete this one"
            )

        pending = [shard for shard in plan.shards if plan.outcome(shard) is None]
        is_complete = not pending and (data_dir / INDEX).exists()
        num_pending = sum(plan.clips(shard).num_rows for shard in pending)
        if pending and runner is not None:
            try:
                from data_prep import beam
            except ImportError as error:
                raise InputError(
                    f"--runner={runner} needs Apache Beam ({error}); pip install relabel-jax[beam]"
                ) from error
            beam.write_shards(
                plan, pending, runner=runner, options=beam_options, clip_timeout_s=clip_timeout_s
            )
        elif pending:
            write_shards(plan, pending, num_workers=num_workers, clip_timeout_s=clip_timeout_s)
        outcomes = plan.outcomes()
        if not is_complete:
            finish(plan, outcomes)
    if is_complete:
        print(f"{data_dir} is complete already, nothing to do", file=sys.stderr)
    _summarise(plan, outcomes, num_pending, time.monotonic() - began)


def _digest(path: _Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot read it: {error.strerror}") from error


@contextlib.contextmanager
def working_folder(data_dir: pathlib.Path) -> Iterator[None]:
    """Makes the folder ours alone, without what a killed build left behind.

    Raises:
      InputError: the folder is another's, or an OSError in it: no permission, no space.
    """
    folder = data_dir / WORKING_FOLDER
    if os.path.exists(data_dir / INDEX) and not os.path.exists(folder):
        raise InputError(
            f"{data_dir}: holds a data set that this command did not build; choose another "
            "--output_dir"
        )
    busy = "another build is at work there; wait for it or choose another --output_dir"
    with only_process(folder / "lock", data_dir, busy):
        try:
            _delete_temporary(data_dir)
            yield
        except OSError as error:
            raise InputError(
                f"{error.filename or data_dir}: {error.strerror or error}; mend this and run the "
                "same command again"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # the next one deletes it
                _delete_temporary(data_dir)


def _delete_temporary(data_dir: pathlib.Path) -> None:
    """Deletes what killed processes were writing."""
    shutil.rmtree(data_dir / METADATA_FOLDER, ignore_errors=True)
    for folder in (data_dir, data_dir / WORKING_FOLDER):
        for left_behind in folder.glob(".*.tmp"):
            left_behind.unlink()


def _clip_splits(clip_ids: Sequence[str], seed: int, overrides_path: _Path | None) -> np.ndarray:
    """int8[clips]: index into SPLITS, hashed, or as the overrides have it."""
    clip_splits = hashed_splits(clip_ids, seed)
    if overrides_path is None:
        return clip_splits
    overrides = read_columns(overrides_path, "split")
    for clip_id, split in overrides.items():
        if split not in SPLITS:
            raise InputError(
                f"{overrides_path}: clip {clip_id!r} has the split {split!r}; expected one of "
                f"{', '.join(SPLITS)}"
            )
    for row, clip_id in enumerate(clip_ids):
        if clip_id in overrides:
            clip_splits[row] = SPLITS.index(overrides.pop(clip_id))
    if overrides:
        print(
            f"warning: {overrides_path}: {len(overrides)} clips are not in the segments, the "
            f"first is {next(iter(overrides))!r}",
            file=sys.stderr,
        )
    return clip_splits


def write_shards(
    plan: Plan, pending: Sequence[Shard], *, num_workers: int | None, clip_timeout_s: float
) -> None:
    """Does the tasks with processes on this machine, by default as many as it has cores."""
    num_workers = min(num_workers or os.cpu_count() or 1, len(pending))
    num_clips = sum(plan.clips(shard).num_rows for shard in pending)
    with (
        tqdm.tqdm(total=num_clips, unit="clip", desc=f"{num_workers} workers") as bar,
        Workers(plan, num_workers=num_workers, clip_timeout_s=clip_timeout_s) as workers,
    ):
        workers.write_shards(pending, bar.update)


def finish(plan: Plan, outcomes: Sequence[Outcome]) -> None:
    """Writes what describes the shards: rejects, ontology, TFDS's metadata, the index last.

    Raises:
      InputError: it cannot be written, or there is no record at all.
    """
    data_dir = plan.data_dir
    rejects: list[tuple[int, str, str, str, str]] = []
    index: list[pa.RecordBatch] = []
    for shard, outcome in zip(plan.shards, outcomes, strict=True):
        clips = plan.clips(shard)
        is_written = np.ones(clips.num_rows, bool)
        for position, reason, detail in outcome.rejects:
            is_written[position] = False
            row, clip_id, path, member = (
                clips[name][position].as_py() for name in ("row", "clip_id", "path", "member")
            )
            source = str(Recording(os.fsdecode(path), member))
            rejects.append((row, clip_id, source, reason, detail))
        index.append(clips.select(INDEX_SCHEMA.names).filter(pa.array(is_written)))
    left_out = plan.without_recording.select(["row", "clip_id", "path", "reason", "detail"])
    rejects += [
        (row, clip_id, os.fsdecode(path), reason, detail)
        for row, clip_id, path, reason, detail in zip(
            *(column.to_pylist() for column in left_out.columns), strict=True
        )
    ]
    with (
        complete_file(data_dir / REJECTS) as path,
        # A file's name need not be UTF-8.
        open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("clip_id", "source", "reason", "detail"))
        table.writerows(reject[1:] for reject in sorted(rejects))
    num_clips = sum(outcome.num_records for outcome in outcomes)
    if not num_clips:
        raise InputError(
            f"{data_dir}: none of the {len(rejects)} clips could be written; "
            f"{data_dir / REJECTS} says why"
        )
    with complete_file(data_dir / "ontology.json") as path:
        path.write_bytes(plan.ontology.text.encode())

    # TFDS learns the data set's name and splits from the names of shards beside its metadata. These
    # are written in a folder apart, so that no half of them is ever seen; empty files do there.
    folder = data_dir / METADATA_FOLDER
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
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=record_features(len(plan.ontology)),
        split_infos=split_infos,
        check_data=False,
        description="AudioSet's labels re-labelled by its ontology; waveforms at 8 kHz.",
    )
    for name in ("features.json", "dataset_info.json"):
        with complete_file(data_dir / name) as path:
            path.write_bytes((folder / name).read_bytes())
    with complete_file(data_dir / INDEX) as path:
        pq.write_table(pa.Table.from_batches(index).replace_schema_metadata(None), path)


def _summarise(plan: Plan, outcomes: Sequence[Outcome], num_read: int, seconds: float) -> None:
    written = sum(outcome.num_records for outcome in outcomes)
    reasons = count_rejects(plan, outcomes)
    total = written + reasons.total()
    by_reason = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    hours = sum(outcome.duration_s for outcome in outcomes) / 3600
    lines = [
        f"clips in the segments  {total:,}",
        f"written                {written:,} ({hours:,.1f} hours of audio)",
        f"rejected               {reasons.total():,}" + (f" ({by_reason})" if reasons else ""),
    ]
    if num_read:
        lines.append(f"time                   {seconds:,.1f} s, {num_read / seconds:,.1f} clips/s")
    if reasons:
        lines.append(f"why they were rejected {plan.data_dir / REJECTS}")
    lines.append(f"data set               {plan.data_dir}")
    print(*lines, sep="\n", file=sys.stderr)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.build",
        description="Makes the data set that relabel_jax trains on from recordings, AudioSet's "
        "ontology and labels. The same command finishes a build that was stopped.",
        epilog="""\
what --audio takes, one or several with commas, wildcards too:
  a folder with recordings: wav, flac, aiff, aif, caf, ogg, oga, opus, mp3; with PyAV
      (pip install 'relabel-jax[sources]') m4a, mp4, webm, mkv, mka, aac, wma
  *.parquet  Hugging Face's form of AudioSet: video_id, audio {bytes, path}, labels
  *.tar      WebDataset: KEY.flac (or another of these formats) beside KEY.json or KEY.cls
  *.h5       PANNs' packed waveforms: audio_name, waveform, target (needs the same extra)
  a folder with such files; nothing is unpacked on disk

how the recording of clip X, 30 s to 40 s, is found there (in order of preference):
  X.ext, YX.ext, X_30_40.ext, X_30.ext; times in seconds (30, 30.0, 30.000) or milliseconds
  (30000); ext as above, in this order, in any case; video_id, KEY and audio_name count as names
  a recording is taken to begin where its clip begins; its first 10 s are stored

where the labels come from:
  --segments; without it, from parquet, tar or h5 itself: every recording there is a clip, its
  times in clips.parquet are 0 and 10 s; labels may be mids, names or, with --class_indices, numbers

examples:
  python -m data_prep.build --ontology=ontology.json --audio=recordings \\
      --segments=balanced_train_segments.csv,unbalanced_train_segments.csv.gz --output_dir=DATA
  python -m data_prep.build --ontology=ontology.json --audio='bal_train/*.parquet' --output_dir=DATA
  python -m data_prep.build --ontology=ontology.json --audio=balanced_train.h5 \\
      --class_indices=class_labels_indices.csv --output_dir=DATA

results in DATA: TFDS data set (ArrayRecord shards), ontology.json, clips.parquet, rejects.csv""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--ontology", required=True, metavar="JSON", help="AudioSet's ontology.json")
    add(
        "--segments",
        metavar="CSV[,CSV.gz]",
        help="one or more segment files; optional where the files in --audio have labels",
    )
    add(
        "--audio",
        metavar="FOLDER|FILE[,...]",
        help="where the recordings are (see below); with --paths one folder, and optional",
    )
    add("--output_dir", required=True, metavar="DATA", help="the data set's folder")
    add(
        "--paths",
        metavar="CSV",
        help="columns clip_id and path: the recordings, instead of a search by name; paths are "
        "relative to --audio or, where that has no such file, to the CSV's folder",
    )
    add(
        "--class_indices",
        metavar="CSV",
        help="AudioSet's class_labels_indices.csv, where labels in --audio are class numbers",
    )
    add(
        "--splits",
        metavar="CSV",
        help="columns clip_id and split (train, validation, test); other clips are split "
        "80/10/10 by a hash of their id",
    )
    add("--num_workers", type=int, metavar="N", help="processes (default: the number of cores)")
    add(
        "--clips_per_shard",
        type=int,
        default=256,
        metavar="N",
        help="at most so many clips in a shard (default: %(default)s, about 40 MB)",
    )
    add(
        "--split_seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the hashes that choose a clip's split and place (default: %(default)s)",
    )
    add(
        "--clip_timeout_s",
        type=float,
        default=CLIP_TIMEOUT_S,
        metavar="S",
        help="a clip that takes longer to read is rejected (default: %(default)g)",
    )
    add(
        "--runner",
        metavar="RUNNER",
        help="a Beam runner (DirectRunner, DataflowRunner, FlinkRunner, SparkRunner, ...) to do "
        "the work instead of processes on this machine; needs relabel-jax[beam]",
    )
    add(
        "--beam_options",
        default="",
        metavar="OPTIONS",
        help="of the runner: --beam_options='--direct_num_workers=8 "
        "--direct_running_mode=multi_processing'",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    flags["segments"] = flags["segments"].split(",") if flags["segments"] else []
    try:
        build(**flags)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
