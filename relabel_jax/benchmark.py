"""Measures the train step on this machine, for each way of computing it. Needs no data.

Every variant is compiled first; then rounds go through all of them in turn, with a product of
square matrices between them: what the machine's other work slows down, it slows down for all. A
ratio of two lines of one table can be trusted, on a busy machine nothing else.
"""

import argparse
import functools
import itertools
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from relabel_jax.data.schema import WAVEFORM_SAMPLES
from relabel_jax.errors import InputError
from relabel_jax.files import write_json
from relabel_jax.models.waveform_cnn import (
    DENSE_UNITS,
    FILTERS,
    PRECISIONS,
    STRIDES,
    TAPS,
    AudioNetwork,
)
from relabel_jax.ops import cpu_devices
from relabel_jax.ops.batch_axis import on_each_device
from relabel_jax.ops.convolution import FORMULATIONS
from relabel_jax.train.population import Layout, stack_members, train_population
from relabel_jax.train.step import Recipe, TrainState, init_state, train_step

MODES = ("loop", "scan")
# The paper's recipe.
_RECIPE = Recipe(learning_rate=0.001, decay=0.987, steps_per_epoch=4000)


class Variant(NamedTuple):
    """One way of computing a train step.

    Attributes:
      formulation: of the convolutions.
      mode: `loop` is a program for one step, called from Python for each; `scan` one call for all.
      fold_norm: whether normalization is folded into the next layer.
      precision: one of `PRECISIONS`.
    """

    formulation: str
    mode: str
    fold_norm: bool
    precision: str


class Program(NamedTuple):
    """A compiled variant.

    Attributes:
      start: the state before the first step, a new copy each time, as `run` takes its buffers.
      run: takes a state through all steps of a round, and returns the new one.
      compile_s: seconds from Python to machine code.
      memory_bytes: arguments, results and temporary buffers of one call on one device, by XLA's
        plan; None where a backend does not say.
      accessed_bytes: what one step reads and writes on one device, by XLA's cost analysis; None
        where the program has inner loops, of which the analysis counts one turn.
    """

    start: Callable[[], TrainState]
    run: Callable[[TrainState], TrainState]
    compile_s: float
    memory_bytes: int | None
    accessed_bytes: float | None


def train_flop(filters: Sequence[int], dense_units: Sequence[int], num_classes: int) -> int:
    """What a training step needs for one clip: multiplications and additions of the direct sums.

    Forward, gradient by weights, gradient by inputs (the first layer's is not needed), of all
    convolutions and dense layers; a formulation that multiplies less is not credited with less.
    """
    time_in, channels, total = WAVEFORM_SAMPLES, 1, 0
    for taps, stride, features in zip(TAPS, STRIDES, filters, strict=True):
        time_in = (time_in - taps) // stride + 1
        passes = 2 if channels == 1 else 3
        total += passes * 2 * time_in * taps * channels * features
        channels = features
    for features in (*dense_units, num_classes):
        total += 3 * 2 * channels * features
        channels = features
    return total


def batches(num_batches: int, batch_size: int, num_classes: int) -> tuple[np.ndarray, ...]:
    """Noise of different levels, labels and masks as dense as AudioSet's.

    Returns:
      int16[num_batches, batch_size, 80000], bool[num_batches, batch_size, num_classes] twice.
    """
    rng = np.random.default_rng(0)
    levels = rng.uniform(100, 5000, (num_batches, batch_size, 1))
    noise = levels * rng.standard_normal((num_batches, batch_size, WAVEFORM_SAMPLES), np.float32)
    shape = (num_batches, batch_size, num_classes)
    labels, masked = rng.random(shape) < 0.01, rng.random(shape) < 0.1
    return noise.clip(-32768, 32767).astype(np.int16), labels & ~masked, masked


@functools.partial(jax.jit, static_argnums=0)
def _variables(network: AudioNetwork, key: jax.Array) -> Any:
    like = jax.ShapeDtypeStruct((1, WAVEFORM_SAMPLES), jnp.int16)
    return network.lazy_init(key, like, train=False)


def initial_state(network: AudioNetwork) -> TrainState:
    """Random weights and Adam's zeros."""
    return init_state(_variables(network, jax.random.key(0)), _RECIPE)


