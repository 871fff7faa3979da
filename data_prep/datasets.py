"""Converts other data sets with AudioSet's classes to the inputs of data_prep.build.

    python -m data_prep.datasets --dataset=fsd50k --input_dir=FSD50K --output_dir=META
    python -m data_prep.build --audio=FSD50K --segments=META/segments.csv \
        --paths=META/paths.csv --splits=META/splits.csv --output_dir=DATA

FSD50K (Fonseca et al., "FSD50K: an open dataset of human-labeled sound events", 2022) comes with
mids. ESC-50 (Piczak, "ESC: dataset for environmental sound classification", 2015) has 50
classes; `ESC50_MIDS` maps them to AudioSet's ontology.
"""

import argparse
import collections
import csv
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, left_behind
from relabel_jax.labels.views import SPLITS

# Each class is as general as ESC-50's name: `dog` is Dog, not Bark, so that pe_cml treats the kinds
# of barking as unknown and not as absent. A name with two parts has two mids. Three names have no
# exact class and take the nearest one that includes them: can_opening (an enclosure that opens
# suddenly), drinking_sipping, and washing_machine.
ESC50_MIDS: Mapping[str, tuple[str, ...]] = {
    "airplane": ("/m/0cmf2",),  # Fixed-wing aircraft, airplane
    "breathing": ("/m/0lyf6",),  # Breathing
    "brushing_teeth": ("/m/012xff",),  # Toothbrush
    "can_opening": ("/m/07qsvvw",),  # Burst, pop
    "car_horn": ("/m/0912c9",),  # Vehicle horn, car horn, honking
    "cat": ("/m/01yrx",),  # Cat
    "chainsaw": ("/m/01j4z9",),  # Chainsaw
    "chirping_birds": ("/m/07pggtn",),  # Chirp, tweet
    "church_bells": ("/m/03w41f",),  # Church bell
    "clapping": ("/m/0l15bq",),  # Clapping
    "clock_alarm": ("/m/046dlr",),  # Alarm clock
    "clock_tick": ("/m/01x3z", "/m/07qjznt"),  # Clock, Tick
    "coughing": ("/m/01b_21",),  # Cough
    "cow": ("/m/01xq0k1",),  # Cattle, bovinae
    "crackling_fire": ("/m/02_41", "/m/07pzfmf"),  # Fire, Crackle
    "crickets": ("/m/09xqv",),  # Cricket
    "crow": ("/m/04s8yn",),  # Crow
    "crying_baby": ("/t/dd00002",),  # Baby cry, infant cry
    "dog": ("/m/0bt9lr",),  # Dog
    "door_wood_creaks": ("/m/02dgv", "/m/07qh7jl"),  # Door, Creak
    "door_wood_knock": ("/m/07r4wb8",),  # Knock (a kind of Door)
    "drinking_sipping": ("/m/0160x5",),  # Digestive
    "engine": ("/m/02mk9",),  # Engine
    "fireworks": ("/m/0g6b5",),  # Fireworks
    "footsteps": ("/m/07pbtc8",),  # Walk, footsteps
    "frog": ("/m/09ld4",),  # Frog
    "glass_breaking": ("/m/039jq", "/m/07rn7sz"),  # Glass, Shatter
    "hand_saw": ("/m/01b82r",),  # Sawing
    "helicopter": ("/m/09ct_",),  # Helicopter
    "hen": ("/m/09b5t",),  # Chicken, rooster
    "insects": ("/m/03vt0",),  # Insect
    "keyboard_typing": ("/m/01m2v",),  # Computer keyboard
    "laughing": ("/m/01j3sz",),  # Laughter
    "mouse_click": ("/m/07qc9xj",),  # Clicking
    "pig": ("/m/068zj",),  # Pig
    "pouring_water": ("/m/0838f", "/m/07prgkl"),  # Water, Pour
    "rain": ("/m/06mb1",),  # Rain
    "rooster": ("/m/07qn5dc",),  # Crowing, cock-a-doodle-doo
    "sea_waves": ("/m/034srq",),  # Waves, surf
    "sheep": ("/m/07bgp",),  # Sheep
    "siren": ("/m/03kmc9",),  # Siren
    "sneezing": ("/m/01hsr_",),  # Sneeze
    "snoring": ("/m/01d3sd",),  # Snoring
    "thunderstorm": ("/m/0jb2l",),  # Thunderstorm
    "toilet_flush": ("/m/01jt3m",),  # Toilet flush
    "train": ("/m/07jdr",),  # Train
    "vacuum_cleaner": ("/m/0d31p",),  # Vacuum cleaner
    "washing_machine": ("/t/dd00077",),  # Mechanisms
    "water_drops": ("/m/07r5v4s",),  # Drip
    "wind": ("/m/03m9d0z",),  # Wind
}
_ESC50_FOLDS = 5


