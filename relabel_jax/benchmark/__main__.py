"""Measures the training step on this machine, for each way of computing it. Needs no data.

All variants are compiled first. Then each round runs all variants in turn, and a product of square
matrices. So other work on the machine slows down all variants alike. On a busy machine, compare
only lines of the same table.
"""

import argparse
import itertools
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
from relabel_jax.ops.formulation import FORMULATIONS, Formulation

_EPILOG = """\
example (the fastest variants on a CPU, in a few minutes):
  python -m relabel_jax.benchmark --formulations toom_cook --precisions f32 --output=cpu.json

output: a table on stdout, and all figures as JSON in --output.
  of peak   the arithmetic of the direct sums per second, divided by that of the matrix product;
            Toom-Cook needs less arithmetic and may exceed 1
  memory    XLA's plan for one call on one device, batches included
  moved     bytes that a step reads and writes; known only for lax in mode loop
On a CPU, tf32 (the same as f32 there) is left out, and lax and grouped_time in mode scan (not
vectorized there)."""


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("relabel_jax.benchmark.__main__", __doc__, epilog=_EPILOG)
    parser.add_argument(
        "--output", metavar="JSON", type=cli.path, help="a JSON file for all figures"
    )
    size = parser.add_argument_group("size").add_argument
    size("--batch_size", type=int, default=24, metavar="N", help="clips a step (default: 24)")
    size(
        "--steps",
        type=int,
        metavar="N",
        help="steps a round; in mode scan also steps a call (default: 4 on a CPU, else 64)",
    )
    size("--rounds", type=int, default=5, metavar="N", help="measured rounds (default: 5)")
    size("--num_classes", type=int, default=527, metavar="N", help="outputs (default: 527)")
    size(
        "--filters",
        type=int,
        nargs=len(FEATURES),
        default=FEATURES,
        metavar="N",
        help="channels of the nine convolutions (default: the paper's)",
    )
    variants = parser.add_argument_group("variants to measure (default: all)").add_argument
    for name, choices in (
        ("formulations", FORMULATIONS),
        ("modes", MODES),
        ("norms", ("folded", "plain")),
        ("precisions", tuple(PRECISIONS)),
    ):
        variants(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=list(choices),
            metavar=name.upper().removesuffix("S"),
            help=f"any of {', '.join(choices)}",
        )
    return parser


def _variants(flags: argparse.Namespace, on_cpu: bool) -> list[Variant]:
    variants = [
        Variant(formulation, mode, norm == "folded", precision)
        for precision, formulation, mode, norm in itertools.product(
            flags.precisions, flags.formulations, flags.modes, flags.norms
        )
        if not (
            on_cpu
            and ((Formulation(formulation).uses_lax and mode == "scan") or precision == "tf32")
        )
    ]
    if not variants:
        raise InputError(
            "nothing to measure: on a CPU, tf32, and lax and grouped_time in mode scan, are left "
            "out; see --help"
        )
    return variants


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
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
        if flags.output:
            print(f"written {flags.output}", file=sys.stderr)

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