def compile_variant(network: AudioNetwork, mode: str, data: Sequence[np.ndarray]) -> Program:
    """Compiles one variant for the batches of a round (`batches`).

    Raises:
      InputError: the devices do not divide the batch.
    """
    steps, batch_size, _ = data[0].shape
    layout = Layout.of(1, batch_size, "map")
    if mode == "scan":
        waveforms, labels, masked = data
        arguments = layout.put_chunk(waveforms, labels[None], masked[None])

        def start():
            return layout.put(stack_members([jax.device_get(initial_state(network))]), "member")

        state = start()
        begin = time.perf_counter()
        compiled = train_population.lower(network, _RECIPE, layout, state, *arguments).compile()

        def run(state):
            return compiled(state, *arguments)[0]
    else:
        singles = [layout.put(tuple(array[i] for array in data), "data") for i in range(steps)]
        shared, batch = PartitionSpec(), PartitionSpec("data")

        def one_step(*state_and_batch):
            return train_step(layout.divided(network), _RECIPE, *state_and_batch)[0]

        step = on_each_device(one_step, layout.mesh, (shared, batch, batch, batch), shared)

        def start():
            return layout.put(jax.device_get(initial_state(network)))

        state = start()
        begin = time.perf_counter()
        compiled = jax.jit(step, donate_argnums=0).lower(state, *singles[0]).compile()

        def run(state):
            for single in singles:
                state = compiled(state, *single)
            return state

    compile_s = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    memory_bytes = accessed = None
    if memory is not None:
        memory_bytes = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
    if mode == "loop" and network.formulation == "lax":
        accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
    return Program(start, run, compile_s, memory_bytes, accessed)