class Clip(NamedTuple):
    """One clip: its id, its file relative to the data set's folder, seconds, mids and split."""

    clip_id: str
    path: str
    end_s: float
    mids: tuple[str, ...]
    split: str


def read_fsd50k(folder: pathlib.Path) -> Iterator[Clip]:
    """Reads FSD50K: dev.csv's `train` and `val` are train and validation, eval.csv is test.

    The recordings are 0.3 to 30 s long; the data set keeps the first 10 s.

    Args:
      folder: with FSD50K.ground_truth, FSD50K.dev_audio and FSD50K.eval_audio.

    Raises:
      InputError: a ground-truth file cannot be read or has another form.
    """
    splits = {"train": "train", "val": "validation"}
    for part in ("dev", "eval"):
        path = folder / "FSD50K.ground_truth" / f"{part}.csv"
        columns = {"fname": r"\d+", "mids": r"/[mgt]/\w+(,/[mgt]/\w+)*"}
        if part == "dev":
            columns["split"] = "|".join(splits)
        for row in _rows(path, columns):
            yield Clip(
                row["fname"],
                f"FSD50K.{part}_audio/{row['fname']}.wav",
                10.0,
                tuple(row["mids"].split(",")),
                splits[row["split"]] if part == "dev" else "test",
            )


def read_esc50(folder: pathlib.Path, test_fold: int = _ESC50_FOLDS) -> Iterator[Clip]:
    """Reads ESC-50: one fold is test, the one before it (cyclically) validation, three are train.

    Args:
      folder: with `audio` and `meta/esc50.csv`.
      test_fold: 1 to 5; five data sets make the official cross-validation.

    Raises:
      InputError: meta/esc50.csv cannot be read or has another form.
    """
    if not 1 <= test_fold <= _ESC50_FOLDS:
        raise InputError(f"--test_fold={test_fold}: expected 1 to {_ESC50_FOLDS}")
    splits = dict.fromkeys(range(1, _ESC50_FOLDS + 1), "train")
    splits[(test_fold - 2) % _ESC50_FOLDS + 1] = "validation"
    splits[test_fold] = "test"
    columns = {"filename": r"[\w-]+\.wav", "fold": "[1-5]", "category": "|".join(ESC50_MIDS)}
    for row in _rows(folder / "meta" / "esc50.csv", columns):
        yield Clip(
            row["filename"].removesuffix(".wav"),
            f"audio/{row['filename']}",
            5.0,
            ESC50_MIDS[row["category"]],
            splits[int(row["fold"])],
        )


