"""Estimates of the training programs by compilers for accelerators, without a device.

Each target has a child process (`compiled.py`), because JAX reads the variables that it needs when
it starts.
"""

import importlib.util
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import IO, Any

from relabel_jax.benchmark import compiled
from relabel_jax.benchmark.chips import Target
from relabel_jax.benchmark.compiled import Case
from relabel_jax.benchmark.steps import Program, Step
from relabel_jax.errors import InputError
from relabel_jax.models.registry import DEFAULT
from relabel_jax.progress import Progress

GRID_CLIPS = 156e6
"""The clips that the paper's grid trains on, each counted as often as it is seen
(`configs/paper.py`)."""

_CHILD = f"from {compiled.__name__} import main; main()"
PROGRAMS = ("streaming", "resident", "members", "scores")


def cases(
    chips: Sequence[int],
    *,
    programs: Sequence[str] = PROGRAMS,
    precisions: Sequence[str | None] = ("tf32", "bf16"),
    formulations: Sequence[str] = ("auto",),
    members_by: Sequence[str] = ("map",),
    members: int = 4,
    **sizes: Any,
) -> list[Case]:
    """Returns the programs to compile.

    Args:
      chips: numbers of chips.
      programs: any of `PROGRAMS`. `members` is a streaming population; the others are one run.
      precisions, formulations, members_by: each of them is a program.
      members: the runs of the population.
      sizes: other fields of `Case`.

    Raises:
      InputError: a batch cannot be divided among the chips.
    """
    found = []
    for number, precision, formulation, program in itertools.product(
        chips, precisions, formulations, programs
    ):
        is_population = program == "members"
        for by in members_by if is_population else ("map",):
            inputs = "streaming" if is_population else program
            case = Case(
                *(inputs, members if is_population else 1, by, number, precision, formulation),
                **sizes,
            )
            if case.batch_size % case.grid[1]:
                raise InputError(
                    f"--chips: {case.grid[1]} chips cannot share a batch of "
                    f"{case.batch_size} clips; choose a divisor"
                )
            found.append(case)
    return found


