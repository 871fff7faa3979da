"""Measures the training step on this machine, for each way of computing it. Needs no data.

All variants are compiled first. Then each round runs all variants in turn, and a product of square
matrices. So other work on the machine slows down all variants alike. On a busy machine, compare
only lines of the same table.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax

from relabel_jax import cli
from relabel_jax.benchmark.chips import Target
from relabel_jax.benchmark.estimates import PROGRAMS, cases, estimate
from relabel_jax.benchmark.estimates import table as estimates_table
from relabel_jax.benchmark.measure import measure, table
from relabel_jax.benchmark.programs import MODES, Variant
from relabel_jax.errors import InputError
from relabel_jax.files import write_json
from relabel_jax.models.registry import DEFAULT, NETWORKS
from relabel_jax.models.waveform_cnn import FEATURES, PRECISIONS
from relabel_jax.ops import cpu_devices
from relabel_jax.ops.formulation import FORMULATIONS, Formulation
from relabel_jax.train.population import MEMBERS_BY

_EPILOG = """\
example (the fastest variants on a CPU, in a few minutes):
  python -m relabel_jax.benchmark --formulations toom_cook --precisions f32 --output=cpu.json

output: a table on stdout, and all figures as JSON in --output.
  of peak   the arithmetic of the direct sums per second, divided by that of the matrix product;
            Toom-Cook needs less arithmetic and may exceed 1
  memory    XLA's plan for one call on one device, batches included
  moved     bytes that a step reads and writes; known only for lax in mode loop
On a CPU, tf32 (the same as f32 there) is left out, and lax and grouped_time in mode scan (not
vectorized there).

example (what the compilers for accelerators say, without an accelerator; 1-2 minutes a program):
  python -m relabel_jax.benchmark --compile_for=tpu:v5e:2x2,gpu:h100 --chips=1,4

  Needs the extra tpu_check for TPUs and gpu_check for GPUs. The figures are estimates of a step on
  one chip, not measurements; compilers for GPUs estimate no times.
  Roofline  the time that the arithmetic or the memory traffic takes at least
  Grid      hours of the base and target trainings of the paper's grid on these chips"""

_NORMS = ("folded", "plain")


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
    _add_compile_flags(parser)
    variants = parser.add_argument_group("variants to measure (default: all)").add_argument
    for name, choices in (
        ("formulations", FORMULATIONS),
        ("modes", MODES),
        ("norms", _NORMS),
        ("precisions", tuple(PRECISIONS)),
    ):
        variants(
            f"--{name}",
            nargs="+",
            choices=choices,
            metavar=name.upper().removesuffix("S"),
            help=f"any of {', '.join(choices)}",
        )
    return parser


def _add_compile_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("compile for accelerators instead of measuring").add_argument
    add(
        "--compile_for",
        metavar="TARGET,...",
        help="tpu:v5e:2x2, tpu:v6e:2x2 (or other grids of chips), gpu:h100, gpu:h200",
    )
    add("--chips", default="1", metavar="N,...", help="numbers of chips (default: 1)")
    add(
        "--network",
        choices=NETWORKS,
        default=DEFAULT,
        metavar="NAME",
        help=f"one of {', '.join(NETWORKS)} (default: {DEFAULT})",
    )
    add(
        "--programs",
        nargs="+",
        choices=PROGRAMS,
        default=list(PROGRAMS),
        metavar="PROGRAM",
        help=f"any of {', '.join(PROGRAMS)} (default: all)",
    )
    add("--members", type=int, default=4, metavar="N", help="runs of a population (default: 4)")
    add(
        "--members_by",
        nargs="+",
        choices=MEMBERS_BY,
        default=["map"],
        metavar="HOW",
        help=f"any of {', '.join(MEMBERS_BY)} (default: map)",
    )
    add(
        "--resident_clips",
        type=int,
        default=20_000,
        metavar="N",
        help="clips on a chip of the resident program (default: 20000)",
    )


def _compile(flags: argparse.Namespace) -> dict[str, Any]:
    """Compiles for the targets of `--compile_for`."""
    targets = [Target.parse(name) for name in flags.compile_for.split(",")]
    try:
        chips = [int(number) for number in flags.chips.split(",")]
    except ValueError:
        raise InputError(f"--chips: expected numbers, such as 1,4, got {flags.chips}") from None
    for name in ("members", "resident_clips"):
        _check_positive(name, getattr(flags, name))
    for number in chips:
        _check_positive("chips", number)
    is_papers = flags.network == DEFAULT
    if not is_papers and (flags.precisions or flags.formulations):
        raise InputError(
            f"--precisions and --formulations are for {DEFAULT}; {flags.network} has one form"
        )

    def save(result: dict[str, Any]) -> None:
        if flags.output:  # all programs can take an hour
            write_json(flags.output, result)

    return estimate(
        targets,
        cases(
            chips,
            programs=flags.programs,
            precisions=flags.precisions or (("tf32", "bf16") if is_papers else (None,)),
            formulations=flags.formulations or ("auto",),
            members_by=flags.members_by,
            members=flags.members,
            network=flags.network,
            batch_size=flags.batch_size,
            num_classes=flags.num_classes,
            resident_clips=flags.resident_clips,
        ),
        on_program=save,
    )


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"--{name}: expected at least 1, got {value}")


def _variants(flags: argparse.Namespace, on_cpu: bool) -> list[Variant]:
    variants = [
        Variant(formulation, mode, norm == "folded", precision)
        for precision, formulation, mode, norm in itertools.product(
            flags.precisions or PRECISIONS,
            flags.formulations or FORMULATIONS,
            flags.modes or MODES,
            flags.norms or _NORMS,
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


def _measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Measures on this machine's devices."""
    cpu_devices.use_cores(flags.batch_size)
    on_cpu = jax.default_backend() == "cpu"
    steps = (4 if on_cpu else 64) if flags.steps is None else flags.steps
    _check_positive("steps", steps)
    return measure(
        _variants(flags, on_cpu),
        batch_size=flags.batch_size,
        steps=steps,
        rounds=flags.rounds,
        num_classes=flags.num_classes,
        filters=flags.filters,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    flags = _parser().parse_args(arguments)

    def command() -> None:
        for name in ("batch_size", "rounds", "num_classes"):
            _check_positive(name, getattr(flags, name))
        if flags.compile_for:
            result = _compile(flags)
            text = estimates_table(result)
        else:
            result = _measure(flags)
            text = table(result)
        if flags.output:
            write_json(flags.output, result)
        print(text)
        if flags.output:
            print(f"written {flags.output}", file=sys.stderr)

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
