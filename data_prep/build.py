"""Turns recordings and labels into a data set that relabel_jax trains on.

    python -m data_prep.build --segments=segments.csv --audio=AUDIO_DIR --output_dir=DATA

It writes into DATA:

- `relabel_audioset-SPLIT.array_record-...`, `features.json`, `dataset_info.json`: a TFDS data set
  (relabel_jax/data/schema.py has the schema), `tfds.builder_from_directory(DATA)` opens it without
  TensorFlow;
- `ontology.json`: the ontology that the labels refer to;
- `clips.parquet`: the clip index, a row for each record, in the order of the records: the shards
  of train by number, then validation, then test. Its columns are `clip_id`, `split`, `start_s`,
  `end_s`, `ol`, the class numbers of the original labels, and `partial`, whether a part of the
  recording is missing or damaged. Its metadata hold the sample rate and the length of the
  waveforms, and the decoders with their versions;
- `rejects.csv`: the clips that were left out: `clip_id`, `source` (the file, if there is one, and
  the place in it), `reason`, `detail`. Every clip is either in the shards or in this file;
- `sha256.json`: the digests of all these files (relabel_jax/data/integrity.py);
- `.build`: the plan and the outcomes of its tasks (plan.py). `clips.parquet` is written last: a
  folder that has it is complete.

The same command finishes a build that was stopped in any way, and gives the same bytes.
"""

import pathlib
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from data_prep import build_flags, workers
from data_prep.data_set_files import count_rejects, is_complete, write_data_set_files
from data_prep.inputs import Inputs, open_plan
from data_prep.plan import Outcome, Plan, Shard
from data_prep.retry import reopen_rejects
from data_prep.working_folder import delete_temporary_of, one_part_at_a_time, working_folder
from relabel_jax import cli
from relabel_jax.data.layout import INDEX_NAME, REJECTS_NAME
from relabel_jax.errors import InputError, install_command

# The advice, by the reason of most rejects.
_REMEDIES = {
    "no_file": "check --audio and the names of the recordings (--help says how they are found)",
    "ambiguous": "name the recordings by --paths",
    "outside": "put the recordings below --audio or beside the CSV of --paths",
    "missing": "the files of --audio have these clips without a recording: download them again",
    "scale": "divide float samples by their full scale",
    "nested": "unpack the archives that hold archives",
    "timeout": "give a longer --clip_timeout_s, or copy the recordings to a faster disk",
    "bad_labels": "check the labels of the files in --audio, and --class_indices",
    "no_labels": "check the labels of the files in --audio, or give --segments",
    "partial": "download them again, or keep what is there: --partial=keep",
    "too_short": "the videos end before their clips begin: download them again",
    "changed": "leave the recordings alone while they are read, and build into a new folder",
}
_MANY_REJECTS = 1 / 3


def build(
    *,
    output_dir: str | pathlib.Path,
    num_workers: int | None = None,
    clip_timeout_s: float = workers.CLIP_TIMEOUT_S,
    part: str = "",
    runner: str | None = None,
    beam_options: str = "",
    retry_rejects: bool = False,
    **inputs: Any,
) -> None:
    """Builds a data set, or finishes one, and prints a summary on stderr.

    Args:
      output_dir: the data set's folder.
      num_workers: number of processes; by default the number of cores.
      clip_timeout_s: seconds after which a clip that is still being read is rejected.
      part: `K/N` does every Nth shard, from the Kth on. Parts may run at the same time, in any
        order and more than once. The last one to finish writes the index.
      runner: a Beam runner that does the work instead of processes on this machine (beam.py).
      beam_options: the runner's options, as on a command line.
      retry_rejects: do the shards again that left out clips (retry.py).
      **inputs: the inputs of the data set: the fields of `data_prep.inputs.Inputs`.

    Raises:
      InputError: an input is wrong, `output_dir` holds something else, nothing can be written, a
        folder is gone.
    """
    began = time.monotonic()
    made_from = Inputs(**inputs)
    made_from.check()
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--num_workers={num_workers}: expected a number of at least 1")
    if not clip_timeout_s > 0:
        raise InputError(f"--clip_timeout_s={clip_timeout_s:g}: expected seconds, more than 0")
    if beam_options and runner is None:
        raise InputError("--beam_options: only with --runner")
    if num_workers is not None and runner is not None:
        raise InputError("--num_workers: not with --runner, whose --beam_options say how many")
    if part and runner is not None:
        raise InputError("--part: not with --runner, which shares out the work itself")
    if part and retry_rejects:
        raise InputError("--retry_rejects: not with --part, which does not know the other parts")
    share, num_shares = _parsed_part(part) if part else (1, 1)
    data_dir = pathlib.Path(output_dir).absolute()
    identity = made_from.identity()
    with working_folder(data_dir, part):
        with one_part_at_a_time(data_dir):
            plan = open_plan(data_dir, made_from, identity)
            if retry_rejects:
                reopen_rejects(plan)
        mine = [shard for shard in plan.shards if shard.number % num_shares == share - 1]
        pending = [shard for shard in mine if plan.outcome(shard) is None]
        if pending:
            plan.check_decoders()
        num_pending = sum(plan.clips(shard).num_rows for shard in pending)
        if part:
            names = (name for shard in mine for name in (shard.name, shard.outcome_name))
            delete_temporary_of(data_dir, names)
        if pending and runner is not None:
            _write_shards_by_beam(plan, pending, runner, beam_options, clip_timeout_s)
        elif pending:
            workers.write_shards(
                plan, pending, num_workers=num_workers, clip_timeout_s=clip_timeout_s
            )
        with one_part_at_a_time(data_dir):
            undone = sum(plan.outcome(shard) is None for shard in plan.shards)
            is_whole = not pending and not undone and is_complete(plan)
            if not undone and not is_whole:
                write_data_set_files(plan, plan.outcomes())
    seconds = time.monotonic() - began
    if undone:
        print(
            f"part {part} is done: {num_pending:,} clips in {seconds:,.1f} s; {undone} of "
            f"{len(plan.shards)} shards are still to do; the last part to finish writes "
            f"{data_dir / INDEX_NAME}",
            file=sys.stderr,
        )
        return
    if is_whole:
        print(f"{data_dir} is complete already, nothing to do", file=sys.stderr)
    _summarise(plan, plan.outcomes(), num_pending, seconds)


