"""Times compiled training steps in turn, and compares them with a matrix product."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from relabel_jax.benchmark.programs import Program, Variant, batches, compile_variant
from relabel_jax.errors import InputError
from relabel_jax.models.flop import train_flop
from relabel_jax.models.variables import shapes, waveform_batch
from relabel_jax.models.waveform_cnn import FEATURES, PRECISIONS
from relabel_jax.ops import cpu_devices
from relabel_jax.progress import track

# These variables change the time of a step on a CPU, so the result names them.
_ENVIRONMENT = ("GLIBC_TUNABLES", "LD_PRELOAD", "XLA_FLAGS", "JAX_NUM_CPU_DEVICES")


def measure(
    variants: Sequence[Variant],
    *,
    batch_size: int,
    steps: int,
    rounds: int,
    num_classes: int,
    filters: Sequence[int] = FEATURES,
) -> dict[str, Any]:
    """Compiles variants and times them in turn.

    Args:
      variants: the variants to measure.
      batch_size: clips a step.
      steps: steps a round; in mode `scan` also steps a call.
      rounds: measured rounds. One more round runs before them and is not measured.
      num_classes: outputs of the network.
      filters: channels of the nine convolutions.

    Returns:
      A value that JSON can hold: facts of the machine and the run, `matmul_flop_per_s` by
      precision, and `variants`, one dictionary for each variant.

    Raises:
      InputError: the batch cannot be divided among the devices, or a loss is not finite.
    """
    data = batches(steps, batch_size, num_classes)
    programs = [
        compile_variant(variant.network(num_classes, filters), variant.mode, data)
        for variant in track(variants, "compiling", "variants")
    ]
    peaks = {variant.precision: _matmul_peak(variant.precision) for variant in variants}
    seconds, losses, matmul = _time_rounds(programs, peaks, rounds)
    network = variants[0].network(num_classes, filters)
    flop = train_flop(network, shapes(network), waveform_batch(network))
    results = []
    for variant, program, loss, times in zip(variants, programs, losses, seconds, strict=True):
        if not np.isfinite(loss).all():
            raise InputError(f"{variant}: the loss is not finite, so its times mean nothing")
        rates = _rates(times, steps, batch_size, flop, matmul[variant.precision])
        results.append(
            {
                **variant._asdict(),
                **rates,
                "compile_s": program.compile_s,
                "memory_bytes": program.memory_bytes,
                "accessed_bytes_per_step": program.accessed_bytes,
            }
        )
    return {
        **_machine(),
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "num_classes": num_classes,
        "filters": list(filters),
        "flop_per_clip": flop,
        "matmul_flop_per_s": matmul,
        "device_peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use"),
        "variants": results,
    }


def _time_rounds(
    programs: Sequence[Program], peaks: dict[str, Callable[[], float]], rounds: int
) -> tuple[list[list[float]], list[np.ndarray], dict[str, float]]:
    """Runs all programs in turn, round after round.

    Returns:
      For each program the seconds of the measured rounds, for each program its last sum of losses,
      and for each precision the median FLOP/s of a matrix product.
    """
    states = [program.start() for program in programs]
    seconds: list[list[float]] = [[] for _ in programs]
    rates: dict[str, list[float]] = {precision: [] for precision in peaks}
    for _ in track(range(rounds + 1), "measuring", "rounds"):
        for precision, peak in peaks.items():
            rates[precision].append(peak())
        for i, program in enumerate(programs):
            start = time.perf_counter()
            states[i] = jax.block_until_ready(program.run(states[i]))
            seconds[i].append(time.perf_counter() - start)
    losses = [np.asarray(state.loss_sum) for state in states]
    matmul = {precision: statistics.median(each[1:]) for precision, each in rates.items()}
    return [times[1:] for times in seconds], losses, matmul


def _rates(
    times: Sequence[float], steps: int, batch_size: int, flop: int, peak: float
) -> dict[str, Any]:
    """Computes the rates of one variant from the seconds of its rounds."""
    median = statistics.median(times)
    clips_per_s = steps * batch_size / median
    return {
        "clips_per_s": clips_per_s,
        "ms_per_step": 1000 * median / steps,
        "ms_per_step_range": [1000 * end / steps for end in (min(times), max(times))],
        "flop_per_s": clips_per_s * flop,
        "share_of_matmul_peak": clips_per_s * flop / peak,
    }


def _matmul_peak(precision: str) -> Callable[[], float]:
    """Returns a function that measures the FLOP/s of a matrix product on all devices."""
    dtype, matmul_precision = PRECISIONS[precision]
    size, times = (4096, 1) if jax.default_backend() == "cpu" else (8192, 20)
    mesh = Mesh(np.array(jax.devices()), ("rows",))
    num_rows = -(-size // mesh.size) * mesh.size

    @jax.jit
    def program(rows, square):
        with jax.default_matmul_precision(matmul_precision):
            return jax.lax.fori_loop(0, times, lambda _, x: x @ square, rows)

    def filled(rows: int, spec: PartitionSpec) -> jax.Array:
        return jax.device_put(np.full((rows, size), 1 / size, dtype), NamedSharding(mesh, spec))

    rows, square = filled(num_rows, PartitionSpec("rows")), filled(size, PartitionSpec())
    program(rows, square).block_until_ready()

    def measure_once() -> float:
        start = time.perf_counter()
        program(rows, square).block_until_ready()
        return times * 2 * num_rows * size**2 / (time.perf_counter() - start)

    return measure_once


def _machine() -> dict[str, Any]:
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "backend": jax.default_backend(),
        "cpu_cores": cpu_devices.num_cores(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "environment": {name: os.environ[name] for name in os.environ if name in _ENVIRONMENT},
    }


def table(result: dict[str, Any]) -> str:
    """Formats the result of `measure` as a table with a line for each variant."""
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
