"""Mixes scenes from recordings, so that the truth about each scene is known.

    python -m data_prep.scenes --recordings=DIR --labels=labels.csv --num_clips=2000 \\
        --output_dir=SCENES

A scene has 1 to 4 recordings at random places and levels on background noise. The recordings are
divided into train, validation and test, and each group of recordings (one uploader, one original)
is in one split only. The folder holds:

- `audio/ID.flac`: the scenes, mono, 16-bit FLAC;
- `truth.csv`: their true labels in the form of AudioSet's segment files: those of the recordings
  and *all* of their ancestors;
- `splits.csv`: the split of each scene (`clip_id,split`), for `data_prep.build`;
- `events/ID.txt`: the events of a scene in scaper's text form;
- `events.csv`: all events with their recordings and levels;
- `recordings.csv`: the recordings that were used, with their splits; `rejects.csv`: the others;
- `scenes.json`: the arguments and a summary. It is written last: a folder that has it is complete.

`data_prep.raters` makes `segments.csv` of `truth.csv`: the labels that AudioSet's raters would have
given. A command that was stopped is given again to finish the scenes, to the same bytes. The bytes
depend on the arguments alone, not on the number of processes.

scaper (Salamon et al., "Scaper: a library for soundscape synthesis and augmentation", 2017) is not
used: it has no groups and no splits, and starts SoX several times for each event.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

from data_prep.scenes_draw import DRAWS, ScenesSpec
from data_prep.scenes_files import SUMMARY_NAME, scenes_folder
from data_prep.scenes_making import ENOUGH_CLIPS, make_missing
from data_prep.scenes_recordings import GROUP_COLUMNS, read_labels
from relabel_jax import cli
from relabel_jax.audio.decode import decoders
from relabel_jax.errors import InputError
from relabel_jax.files import read_json, write_json
from relabel_jax.labels import segment_flags
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

_Path = str | pathlib.Path


def make_scenes(
    *,
    recordings: _Path,
    labels: Sequence[_Path],
    output_dir: _Path,
    num_clips: tuple[int, int, int],
    ontology: _Path | None = None,
    class_map: _Path | None = None,
    group_column: str | None = None,
    unknown: str = "refuse",
    num_workers: int | None = None,
    **choices: Any,
) -> None:
    """Makes scenes, or finishes them, and prints a summary on stderr.

    Args:
      recordings: the folder of the recordings.
      labels: the files of the table of labels; see `data_prep.scenes_recordings`.
      output_dir: the folder to create.
      num_clips: the number of scenes in train, validation and test.
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      class_map, group_column, unknown: see `scenes_recordings.read_labels`.
      num_workers: number of processes; by default the number of cores.
      **choices: `seed`, `max_events`, `snr_db`, `draw`, `shares`, `sample_rate_hz` and
        `duration_s`; see `ScenesSpec`.

    Raises:
      InputError: an input is wrong, `output_dir` holds something else, or it cannot be written.
    """
    began = time.monotonic()
    spec = ScenesSpec(num_clips, **choices)
    num_workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    if num_workers < 1:
        raise InputError(f"--num_workers={num_workers}: expected at least 1")
    the_ontology = Ontology.read(ontology)
    table = read_labels(
        [pathlib.Path(path) for path in labels],
        the_ontology,
        class_map=None if class_map is None else pathlib.Path(class_map),
        group_column=group_column,
        unknown=unknown,
    )
    # The table stands for the files of the labels, the class map and the flags about them.
    arguments = {
        **dataclasses.asdict(spec),
        "labels": hashlib.sha256(repr(table).encode()).hexdigest(),
        "ontology": hashlib.sha256(the_ontology.text.encode()).hexdigest(),
        "decoders": decoders(),
    }
    folder = pathlib.Path(output_dir).absolute()
    with scenes_folder(folder, arguments):
        if (folder / SUMMARY_NAME).exists():
            print(f"{folder} is complete already, nothing to do", file=sys.stderr)
        else:
            source = pathlib.Path(recordings).absolute()
            try:
                summary = make_missing(spec, folder, source, table, the_ontology, num_workers)
            except concurrent.futures.BrokenExecutor as error:
                raise InputError(
                    f"{folder}: a worker process was killed; try a smaller --num_workers; the same "
                    "command continues from here"
                ) from error
            write_json(folder / SUMMARY_NAME, {"arguments": arguments, "summary": summary})
        summary = read_json(folder / SUMMARY_NAME)["summary"]
        _print(summary, folder, spec.duration_s, time.monotonic() - began)


def _print(
    summary: dict[str, Any], folder: pathlib.Path, duration_s: float, seconds: float
) -> None:
    def by_split(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {counts[name]:,}" for name in SPLITS)

    lines = [
        f"scenes                {by_split(summary['scenes'])}",
        f"recordings            {by_split(summary['recordings'])}",
        f"recordings left out   {summary['rejected_recordings']:,}",
        f"events per scene      {summary['events_per_scene']:.2f}",
        f"true labels per scene {summary['true_labels_per_scene']:.2f}",
        f"time                  {seconds:,.1f} s",
        f"scenes of a root, and its classes with at least {ENOUGH_CLIPS} training scenes (those "
        "of them with test scenes):",
    ]
    lines += [
        f"  {name:36}{by_split(root)}; {root['classes_to_learn']} classes "
        f"({root['classes_to_test']})"
        for name, root in summary["roots"].items()
    ]
    of_build = "" if duration_s == ScenesSpec.duration_s else f"--duration_s={duration_s:g} "
    lines += [
        f"written {folder}",
        f"next: {cli.program('data_prep.raters')} --segments={folder}/truth.csv "
        f"--output={folder}/segments.csv",
        f"then: {cli.program('data_prep.build')} --segments={folder}/segments.csv "
        f"--audio={folder}/audio --splits={folder}/splits.csv {of_build}--output_dir=DATA",
    ]
    print(*lines, sep="\n", file=sys.stderr)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    raters, build = cli.program("data_prep.raters"), cli.program("data_prep.build")
    parser = cli.parser(
        "data_prep.scenes",
        "Mixes scenes from recordings, so that the truth about each scene is known.",
        epilog=f"""\
