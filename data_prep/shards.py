"""Writes one shard of a plan, which is a task of a worker or a cluster."""

import os
from collections.abc import Callable, Mapping

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_prep.plan import Outcome, Plan, Shard
from data_prep.recordings import Candidates
from data_prep.sources import read_recording
from relabel_jax import digests
from relabel_jax.data.schema import serialize_record
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.segments import multi_hot


def write_shard(
    plan: Plan,
    shard: Shard,
    *,
    on_clip: Callable[[int], None],
    fatal: Mapping[int, tuple[str, str]],
) -> Outcome:
    """Does one task: reads its clips one at a time, and writes the shard and its outcome.

    Args:
      plan: the plan.
      shard: the task.
      on_clip: called with the position of each clip before its recording is opened, and after the
        last clip with the number of clips.
      fatal: the reason and detail of clips that kill or block the process that opens them, by
        position. They are rejected without being opened.

    Returns:
      The outcome.

    Raises:
      InputError: the shard cannot be written, or the folder of the recordings is gone.
    """
    clips = plan.clips(shard)
    try:
        with complete_file(plan.data_dir / shard.name) as temporary:
            # With zstd's level -1 files are a sixth larger than with the default level, 3. But
            # writing takes a third of the time, and reading, which every epoch of a training does,
            # takes less than half.
            writer = ArrayRecordWriter(os.fspath(temporary), "group_size:1,zstd:-1")
            durations_s, rejects = _write_records(plan, shard, writer, on_clip, fatal)
            on_clip(clips.num_rows)
            writer.close()
            num_bytes, sha256 = temporary.stat().st_size, digests.of_file(temporary)
        outcome = Outcome(len(durations_s), num_bytes, sum(durations_s), rejects, sha256)
        plan.write_outcome(shard, outcome)
    except (InputError, RuntimeError) as error:  # ArrayRecord raises RuntimeError
        what = error if isinstance(error, InputError) else f"{shard.name}: cannot write: {error}"
        raise InputError(
            f"{what}; finished shards are kept, so mend this and run the same command again"
        ) from error
    return outcome


def _write_records(
    plan: Plan,
    shard: Shard,
    writer: ArrayRecordWriter,
    on_clip: Callable[[int], None],
    fatal: Mapping[int, tuple[str, str]],
) -> tuple[list[float], list[tuple[int, str, str]]]:
    """Writes the records; returns the seconds of sound of each, and the rejects as in `Outcome`."""
    clips = plan.clips(shard)
    ol = multi_hot(clips["ol"], len(plan.ontology))
    pel, masked = relabel(ol, plan.ontology, "pe_cml")
    durations_s: list[float] = []
    rejects: list[tuple[int, str, str]] = []
    rows = zip(clips["clip_id"].to_pylist(), plan.recordings(shard), strict=True)
    for position, (clip_id, candidates) in enumerate(rows):
        on_clip(position)
        if position in fatal:
            rejects.append((position, *fatal[position]))
            continue
        try:
            waveform, duration_s = _read_first(plan, candidates)
        except Rejected as error:
            rejects.append((position, error.reason, error.detail))
            continue
        labels = (each[position] for each in (ol, pel, masked))
        writer.write(serialize_record(clip_id, waveform, *labels))
        durations_s.append(duration_s)
    return durations_s, rejects


def _read_first(plan: Plan, candidates: Candidates) -> tuple[np.ndarray, float]:
    """Reads the first of a clip's recordings that can be read; see `read_recording`.

    Raises:
      Rejected: none can be read. The reason is that of the first one.
    """
    failures: list[Rejected] = []
    for recording in candidates:
        try:
            return read_recording(recording.path, recording.member, plan.waveform_format)
        except Rejected as error:
            _refuse_lost_recordings(plan, recording.path)
            failures.append(error)
    others = zip(candidates[1:], failures[1:], strict=True)
    details = [failures[0].detail, *(f"{each}: {error.detail}" for each, error in others)]
    raise Rejected(failures[0].reason, "; ".join(details))


def _refuse_lost_recordings(plan: Plan, path: str) -> None:
    """Raises InputError if `path` is gone together with the place of other recordings.

    In that case a disk was unmounted or a folder was moved, so the clip must not be rejected.
    """
    if os.path.exists(path):
        return
    places = list(filter(None, plan.inputs["--audio"].split("\0")))
    # With --paths there may be no --audio, and a disk may be mounted below it. So the highest
    # folder above `path` that is gone counts too, unless it had this recording only.
    folder, gone = os.path.dirname(path), ""
    while _why_gone(folder) and folder != os.path.dirname(folder):
        folder, gone = os.path.dirname(folder), folder
    if gone and plan.num_recordings_below(gone) > 1:
        places.append(gone)
    for place in places:
        if why := _why_gone(place):
            raise InputError(f"{place}: the recordings were here when the build began, now: {why}")


def _why_gone(place: str) -> str:
    """Returns why a place has no recordings; "" for a file and for a folder that is not empty."""
    try:
        if os.path.isfile(place):
            return ""
        with os.scandir(place) as entries:
            # The mount point of an unmounted disk is an empty folder.
            return "" if any(entries) else "it is empty"
    except OSError as error:
        return error.strerror or str(error)
