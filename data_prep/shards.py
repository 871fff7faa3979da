"""Writes one shard of a plan, which is a task of a worker or a cluster."""

import contextlib
import os
from collections.abc import Callable, Mapping

from array_record.python.array_record_module import ArrayRecordWriter

from data_prep import permit as permits
from data_prep.plan import Outcome, Plan, Shard
from data_prep.reading import read_clip
from data_prep.sources import Recording
from data_prep.working_folder import WORKING_FOLDER
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
    permit: str | None = None,
) -> Outcome:
    """Does one task: reads its clips one at a time, and writes the shard and its outcome.

    Args:
      plan: the plan.
      shard: the task.
      on_clip: called with the position of each clip before its recording is opened, and after the
        last clip with the number of clips.
      fatal: the reason and detail of clips that kill or block the process that opens them, by
        position. They are rejected without being opened.
      permit: the permit of the build (permit.py); None if this process has locked the folder.

    Returns:
      The outcome.

    Raises:
      InputError: the shard cannot be written, the folder of the recordings is gone, a fault of the
        system lasts (relabel_jax/faults.py), or the permit is not valid any more.
    """
    clips = plan.clips(shard)
    plan.check_decoders()
    try:
        with contextlib.ExitStack() as naming:
            with complete_file(plan.data_dir / shard.name) as temporary:
                # With zstd's level -1 files are a sixth larger than with the default level, 3. But
                # writing takes a third of the time, and reading, which every epoch of a training
                # does, takes less than half.
                writer = ArrayRecordWriter(os.fspath(temporary), "group_size:1,zstd:-1")
                outcome = _write_records(plan, shard, writer, on_clip, fatal)
                on_clip(clips.num_rows)
                writer.close()
                outcome.num_bytes = temporary.stat().st_size
                outcome.sha256 = digests.of_file(temporary)
                if permit is not None:  # until both files have their names
                    naming.enter_context(permits.needed(plan.data_dir / WORKING_FOLDER, permit))
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
) -> Outcome:
    """Writes the records and returns the outcome, except for the size of the shard."""
    clips = plan.clips(shard)
    waveform_format, reading = plan.waveform_format, plan.reading

    def on_failure(recording: Recording) -> None:
        _refuse_lost_recordings(plan, recording.path)

    ol = multi_hot(clips["ol"], len(plan.ontology))
    pel, masked = relabel(ol, plan.ontology, "pe_cml")
    outcome = Outcome()
    columns = (clips[name].to_pylist() for name in ("clip_id", "start_s", "end_s"))
    rows = zip(*columns, plan.recordings(shard), strict=True)
    for position, (clip_id, start_s, end_s, candidates) in enumerate(rows):
        on_clip(position)
        if position in fatal:
            outcome.rejects.append((position, *fatal[position]))
            continue
        try:
            sound = read_clip(candidates, start_s, end_s, waveform_format, reading, on_failure)
        except Rejected as error:
            outcome.rejects.append((position, error.reason, error.detail))
            continue
        labels = (each[position] for each in (ol, pel, masked))
        writer.write(serialize_record(clip_id, sound.waveform, *labels))
        outcome.num_records += 1
        outcome.duration_s += sound.duration_s
        outcome.num_cancelled += sound.is_cancelled
        outcome.num_trimmed += sound.is_trimmed
        outcome.num_whole_videos += sound.is_whole_video
        if sound.is_partial:
            outcome.partial.append(position)
    return outcome


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
