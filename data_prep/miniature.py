"""Makes a miniature AudioSet: synthetic recordings, a small ontology, and simulated raters.

    python -m data_prep.miniature --output_dir=MINI --num_clips=600

The miniature has AudioSet's form and AudioSet's faults, and also the true labels. So everything can
be tried and scored in minutes, without a download. The folder holds:

- `ontology.json`: 66 classes below six of AudioSet's roots, in AudioSet's JSON form. Ids, names,
  restrictions and the relations between these classes are AudioSet's own (Gemmeke et al., 2017;
  ontology under CC BY-SA 4.0); descriptions are left empty.
- `audio/ID.flac`: 16-bit FLAC, mostly 10 s, mono and 16 kHz, some shorter or longer, stereo, or at
  another rate. Two or three events of different classes (`data_prep/synthesis.py`) at random
  levels and times within the first 10 s, on background noise.
- `segments.csv`: the labels that the simulated raters chose, in AudioSet's form with three header
  lines.
- `truth.csv`: the true labels in the same form: the precise class of every event and *all* of its
  ancestors, including abstract and blacklisted ones. A class that is not listed is not in the clip.
- `miniature.json`: the arguments and a summary.

With `--ontology=audioset` the miniature has AudioSet's whole ontology. A clip has one to three
events, drawn as often as AudioSet has their classes, and every class sounds like a variant of its
parents (`data_prep/miniature_sounds.py`). The raters have AudioSet's own habits: `segments.csv` is
what `data_prep.raters` makes of `truth.csv` with the same seed.

Otherwise the raters (`data_prep/miniature_raters.py`) have the two habits of AudioSet's raters
(paper, section II). They name a general class in place of the precise one, and they leave out
parents of the classes that they name.

The seed and the number of a clip determine everything about the clip. So a larger miniature begins
with the clips of a smaller one, and the error rates of the raters change neither the recordings nor
the truth.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import glob
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence

import numpy as np
import soundfile

from data_prep.miniature_clips import SEGMENT_S, MiniatureClip, write_audio
from data_prep.miniature_raters import (
    audioset_labels,
    left_out_rates,
    parents_chosen,
    rate_clip,
    true_labels,
)
from data_prep.miniature_spec import CLASSES, MiniatureSpec, ontology
from data_prep.synthetic_labels import label_matrix, write_segment_file
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, only_process
from relabel_jax.labels.ontology import Ontology

_LOCK = ".lock"  # there while a process fills the folder
_EPILOG = """\
example:
  python -m data_prep.miniature --output_dir=mini --num_clips=600
  python -m data_prep.build --ontology=mini/ontology.json --segments=mini/segments.csv \\
      --audio=mini/audio --output_dir=mini_data