def matmul_peak(precision: str) -> Callable[[], float]:
    """A function that measures FLOP/s of a product of square matrices once, on all devices."""
    dtype, matmul_precision = PRECISIONS[precision]
    size, times = (4096, 1) if jax.default_backend() == "cpu" else (8192, 20)
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    num_rows = -(-size // mesh.size) * mesh.size

    @jax.jit
    def program(rows, square):
        with jax.default_matmul_precision(matmul_precision):
            return jax.lax.fori_loop(0, times, lambda _, x: x @ square, rows)

    rows = jax.device_put(
        np.full((num_rows, size), 1 / size, dtype), NamedSharding(mesh, PartitionSpec("rows"))
    )
    square = jax.device_put(
        np.full((size, size), 1 / size, dtype), NamedSharding(mesh, PartitionSpec())
    )
    program(rows, square).block_until_ready()

    def measure() -> float:
        start = time.perf_counter()
        program(rows, square).block_until_ready()
        return times * 2 * num_rows * size**2 / (time.perf_counter() - start)

    return measure


def measure(
    variants: Sequence[Variant],
    *,
    batch_size: int,
    steps: int,
    rounds: int,
    num_classes: int,
    filters: Sequence[int] = FILTERS,
) -> dict[str, Any]:
    """Compiles and times variants, interleaved.

    Args:
      variants: what to measure.
      batch_size: clips a step.
      steps: steps a round; in mode `scan` also steps a call.
      rounds: rounds that count; one before them does not.
      num_classes: outputs of the network.
      filters: of the nine convolutions.

    Returns:
      What `main` writes as JSON: facts of machine and run, `matmul_flop_per_s` by precision, and
      `variants`, one dictionary each.
    """
    data = batches(steps, batch_size, num_classes)
    programs = []
    for variant in tqdm(variants, desc="compiling", unit="variant", file=sys.stderr):
        network = AudioNetwork(
            num_classes,
            variant.formulation,
            filters=tuple(filters),
            precision=variant.precision,
            fold_norm=variant.fold_norm,
        )
        programs.append(compile_variant(network, variant.mode, data))
    states = [program.start() for program in programs]
    peaks = {variant.precision: matmul_peak(variant.precision) for variant in variants}

    seconds: list[list[float]] = [[] for _ in variants]
    peak_rates: dict[str, list[float]] = {precision: [] for precision in peaks}
    for _ in tqdm(range(rounds + 1), desc="measuring", unit="round", file=sys.stderr):
        for precision, peak in peaks.items():
            peak_rates[precision].append(peak())
        for i, program in enumerate(programs):
            start = time.perf_counter()
            states[i] = jax.block_until_ready(program.run(states[i]))
            seconds[i].append(time.perf_counter() - start)

    matmul = {precision: statistics.median(rates[1:]) for precision, rates in peak_rates.items()}
    flop = train_flop(filters, DENSE_UNITS, num_classes)
    results = []
    for variant, program, state, times in zip(variants, programs, states, seconds, strict=True):
        if not np.isfinite(state.loss_sum).all():
            raise InputError(f"{variant}: the loss is not finite, so its times mean nothing")
        median, *ends = (f(times[1:]) for f in (statistics.median, min, max))
        clips_per_s = steps * batch_size / median
        results.append(
            {
                **variant._asdict(),
                "clips_per_s": clips_per_s,
                "ms_per_step": 1000 * median / steps,
                "ms_per_step_range": [1000 * end / steps for end in ends],
                "flop_per_s": clips_per_s * flop,
                "share_of_matmul_peak": clips_per_s * flop / matmul[variant.precision],
                "compile_s": program.compile_s,
                "memory_bytes": program.memory_bytes,
                "accessed_bytes_per_step": program.accessed_bytes,
            }
        )
    device = jax.devices()[0]
    memory_stats = device.memory_stats() or {}
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "backend": jax.default_backend(),
        "cpu_cores": cpu_devices.num_cores(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "environment": {name: os.environ[name] for name in os.environ if name in _ENVIRONMENT},
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "num_classes": num_classes,
        "filters": list(filters),
        "flop_per_clip": flop,
        "matmul_flop_per_s": matmul,
        "device_peak_bytes": memory_stats.get("peak_bytes_in_use"),
        "variants": results,
    }


# They change how long a step takes on a CPU, so they belong to the record.
_ENVIRONMENT = ("GLIBC_TUNABLES", "LD_PRELOAD", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES")


def table(result: dict[str, Any]) -> str:
    """What was measured, a line for each variant."""
    peaks = ", ".join(
        f"{name} {rate / 1e9:.0f}" for name, rate in result["matmul_flop_per_s"].items()
    )
    lines = [
        f"{result['devices']} x {result['device']}, jax {result['versions']['jax']}, "
        f"batch {result['batch_size']}, "
        f"{result['steps']} steps a round, medians of {result['rounds']} rounds; "
        f"{result['flop_per_clip'] / 1e9:.2f} GFLOP a clip",
        f"matmul peak, GFLOP/s: {peaks}",
        "formulation  mode  norm    precision  clips/s  ms/step           range  GFLOP/s  of peak"
        "  memory MB  moved MB/step  compile s",
    ]
    for row in result["variants"]:
        low, high = row["ms_per_step_range"]
        norm = "folded" if row["fold_norm"] else "plain"
        memory, moved = (
            "-" if row[field] is None else f"{row[field] / 1e6:.0f}"
            for field in ("memory_bytes", "accessed_bytes_per_step")
        )
        lines.append(
            f"{row['formulation']:11}  {row['mode']:4}  {norm:6}"
            f"  {row['precision']:9}  {row['clips_per_s']:7.1f}  {row['ms_per_step']:7.1f}"
            f"  {low:6.1f}-{high:7.1f}  {row['flop_per_s'] / 1e9:7.1f}"
            f"  {row['share_of_matmul_peak']:7.2f}  {memory:>9}  {moved:>13}"
            f"  {row['compile_s']:9.1f}"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m relabel_jax.benchmark",
        description=__doc__,
        epilog="Example, the two best forms on a CPU, in a few minutes:\n"
        "  python -m relabel_jax.benchmark --formulations toom_cook --precisions f32\n"
        "The table is printed on stdout, progress on stderr. `of peak` is useful arithmetic (that\n"
        "of the direct sums) a second over the matrix product's, so Toom-Cook can pass 1.\n"
        "`memory` is XLA's plan for one call on one device, batches included; `moved` is known\n"
        "for lax in a loop alone. On a CPU tf32 is left out, which is f32 there, and lax in scan,\n"
        "for which XLA has scalar code alone.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch_size", type=int, default=24, help="clips a step (default 24)")
    parser.add_argument(
        "--steps",
        type=int,
        help="steps a round, in mode scan of one call (default 4 on a CPU, else 64)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--num_classes", type=int, default=527, help="outputs (default 527)")
    for name, choices, default in (
        ("formulations", FORMULATIONS, list(FORMULATIONS)),
        ("modes", MODES, list(MODES)),
        ("norms", ("folded", "plain"), ["folded", "plain"]),
        ("precisions", tuple(PRECISIONS), list(PRECISIONS)),
    ):
        parser.add_argument(
            f"--{name}",
            nargs="+",
            choices=choices,
            default=default,
            help=f"any of {' '.join(choices)} (default {' '.join(default)})",
        )
    parser.add_argument(
        "--filters",
        type=int,
        nargs=len(FILTERS),
        default=FILTERS,
        metavar="N",
        help="of the nine convolutions (default: the paper's)",
    )
    parser.add_argument("--output", type=pathlib.Path, help="a JSON file with all figures")
    return parser


def main() -> int:
    """Measures, prints the table, writes the file."""
    args = _parser().parse_args()
    cpu_devices.use_cores(args.batch_size)
    on_cpu = jax.default_backend() == "cpu"
    if args.steps is None:
        args.steps = 4 if on_cpu else 64
    try:
        for name in ("batch_size", "steps", "rounds", "num_classes"):
            if getattr(args, name) < 1:
                raise InputError(f"--{name}: expected at least 1, got {getattr(args, name)}")
        variants = [
            Variant(formulation, mode, norm == "folded", precision)
            for precision, formulation, mode, norm in itertools.product(
                args.precisions, args.formulations, args.modes, args.norms
            )
            if not (on_cpu and ((formulation, mode) == ("lax", "scan") or precision == "tf32"))
        ]
        if not variants:
            raise InputError(
                "nothing to measure: lax in scan, tf32 are left out on a CPU; see --help"
            )
        result = measure(
            variants,
            batch_size=args.batch_size,
            steps=args.steps,
            rounds=args.rounds,
            num_classes=args.num_classes,
            filters=args.filters,
        )
        if args.output:
            write_json(args.output, result)
        print(table(result))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