labels: a CSV with a header line, or several; FSD50K's, ESC-50's and others with these columns
  file    the first of path, filename, fname, clip_id: a path below --recordings, or a file's name
  labels  the first of mids, label_names, category, labels, label: mids or display names, separated
          by semicolons; ESC-50's categories; or the labels of --class_map
  group   the first of {", ".join(GROUP_COLUMNS)}; without one, each recording is a group.
          A group named train, val or eval (and the like) goes to this split.

example:
  {cli.program("data_prep.scenes")} --recordings=FSD50K --num_clips=8000,1000,1500 \\
      --labels=FSD50K/FSD50K.ground_truth/dev.csv,FSD50K/FSD50K.ground_truth/eval.csv \\
      --output_dir=SCENES
  {raters} --segments=SCENES/truth.csv --output=SCENES/segments.csv
  {build} --segments=SCENES/segments.csv --audio=SCENES/audio \\
      --splits=SCENES/splits.csv --output_dir=DATA

output: audio/, truth.csv, splits.csv, events/ (scaper's text form), events.csv, recordings.csv,
rejects.csv, ontology.json and scenes.json in SCENES. A summary goes to stderr.""",
    )
    inputs = parser.add_argument_group("input")
    add = inputs.add_argument
    add("--recordings", required=True, type=cli.path, metavar="DIR", help="their folder")
    add("--labels", required=True, type=cli.paths, metavar="CSV[,CSV]", help="see below")
    add("--class_map", type=cli.path, metavar="CSV", help="label,mids: the mids of other labels")
    add("--group_column", metavar="NAME", help="recordings of a group are in one split (see below)")
    add(
        "--ontology",
        type=cli.path,
        metavar="JSON",
        help="(default: AudioSet's, which comes with this package)",
    )
    segment_flags.add_unknown(inputs)
    add = parser.add_argument_group("scenes").add_argument
    add(
        "--num_clips",
        required=True,
        type=_num_clips,
        metavar="N|N,N,N",
        help="in all (80/10/10), or in train, validation and test",
    )
    add("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    add(
        "--max_events",
        type=int,
        default=ScenesSpec.max_events,
        metavar="N",
        help="a scene has 1 to N recordings (default: %(default)s)",
    )
    add(
        "--snr_db",
        type=_numbers,
        default=ScenesSpec.snr_db,
        metavar="LOW,HIGH",
        help="level of an event's loudest tenth of a second above the background (default: 6,30)",
    )
    add(
        "--draw",
        choices=DRAWS,
        default=ScenesSpec.draw,
        help="recordings: each equally often; classes: each class equally often; audioset: each "
        "class as often as AudioSet has it (default: %(default)s)",
    )
    add(
        "--shares",
        type=_numbers,
        default=ScenesSpec.shares,
        metavar="R,R,R",
        help="of the recordings, for train, validation and test (default: 0.6,0.15,0.25)",
    )
    add(
        "--sample_rate_hz",
        type=int,
        default=ScenesSpec.sample_rate_hz,
        metavar="HZ",
        help="(default: %(default)s)",
    )
    add(
        "--duration_s",
        type=float,
        default=ScenesSpec.duration_s,
        metavar="S",
        help="length of a scene (default: %(default)g)",
    )
    add = parser.add_argument_group("output").add_argument
    add("--output_dir", required=True, type=cli.path, metavar="SCENES", help="the folder to create")
    add("--num_workers", type=int, metavar="N", help="processes (default: one for each core)")
    return parser.parse_args(arguments)


def _num_clips(text: str) -> tuple[int, ...]:
    """The numbers of clips in the splits; a single number is divided 80/10/10."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers, got {text}") from None
    if len(numbers) == 1:
        return numbers[0] - 2 * (numbers[0] // 10), numbers[0] // 10, numbers[0] // 10
    if len(numbers) != len(SPLITS):
        raise argparse.ArgumentTypeError(f"expected one number or three, got {text}")
    return numbers


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers, got {text}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: make_scenes(**flags), stopped=cli.RESUMES)


if __name__ == "__main__":
    sys.exit(main())