output: ontology.json, segments.csv, truth.csv, miniature.json and audio/ in MINI; a summary on
stdout. The folder appears when it is complete."""


def write_labels(
    path: pathlib.Path,
    title: str,
    clips: Sequence[MiniatureClip],
    labels: Sequence[set[int]],
    of: Ontology | None = None,
) -> None:
    """Writes a segment file of the clips' class numbers; see `write_segment_file`.

    `of` is the ontology of the classes, by default the quickstart's.
    """
    classes = of or ontology()
    write_segment_file(
        path,
        title,
        [clip.clip_id for clip in clips],
        [min(clip.seconds, SEGMENT_S) for clip in clips],
        label_matrix(labels, classes),
        classes,
    )


def _write_text(path: pathlib.Path, text: str) -> None:
    with complete_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def summarise(
    clips: Sequence[MiniatureClip],
    labels: Sequence[set[int]],
    truth: Sequence[set[int]],
    classes: Ontology,
) -> dict:
    """Returns the counts that `miniature.json` and the last lines of the command report."""
    target_clips: collections.Counter[str] = collections.Counter()
    for root in classes.roots:
        side = classes.descendant_sets[root] | {root}
        target_clips[classes.display_names[root]] = sum(bool(side & given) for given in labels)
    answered = parents_chosen(labels, classes)
    return {
        "hours": round(sum(clip.seconds for clip in clips) / 3600, 4),
        "labels_per_clip": round(float(np.mean([len(given) for given in labels])), 3),
        "true_labels_per_clip": round(float(np.mean([len(true) for true in truth])), 3),
        "parents_left_out": None if np.isnan(answered) else round(1 - answered, 4),
        "clips_per_root": dict(target_clips),
    }


def build(spec: MiniatureSpec, output_dir: pathlib.Path, num_workers: int) -> dict:
    """Writes a miniature under a temporary name and renames it when it is complete.

    Returns:
      The summary, which `miniature.json` holds too.

    Raises:
      InputError: the folder cannot be written or a worker was killed.
    """
    _delete_partial(output_dir)
    partial_dir = output_dir.with_name(f".{output_dir.name}.{os.getpid()}.partial")
    lock = partial_dir / _LOCK
    try:
        partial_dir.mkdir(parents=True)
        with only_process(lock, output_dir, "another process makes it"):
            summary = _write(spec, partial_dir, num_workers)
            lock.unlink()
            partial_dir.rename(output_dir)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{output_dir}: cannot write the miniature: {error}") from error
    except concurrent.futures.BrokenExecutor as error:
        raise InputError(
            f"{output_dir}: a worker process was killed; try a smaller --num_workers"
        ) from error
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    return summary


def _delete_partial(output_dir: pathlib.Path) -> None:
    """Deletes what killed processes left beside the folder. Those at work hold their locks."""
    for partial_dir in output_dir.parent.glob(f".{glob.escape(output_dir.name)}.*.partial"):
        with (
            contextlib.suppress(InputError),
            only_process(partial_dir / _LOCK, partial_dir, "a process is at work there"),
        ):
            shutil.rmtree(partial_dir, ignore_errors=True)


def _write(spec: MiniatureSpec, folder: pathlib.Path, num_workers: int) -> dict:
    """Writes the files of a miniature into a folder that exists; returns the summary."""
    audio_dir = folder / "audio"
    audio_dir.mkdir()
    clips = write_audio(spec, audio_dir, num_workers)
    classes = spec.ontology
    truth = [true_labels(clip.events, classes) for clip in clips]
    if spec.is_audioset:
        labels = audioset_labels([clip.clip_id for clip in clips], truth, spec.seed)
    else:
        rates = left_out_rates(spec)
        labels = [rate_clip(spec, number, clip.events, rates) for number, clip in enumerate(clips)]
    _write_text(folder / "ontology.json", classes.text)
    write_labels(folder / "segments.csv", "the miniature's raters", clips, labels, classes)
    write_labels(folder / "truth.csv", "the miniature's truth", clips, truth, classes)
    summary = summarise(clips, labels, truth, classes)
    content = {"arguments": spec.arguments(), "summary": summary}
    _write_text(folder / "miniature.json", json.dumps(content, indent=1) + "\n")
    return summary


def existing_summary(spec: MiniatureSpec, output_dir: pathlib.Path) -> dict | None:
    """Returns the summary of the miniature at `output_dir`; None if there is nothing.

    Raises:
      InputError: the folder holds something else, or a miniature made with other arguments.
    """
    if not output_dir.exists():
        return None
    try:
        content = json.loads((output_dir / "miniature.json").read_text(encoding="utf-8"))
        arguments, summary = content["arguments"], content["summary"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{output_dir}: already exists and is not a complete miniature; remove it or give "
            "another --output_dir"
        ) from None
    if arguments != spec.arguments():
        raise InputError(
            f"{output_dir}: already holds a miniature made with other arguments ({arguments}); "
            "remove it or give another --output_dir"
        )
    return summary


def make(
    output_dir: pathlib.Path,
    num_clips: int,
    seed: int,
    num_workers: int,
    parent_left_out: float,
    general_only: float,
    ontology: str = "quickstart",
) -> None:
    """Makes a miniature unless it exists already, and prints a summary on stdout.

    Args:
      output_dir: the folder to create.
      num_clips, seed, parent_left_out, general_only: see `MiniatureSpec`.
      num_workers: number of processes.
      ontology: `classes` of `MiniatureSpec`.

    Raises:
      InputError: an argument is out of range, or the folder has other content or cannot be written.
    """
    start = time.perf_counter()
    if num_workers < 1:
        raise InputError(f"--num_workers={num_workers}: expected at least 1")
    spec = MiniatureSpec(num_clips, seed, parent_left_out, general_only, ontology)
    summary = existing_summary(spec, output_dir)
    done = summary is not None
    if summary is None:
        summary = build(spec, output_dir, num_workers)
    left_out = summary["parents_left_out"]
    print(
        f"{output_dir}: {'already complete' if done else 'written'}: {num_clips} clips, "
        f"{summary['hours']:.2f} hours, {summary['labels_per_clip']:.2f} labels a clip of "
        f"{summary['true_labels_per_clip']:.2f} true ones, parents left out "
        f"{'-' if left_out is None else f'{left_out:.0%}'}, "
        f"{time.perf_counter() - start:.1f} s"
    )
    per_root = [f"{name} {number}" for name, number in summary["clips_per_root"].items()]
    print(f"clips with a label of: {', '.join(per_root)}")
    print(
        f"next: {cli.program('data_prep.build')} --ontology={output_dir}/ontology.json "
        f"--segments={output_dir}/segments.csv --audio={output_dir}/audio --output_dir=DATA",
        file=sys.stderr,
    )


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    defaults = MiniatureSpec()
    parser = cli.parser(
        "data_prep.miniature",
        "Synthesises a miniature AudioSet: recordings, ontology, raters' labels and true labels.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--output_dir",
        type=cli.path,
        required=True,
        metavar="MINI",
        help="the folder to create; it must not exist, or hold the same miniature already",
    )
    parser.add_argument(
        "--ontology",
        choices=CLASSES,
        default=defaults.classes,
        help="quickstart: 66 classes, each equally often; audioset: AudioSet's whole ontology, "
        "each class as often as AudioSet has it, and AudioSet's raters (default: %(default)s)",
    )
    size = parser.add_argument_group("size and speed")
    raters = parser.add_argument_group("habits of the simulated raters")
    for group, flag, kind, default, what in (
        (size, "num_clips", int, defaults.num_clips, "number of recordings"),
        (size, "seed", int, defaults.seed, "seed of all random choices"),
        (
            size,
            "num_workers",
            int,
            os.cpu_count() or 1,
            "number of processes, which does not change the result",
        ),
        (
            raters,
            "parent_left_out",
            float,
            defaults.parent_left_out,
            "how often they leave out a class's parent: mean over the ontology's edges",
        ),
        (
            raters,
            "general_only",
            float,
            defaults.general_only,
            "how often they name an ancestor in place of the precise class",
        ),
    ):
        group.add_argument(
            f"--{flag}",
            type=kind,
            default=default,
            metavar="N" if kind is int else "RATE",
            help=f"{what} (default: %(default)s)",
        )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: make(**flags))


if __name__ == "__main__":
    sys.exit(main())