def estimate(
    targets: Sequence[Target],
    programs: Sequence[Case],
    on_program: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Compiles programs for all targets, one after another.

    Args:
      targets: what to compile for.
      programs: what to compile.
      on_program: called with the result so far after each program.

    Returns:
      A value that JSON can hold: `versions`, `chips` (the public figures of each target), and
      `programs`, one dictionary for each target and case.

    Raises:
      InputError: a library is missing, a target has too few chips, or a compiler ends without an
        answer.
    """
    check_installed(targets)
    for target in targets:
        if (most := max(case.chips for case in programs)) > (target.num_chips() or most):
            raise InputError(f"--chips: {target.name} has {target.num_chips()} chips, not {most}")
    result: dict[str, Any] = {
        "versions": _versions(),
        "chips": {
            target.name: {
                "memory_bytes": target.chip.memory,
                "bandwidth": target.chip.bandwidth,
                "flop_per_s": target.chip.flop_per_s,
                "clock_hz": target.chip.clock_hz,
                "source": target.chip.source,
            }
            for target in targets
        },
        "programs": [],
    }
    total = len(targets) * len(programs)
    with Progress("compiling", total, "programs", log_every_s=0) as shown:
        for target in targets:
            shown.describe(f"compiling for {target.name}")
            for row in _compile(target, programs):
                result["programs"].append(_with_rates(row))
                on_program(result)
                shown.update()
    return result


def _compile(target: Target, order: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """Yields a row for each case as soon as its program is compiled."""
    with tempfile.TemporaryFile("w+") as log, _child(target, order, log) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
        except BaseException:
            child.kill()
            raise
        if child.wait():
            raise _failed(target, child, log)


def _child(
    target: Target, order: Sequence[Case], log: IO[str], xla_flags: str = ""
) -> subprocess.Popen[str]:
    """Starts the process that compiles cases for a target, with its messages in `log`."""
    text = json.dumps({"target": target.name, "cases": [case._asdict() for case in order]})
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, text],
        env=os.environ | target.environment() | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )


def _failed(target: Target, child: subprocess.Popen[str], log: IO[str]) -> InputError:
    log.seek(0)
    last = (log.read().strip() or "no message").splitlines()[-1]
    return InputError(f"{target.name}: the compiler ended with {child.returncode}: {last}")


def optimize(target: Target, case: Case, timeout_s: float = 600) -> tuple[Step, int]:
    """Optimizes a program for a target, and ends the compiler before it generates code.

    This takes a fraction of the time of `estimate`, and gives no cycles.

    Returns:
      The step, and the bytes that the program needs on a chip, arguments included.

    Raises:
      InputError: a library is missing, or the compiler ends without a program, for example because
        it does not fit into the chip's memory.
    """
    check_installed([target])
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        with _child(target, [case], log, flags) as child:
            assert child.stdout is not None
            try:
                texts = _dumped(pathlib.Path(folder), child, timeout_s)
            finally:
                child.kill()
            if texts is None:
                row = child.stdout.read()
                if row.startswith("{"):
                    raise InputError(f"{target.name}: {json.loads(row)['error']}")
                raise _failed(target, child, log)
    program, memory = texts
    used = re.search(r"Total bytes(?: used)?: (\d+)", memory)
    if used is None:
        raise InputError(f"{target.name}: the compiler's memory report has no total")
    return Program(program).step(), int(used.group(1))


def _dumped(
    folder: pathlib.Path, child: subprocess.Popen[str], timeout_s: float
) -> tuple[str, str] | None:
    """Waits for the files of the optimized program and its memory.

    Returns:
      The texts of both; None if the compiler ends, or the time is over, without them.
    """
    deadline = time.monotonic() + timeout_s
    sizes: list[int] = []
    while time.monotonic() < deadline:
        is_running = child.poll() is None
        found = [
            next(folder.glob(f"*jit_*_population*{ending}"), None)
            for ending in ("after_optimizations.txt", "memory-usage-report.txt")
        ]
        paths = [path for path in found if path]
        # A file that does not grow any more is complete.
        before, sizes = sizes, [path.stat().st_size for path in paths]
        if len(paths) == 2 and all(sizes) and sizes == before:
            return paths[0].read_text(), paths[1].read_text()
        if not is_running:
            break
        time.sleep(0.5)
    return None


def check_installed(targets: Sequence[Target]) -> None:
    """Checks that the libraries that compile for targets are there.

    Raises:
      InputError: a library is missing; the message says how to install it.
    """
    missing = [target for target in targets if not all(map(_is_installed, target.packages))]
    if missing:
        raise InputError("; ".join(target.missing for target in missing))


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that would hold it
        return False


def _versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _with_rates(row: dict[str, Any]) -> dict[str, Any]:
    """Adds the hours of the paper's grid, by the estimated time or, without one, the roofline."""
    if "error" in row or row["inputs"] == "scores":
        return row
    ms = row["estimated_ms"] or row["roofline_ms"]
    return row | {"grid_hours": GRID_CLIPS / row["clips_a_step"] * ms / 3.6e6}


def table(result: dict[str, Any]) -> str:
    """Formats the result of `estimate` in Markdown: a table and the dearest operations."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"Compilers' estimates, not measured: compiled, not run ({versions}).",
        "",
        "| Target | Chips | Program | Precision | ms a step | Roofline, ms | Clips/s "
        "| GFLOP a step | GB a step | Memory, GB | All-reduces | Grid, h |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["programs"]:
        lines.append(f"| {' | '.join(_cells(row, result['chips'][row['target']]))} |")
    lines += ["", "The dearest operations of a step:", ""]
    for row in result["programs"]:
        if "error" in row:
            continue
        lines.append(f"- {row['target']}, {_name(row)}, {_precision(row)}, chips: {row['chips']}")
        for part in row["dearest"]:
            cost = f"{part['num_bytes'] / 1e6:.0f} MB"
            if part["cycles"]:
                share = part["cycles"] / row["cycles_a_step"]
                cost = f"{part['cycles'] / 1000:.0f} kcycles ({share:.0%}), {cost}"
            way = "backward" if "transpose(" in part["source"] else "forward"
            what = part["source"].rpartition("/")[2] or part["name"]
            lines.append(f"  - {what}, {way}, `{part['shape']}`: {cost}")
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    """Names the program of a row."""
    name = row["inputs"]
    if row["members"] > 1:
        name = f"{row['members']} members by {row['members_by']}"
    if row["network"] != DEFAULT:
        name = f"{row['network']}, {name}"
    return name if row["formulation"] == "auto" else f"{name}, {row['formulation']}"


def _precision(row: dict[str, Any]) -> str:
    return row["precision"] or "JAX's default"


def _cells(row: dict[str, Any], chip: dict[str, Any]) -> list[str]:
    cells = [row["target"], str(row["chips"]), _name(row), _precision(row)]
    if "error" in row:
        return [*cells, row["error"].replace("|", "/")[:120], *[""] * 7]
    ms = row["estimated_ms"]
    # Without an estimate of the time, the roofline bounds the rate from above.
    least = "" if ms else "<= "
    rate = 1000 * row["clips_a_step"] / (ms or row["roofline_ms"])
    hours = row.get("grid_hours")
    return [
        *cells,
        f"{ms:.2f}" if ms else "",
        f"{row['roofline_ms']:.2f} ({row['roofline_by']})",
        f"{least}{rate:,.0f}",
        f"{row['flop_a_step'] / 1e9:.0f}",
        f"{row['bytes_a_step'] / 1e9:.2f}",
        f"{row['memory_bytes'] / 1e9:.2f} of {chip['memory_bytes'] / 1e9:.0f}",
        str(row["all_reduces"]),
        f"{'' if ms else '>= '}{hours:.1f}" if hours else "",
    ]
