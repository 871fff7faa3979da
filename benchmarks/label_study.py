"""When do richer labels help? A study on sound whose truth is known, with AudioSet's raters.

    python benchmarks/label_study.py --segments=COMPLETE.csv --audio=AUDIO --output_dir=STUDY
    python benchmarks/label_study.py --fsd50k=FSD50K --output_dir=STUDY

The first form takes any recordings with complete labels, such as the scenes of data_prep.scenes or
a miniature. The second one takes the unpacked archive of FSD50K.

Raters with AudioSet's habits label the clips again (data_prep/raters.py), at several severities.
Bases are trained outside a root with each labeling, and with the truth as the upper bound. Then
the classes at and below the root are learned from each base, with the raters' labels and with the
truth. Everything is tested on the truth. The base with `ol` is what the others are compared with.

Parts (--parts); `severity`, `target_size` and `methods` start from bases of `main`:

  main         all labelings, after few and after many epochs: is it the speed or the end?
  severity     raters with better and with worse habits
  target_size  fewer and more target clips
  base_size    fewer base clips
  methods      `finetune` and `scratch` in place of `features`
  comparators  bases with `bce`: large-loss rejection, label smoothing, masks of a teacher, and
               C-HMCNN's max constraint
  mixup        bases with `bce` and mixup: the two rules for masked labels (train/mixup.py)
  seeds        more seeds of the labelings of the paper
  longer       the labelings of the paper after many more epochs of the base; it comes last

The interval of a gain is a bootstrap over seeds and test clips together. The clips, the raters and
the test set are the same for all seeds: a second study with another --seed draws others.

An estimate of the time comes first. The study can be stopped at any time, and the same command
continues. `study.json` and `study.html` are written at the end; --report_only writes them from what
is there.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from label_study_inputs import StudyClips
from label_study_plan import BASE_RECIPES, NETWORKS, PARTS, Design, Stage, make_plan
from label_study_report import summary, write_study
from label_study_runs import LABELS, Study, estimated_seconds

from data_prep import datasets
from data_prep.rater_habits import Habits
from relabel_jax import cli
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import InputError
from relabel_jax.files import json_text
from relabel_jax.models import registry


def prepare(flags: argparse.Namespace, design: Design, stages: Sequence[Stage]) -> Study:
    """Makes the labels and the data sets of a study, except those that are there.

    Raises:
      InputError: an input is wrong, or the folder has a study with other arguments.
    """
    folder = flags.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    may_change = ("parts", "report_only", "output_dir")
    given = {name: str(each) for name, each in vars(flags).items() if name not in may_change}
    record = folder / "arguments.json"
    if record.exists() and record.read_text() != json_text(given):
        raise InputError(f"{folder}: has a study with other arguments; {record} has them")
    segments, paths, splits = flags.segments, flags.paths, flags.splits
    if flags.fsd50k is not None:
        meta = folder / "fsd50k"
        datasets.convert("fsd50k", flags.fsd50k, meta)
        segments, paths, splits = [meta / "segments.csv"], meta / "paths.csv", meta / "splits.csv"
    clips = StudyClips.read(
        ontology=flags.ontology,
        segments=segments,
        splits=splits,
        habits=flags.habits,
        root=flags.root,
        seed=flags.seed,
    )
    record.write_text(json_text(given))
    (folder / "ontology.json").write_text(clips.ontology.text, encoding="utf-8")
    if not (folder / LABELS).exists():
        habits = Habits.read(flags.habits, clips.ontology)
        clips.write_labelings(folder / LABELS, habits, design.severities, flags.seed)
    model = {"name": design.network, **NETWORKS[design.network]}
    # The paper's network does not have this option.
    if flags.duration_s != PAPER_FORMAT.duration_s:
        model["duration_s"] = flags.duration_s
    study = Study(folder, design, flags.root, model, flags.batch_size)
    needed = {("base", stage.clips) for stage in stages}
    needed |= {("target", each.target_clips) for stage in stages for each in stage.transfers}
    for side, number in sorted(needed):
        tested = design.base_test_clips if side == "base" else design.test_clips
        clips.build(
            study.data_dir(side, number),
            clips.choose(side, (number, design.validation_clips, tested)),
            audio=flags.fsd50k or flags.audio,
            paths=paths,
            waveform_format=registry.build(model, 1).waveform_format,
        )
    return study


def run(flags: argparse.Namespace) -> None:
    """Runs the parts of a study, or continues, and writes the report.

    Raises:
      InputError: an input is wrong, or a run failed.
      Interrupted: a SIGTERM stopped the program, after its work was saved.
    """
    if unknown := [part for part in flags.parts if part not in PARTS]:
        raise InputError(f"--parts: {unknown[0]!r} is none of {', '.join(PARTS)}")
    design = Design(*(getattr(flags, field.name) for field in dataclasses.fields(Design)))
    stages = make_plan(design, flags.parts)
    study = prepare(flags, design, stages)
    if not flags.report_only:
        hours = estimated_seconds(study, stages) / 3600
        print(f"about {hours:.2f} hours are left, if nothing else runs", file=sys.stderr)
        for number, stage in enumerate(stages):
            began = time.monotonic()
            study.run(stage)
            seconds = time.monotonic() - began
            what = f"{stage.part}, {stage.clips} clips, {stage.recipe}, {stage.epochs} epochs"
            print(f"{number + 1}/{len(stages)} {what}: {seconds:,.0f} s", file=sys.stderr)
    print(summary(write_study(study.folder, make_plan(design, PARTS), design), design))
    print(f"written {study.folder}/study.json and study.html", file=sys.stderr)


def _values(text: str) -> tuple:
    """The numbers or names of a comma-separated list."""
    values = []
    for part in text.split(","):
        is_number = part.replace(".", "", 1).isdigit()
        values.append(part if not is_number else float(part) if "." in part else int(part))
    return tuple(values)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output_dir", required=True, type=cli.path, metavar="STUDY", help="all goes there")
    add("--segments", type=cli.paths, default=[], metavar="CSV", help="complete labels")
    add("--audio", type=cli.path, help="the recordings")
    add("--paths", type=cli.path, metavar="CSV", help="clip_id,path of the recordings")
    add("--splits", type=cli.path, metavar="CSV", help="clip_id,split (default: hashed)")
    add("--fsd50k", type=cli.path, metavar="FOLDER", help="in place of these four")
    add("--ontology", type=cli.path, metavar="JSON", help="(default: AudioSet's)")
    add("--habits", type=cli.path, metavar="AUDIT", help="(default: AudioSet's raters)")
    add("--root", default="Human sounds", help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the raters and the choice of the clips")
    add(
        "--duration_s",
        type=float,
        default=PAPER_FORMAT.duration_s,
        metavar="S",
        help="length of the clips (default: %(default)g)",
    )
    add("--batch_size", type=int, default=32, help="(default: %(default)s)")
    add("--parts", type=lambda text: text.split(","), default=PARTS, help="(default: all)")
    add("--report_only", action="store_true", help="only write the report of what is finished")
    design = parser.add_argument_group("design (label_study_plan.py says what they mean)")
    choices = {"network": tuple(NETWORKS), "recipe": BASE_RECIPES}
    for field in dataclasses.fields(Design):
        kind = type(field.default)
        design.add_argument(
            f"--{field.name}",
            type=_values if kind is tuple else kind,
            default=field.default,
            choices=choices.get(field.name),
            metavar=None if field.name in choices else {int: "N", tuple: "A,B"}[kind],
            help="(default: %(default)s)",
        )
    flags = parser.parse_args(arguments)
    return cli.run(lambda: run(flags), stopped=cli.RESUMES)


if __name__ == "__main__":
    sys.exit(main())
