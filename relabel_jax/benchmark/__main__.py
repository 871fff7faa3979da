"""Measures the train step on this machine, for each way of computing it. Needs no data.

Every variant is compiled first. Then rounds go through all of them in turn, with a product of
square matrices between them: what the machine's other work slows down, it slows down for all. A
ratio of two lines of one table can be trusted, on a busy machine nothing else.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Sequence

import jax

from relabel_jax import cli
from relabel_jax.benchmark.measure import measure, table
from relabel_jax.benchmark.programs import MODES, Variant
from relabel_jax.errors import InputError
from relabel_jax.files import write_json
from relabel_jax.models.waveform_cnn import FEATURES, PRECISIONS
from relabel_jax.ops import cpu_devices
from relabel_jax.ops.formulation import FORMULATIONS

_EPILOG = """\
Example, the two best forms on a CPU, in a few minutes:
  python -m relabel_jax.benchmark --formulations toom_cook --precisions f32
The table is printed on stdout, progress on stderr. `of peak` is useful arithmetic (that of the
direct sums) a second over the matrix product's, so Toom-Cook can pass 1. `memory` is XLA's plan
for one call on one device, batches included; `moved` is known for lax in a loop alone. On a CPU
tf32 is left out, which is f32 there, and lax in scan, for which XLA has scalar code alone."""


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("relabel_jax.benchmark.__main__", __doc__, epilog=_EPILOG)
    parser.add_argument("--batch_size", type=int, default=24, help="clips a step (default 24)")
    parser.add_argument(
        "--steps",
        type=int,
        help="steps a round, in mode scan of one call (default 4 on a CPU, else 64)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--num_classes", type=int, default=527, help="outputs (default 527)")
    for name, choices in (
        ("formulations", FORMULATIONS),
        ("modes", MODES),
        ("norms", ("folded", "plain")),
        ("precisions", tuple(PRECISIONS)),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=list(choices),
            help=f"any of {' '.join(choices)} (default all)",
        )
    parser.add_argument(
        "--filters",
        type=int,
        nargs=len(FEATURES),
        default=FEATURES,
        metavar="N",
        help="channels of the nine convolutions (default: the paper's)",
    )
    parser.add_argument("--output", type=pathlib.Path, help="a JSON file with all figures")
    return parser


def _variants(flags: argparse.Namespace, on_cpu: bool) -> list[Variant]:
    variants = [
        Variant(formulation, mode, norm == "folded", precision)
        for precision, formulation, mode, norm in itertools.product(
            flags.precisions, flags.formulations, flags.modes, flags.norms
        )
        if not (on_cpu and ((formulation, mode) == ("lax", "scan") or precision == "tf32"))
    ]
    if not variants:
        raise InputError("nothing to measure: lax in scan, tf32 are left out on a CPU; see --help")
    return variants


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    flags = _parser().parse_args(arguments)

    def command() -> None:
        cpu_devices.use_cores(flags.batch_size)
        on_cpu = jax.default_backend() == "cpu"
        if flags.steps is None:
            flags.steps = 4 if on_cpu else 64
        for name in ("batch_size", "steps", "rounds", "num_classes"):
            if getattr(flags, name) < 1:
                raise InputError(f"--{name}: expected at least 1, got {getattr(flags, name)}")
        result = measure(
            _variants(flags, on_cpu),
            batch_size=flags.batch_size,
            steps=flags.steps,
            rounds=flags.rounds,
            num_classes=flags.num_classes,
            filters=flags.filters,
        )
        if flags.output:
            write_json(flags.output, result)
        print(table(result))

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