def _rows(path: pathlib.Path, columns: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yields the rows of a CSV whose value in each of `columns` must match its pattern."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := columns.keys() - set(reader.fieldnames or ()):
                raise InputError(
                    f"{path}: no column {', '.join(sorted(missing))}; expected the file of the "
                    "published archive"
                )
            for row in reader:
                for name, pattern in columns.items():
                    if not re.fullmatch(pattern, row[name] or "", re.ASCII):
                        raise InputError(
                            f"{path}: line {reader.line_num}: {name} is {row[name]!r}; expected "
                            "the file of the published archive"
                        )
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read it: {error}") from error


def write_inputs(clips: Sequence[Clip], output_dir: pathlib.Path) -> None:
    """Writes `segments.csv` (AudioSet's form), `splits.csv` and `paths.csv`.

    Raises:
      InputError: there are no clips, or the files cannot be written.
    """
    if not clips:
        raise InputError(f"{output_dir}: not written: the data set has no clips")
    header = "# by data_prep.datasets\n#\n# YTID, start_seconds, end_seconds, positive_labels\n"
    tables = {
        "segments.csv": header
        + "".join(f'{c.clip_id}, 0.000, {c.end_s:.3f}, "{",".join(c.mids)}"\n' for c in clips),
        "splits.csv": "clip_id,split\n" + "".join(f"{c.clip_id},{c.split}\n" for c in clips),
        "paths.csv": "clip_id,path\n" + "".join(f"{c.clip_id},{c.path}\n" for c in clips),
    }
    for name, text in tables.items():
        for temporary in left_behind(output_dir / name):
            temporary.unlink(missing_ok=True)
        with complete_file(output_dir / name) as path:
            path.write_text(text)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    command, build = cli.program("data_prep.datasets"), cli.program("data_prep.build")
    parser = cli.parser(
        "data_prep.datasets",
        "Makes the inputs of data_prep.build from the published archive of FSD50K or ESC-50.",
        epilog=f"""\
--input_dir is the unpacked archive, with these files:
  fsd50k  FSD50K.ground_truth/dev.csv and eval.csv, FSD50K.dev_audio/, FSD50K.eval_audio/
  esc50   meta/esc50.csv, audio/

splits: FSD50K's own (train, val, eval). In ESC-50 the fold --test_fold is test, the fold before it
is validation (fold 5 comes before fold 1), and the others are train

example:
  {command} --dataset=esc50 --input_dir=ESC-50-master --output_dir=META
  {build} --audio=ESC-50-master --output_dir=DATA \\
      --segments=META/segments.csv --paths=META/paths.csv --splits=META/splits.csv

META gets segments.csv, splits.csv and paths.csv. A summary goes to stderr.""",
    )
    add = parser.add_argument
    add("--dataset", required=True, choices=("fsd50k", "esc50"), help="the data set")
    add("--input_dir", required=True, type=cli.path, metavar="FOLDER", help="its archive")
    add("--output_dir", required=True, type=cli.path, metavar="META", help="the folder to fill")
    add(
        "--test_fold",
        type=int,
        default=_ESC50_FOLDS,
        metavar="N",
        help="the test fold, for ESC-50 alone (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def convert(
    dataset: str, input_dir: pathlib.Path, output_dir: pathlib.Path, test_fold: int = _ESC50_FOLDS
) -> None:
    """Writes the inputs of `data_prep.build` for one data set; reports on stderr.

    Args:
      dataset: `fsd50k` or `esc50`.
      input_dir: the unpacked archive.
      output_dir: the folder for the three files.
      test_fold: the fold of ESC-50 that is tested.

    Raises:
      InputError: the archive is not as published, or the files cannot be written.
    """
    if dataset == "fsd50k":
        clips = list(read_fsd50k(input_dir))
    else:
        clips = list(read_esc50(input_dir, test_fold))
    write_inputs(clips, output_dir)
    counts = collections.Counter(clip.split for clip in clips)
    shown = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)
    print(f"{len(clips):,} clips ({shown}) in {output_dir}", file=sys.stderr)
    print(
        f"next: {cli.program('data_prep.build')} --audio={input_dir} --output_dir=DATA "
        f"--segments={output_dir}/segments.csv --paths={output_dir}/paths.csv "
        f"--splits={output_dir}/splits.csv",
        file=sys.stderr,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: convert(**flags))


if __name__ == "__main__":
    sys.exit(main())
