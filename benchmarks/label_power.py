"""How many clips and seeds tell better labels from the raters' own? A simulation without sound.

    python benchmarks/label_power.py --base_clips=8000 --target_clips=500 --test_clips=3000

Each class has a random vector of features: 0.7 of the mean of its parents' vectors, plus its own
part. A clip has one to three events. Their precise classes are drawn as often as raters chose
them. The features of a clip are the tanh of a random mixture of the sum of these vectors, plus
noise.

Raters label the clips (data_prep/raters.py). For each labeling a small base network learns the
classes outside the root, by the package's masked loss. The paper's classifier of the classes below
the root then learns from the features of the base, once from the raters' labels and once from the
truth. It is tested on the truth.

The script prints the gain of each base labeling over `ol`. Each seed draws other vectors,
clips, raters and weights. The variance of the gain has two parts. The part of the test clips comes
from a paired bootstrap over them. The rest is the part of the seeds. In a study whose seeds share
the test clips, half of the 95% interval is 1.96 sqrt(seeds' part / seeds + clips' part). The script
prints it, and the numbers that make it as small as --resolve. Use it to choose the size of a study.
It is not evidence about sound.
"""

import argparse
import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from label_power_simulation import TARGETS, TRUTH, Measured, measure

from data_prep.rater_habits import Habits
from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.train.losses import LOSSES


class Spread(NamedTuple):
    """A mean gain and the parts of its variance.

    Attributes:
      gain: the mean over seeds.
      sd: the standard deviation over seeds.
      of_clips: the variance of one seed's gain over the choice of the test clips.
      of_seeds: the rest of the variance of one seed's gain; at least 0.
    """

    gain: float
    sd: float
    of_clips: float
    of_seeds: float

    def half_width(self, num_seeds: float, clips_ratio: float = 1.0) -> float:
        """Half of the 95% interval if the seeds share the test clips.

        Args:
          num_seeds: the number of seeds.
          clips_ratio: the number of test clips, as a multiple of those that were used.
        """
        return 1.96 * math.sqrt(self.of_seeds / num_seeds + self.of_clips / clips_ratio)

    def seeds_needed(self, half_width: float) -> float:
        """The number of seeds with these test clips; infinite if no number is enough."""
        rest = (half_width / 1.96) ** 2 - self.of_clips
        return math.inf if rest <= 0 else max(1, math.ceil(self.of_seeds / rest))

    def clips_ratio_needed(self, half_width: float, num_seeds: int) -> float:
        """The multiple of the test clips with so many seeds; infinite if no number is enough."""
        rest = (half_width / 1.96) ** 2 - self.of_seeds / num_seeds
        return math.inf if rest <= 0 else self.of_clips / rest


def spread(gains: np.ndarray, replicates: np.ndarray) -> Spread:
    """Separates the variance of a gain over seeds into that of the clips and the rest.

    Args:
      gains: float64[seeds], at least two.
      replicates: float64[seeds, replicates], the gains over resampled test clips.
    """
    of_all = float(gains.var(ddof=1))
    of_clips = float(replicates.var(axis=1, ddof=1).mean())
    return Spread(float(gains.mean()), math.sqrt(of_all), of_clips, max(0.0, of_all - of_clips))


def table(measured: Sequence[Measured], flags: argparse.Namespace) -> list[str]:
    """The lines that the script prints: a header, and a line for each base and target labeling."""
    values = np.stack([each.values for each in measured])
    replicates = np.stack([each.replicates for each in measured])
    width = f"{flags.resolve:g}"
    lines = [
        f"{'base':9} {'target':7} {'mAP':>6} {'gain':>7} {'sd':>6} {'clips':>6} {'seeds':>6} "
        f"{'half':>6}  seeds for {width}  clips for {width}"
    ]
    for base, name in enumerate((*flags.labelings, TRUTH)):
        for target, target_name in enumerate(TARGETS):
            line = f"{name:9} {target_name:7} {values[:, base, target].mean():6.3f}"
            if base and len(values) > 1:
                found = spread(
                    values[:, base, target] - values[:, 0, target],
                    replicates[:, base, target] - replicates[:, 0, target],
                )
                clips = found.clips_ratio_needed(flags.resolve, len(values)) * flags.test_clips
                shown = "none" if math.isinf(clips) else f"{math.ceil(clips):,}"
                seeds = found.seeds_needed(flags.resolve)
                line += (
                    f" {found.gain:+7.3f} {found.sd:6.4f} {math.sqrt(found.of_clips):6.4f} "
                    f"{math.sqrt(found.of_seeds):6.4f} {found.half_width(len(values)):6.4f}  "
                    f"{'none' if math.isinf(seeds) else seeds:>{len('seeds for ') + len(width)}}  "
                    f"{shown:>{len('clips for ') + len(width)}}"
                )
            lines.append(line)
    return lines


def parse_flags(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""\
columns: sd is the standard deviation of the gain over seeds; clips and seeds are its two parts;
half is half of the interval with --num_seeds and --test_clips. The last two are the seeds that are
needed with --test_clips, and the test clips that are needed with --num_seeds.""",
    )
    add = parser.add_argument
    add("--ontology", metavar="JSON", help="(default: AudioSet's)")
    add("--habits", metavar="AUDIT", help="a folder of data_prep.audit (default: AudioSet's)")
    add("--severity", type=float, default=1.0, help="of the habits (default: %(default)s)")
    add("--general", type=float, help="one rate of general labels instead of the measured ones")
    add(
        "--labelings",
        type=lambda text: text.split(","),
        default=PAPER_LABELINGS,
        metavar="NAME,NAME",
        help="of the bases, besides the truth; the others are compared with the first one "
        "(default: ol,pel,pe_cml)",
    )
    add("--root", default="Human sounds", help="(default: %(default)s)")
    add("--base_clips", type=int, default=8000, help="to train on (default: %(default)s)")
    add("--target_clips", type=int, default=500, help="to train on (default: %(default)s)")
    add("--test_clips", type=int, default=3000, help="(default: %(default)s)")
    add("--num_epochs", type=int, default=15, help="of the base (default: %(default)s)")
    add("--target_epochs", type=int, default=30, help="of the classifier (default: %(default)s)")
    add("--loss", choices=LOSSES, default="mse", help="(default: %(default)s)")
    add("--noise", type=float, default=0.5, help="of the features (default: %(default)s)")
    add("--mixing", type=float, default=1.0, help="factor in the tanh (default: %(default)s)")
    add("--num_seeds", type=int, default=3, help="(default: %(default)s)")
    add("--resolve", type=float, default=0.01, help="half an interval (default: %(default)s)")
    return parser.parse_args(arguments)


def simulate(flags: argparse.Namespace) -> list[Measured]:
    """Draws and measures everything for each seed; reports on stderr."""
    ontology = Ontology.read(flags.ontology)
    habits = Habits.read(flags.habits, ontology)
    if flags.general is not None:
        general = np.where(habits.general > 0, flags.general, 0)
        habits = dataclasses.replace(habits, general=general)
    habits = habits.with_severity(flags.severity)
    root = ontology.find(flags.root)
    measured = []
    for seed in range(flags.num_seeds):
        began = time.monotonic()
        measured.append(measure(ontology, habits, flags, root, seed))
        seconds = time.monotonic() - began
        print(f"seed {seed + 1} of {flags.num_seeds}: {seconds:.0f} s", file=sys.stderr)
    return measured


if __name__ == "__main__":
    flags = parse_flags()
    print(*table(simulate(flags), flags), sep="\n")