def _parsed_part(part: str) -> tuple[int, int]:
    """Returns K and N of `K/N`."""
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--part={part}: expected K/N with K from 1 to N, such as 2/8")
    return int(match[1]), int(match[2])


def _write_shards_by_beam(
    plan: Plan, pending: Sequence[Shard], runner: str, beam_options: str, clip_timeout_s: float
) -> None:
    try:
        from data_prep import beam
    except ImportError as error:
        raise InputError(
            f"--runner={runner} needs Apache Beam ({error}); {install_command('beam')}"
        ) from error
    beam.write_shards(
        plan, pending, runner=runner, options=beam_options, clip_timeout_s=clip_timeout_s
    )


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
    if num_trimmed := sum(outcome.num_trimmed for outcome in outcomes):
        lines.append(f"cut from whole videos  {num_trimmed:,}")
    if num_read:
        lines.append(f"time                   {seconds:,.1f} s, {num_read / seconds:,.1f} clips/s")
    if reasons:
        lines.append(f"why they were rejected {plan.data_dir / REJECTS_NAME}")
    lines.append(f"data set               {plan.data_dir}")
    lines += _oddities(outcomes)
    command = f"{cli.program('relabel_jax.main')} --config=base_human --workdir=W"
    lines.append(f"next                   {command} --config.data_dir={plan.data_dir}")
    if reasons.total() > _MANY_REJECTS * total:
        ((reason, count),) = reasons.most_common(1)
        remedy = _REMEDIES.get(reason, f"{plan.data_dir / REJECTS_NAME} says why, clip by clip")
        lines.append(
            f"warning: {reasons.total() / total:.1%} of the clips were rejected; the most common "
            f"reason is {reason} ({count:,}): {remedy}"
        )
    print(*lines, sep="\n", file=sys.stderr)


def _oddities(outcomes: Sequence[Outcome]) -> list[str]:
    """Returns a line for each way in which clips that were written may not be what was meant."""
    of_kind = (
        (
            sum(outcome.num_cancelled for outcome in outcomes),
            "silent or nearly so, because their channels cancel: --mono=loudest takes one",
        ),
        (
            sum(len(outcome.partial) for outcome in outcomes),
            "of recordings with a missing or damaged part: --partial=reject leaves them out",
        ),
        (
            sum(outcome.num_whole_videos for outcome in outcomes),
            "the beginnings of whole videos, but their segments begin later: --trim cuts the "
            "videos by the times of the segments",
        ),
    )
    return [f"warning: {number:,} clips are {what}" for number, what in of_kind if number]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    flags = vars(build_flags.parser().parse_args(arguments))
    flags["segments"] = flags["segments"].split(",") if flags["segments"] else []
    return cli.run(lambda: build(**flags), stopped=cli.RESUMES)


if __name__ == "__main__":
    sys.exit(main())
