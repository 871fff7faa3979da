"""Runs every command while the system fails it, and counts hangs, tracebacks and damaged output.

  python tests/campaigns/faults.py
  python tests/campaigns/faults.py --commands=build,embed --faults=disk,eio

It makes inputs by the commands themselves: the miniature AudioSet, a data set, a trained network
and its embeddings. It runs each command undisturbed, and then once under each of these faults:

- `disk`: the output lies on a disk of this size: a tmpfs, or without the right to mount one, a
  limit on the size of files;
- `files`: the process may open this number of files;
- `memory`: the process may have this address space;
- `eio`: reading the inputs of the command fails, by a library that is loaded first. This needs a C
  compiler and Linux's /proc; without them the column is skipped.

Each run has one of these outcomes:

- `done`: exit code 0, and the output is that of the undisturbed run;
- `refused`: another exit code, and one error line;
- `killed`: a signal ended it: a library that is written in C++ found no memory;
- `hung`: it ran for more than a minute longer than it needs;
- `traceback`: it printed one;
- `damaged`: exit code 0, and the output differs.

The command exits with 1 if a run hung, printed a traceback or damaged its output. All of it takes
about half an hour on two cores.
"""

import argparse
import collections
import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import failing_disk
from fault_commands import COMMANDS, REPOSITORY, Command, prepare

OUTCOMES = ("done", "refused", "killed", "hung", "traceback", "damaged")
_BAD = OUTCOMES[3:]
_PATIENCE_S = 60.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of the system: its kind, and the size of what is left."""

    kind: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.size}" if self.size else self.kind

    @contextlib.contextmanager
    def disk(self, folder: pathlib.Path) -> Iterator[bool]:
        """Makes a folder a small disk, if this is the fault; yields whether it did."""
        options = ["-t", "tmpfs", "-o", f"size={self.size}k"]
        is_mounted = (
            self.kind == "disk"
            and shutil.which("mount") is not None
            and not subprocess.run(
                ["mount", *options, "tmpfs", folder], capture_output=True
            ).returncode
        )
        yield is_mounted
        if is_mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)

    def limits(self, has_disk: bool) -> Callable[[], None]:
        """Returns a function that sets the limits of the process in which it is called."""

        def set_limits() -> None:
            for kind, number, unit in (
                ("files", resource.RLIMIT_NOFILE, 1),
                ("memory", resource.RLIMIT_AS, 1 << 20),
                ("disk", resource.RLIMIT_FSIZE, 1 << 10),
            ):
                if kind == self.kind and not has_disk:
                    resource.setrlimit(number, (self.size * unit, self.size * unit))

        return set_limits


FAULTS = (
    *(Fault("disk", size) for size in (4, 64, 256)),
    *(Fault("files", number) for number in (12, 32)),
    *(Fault("memory", size) for size in (400, 1200, 3000)),
    Fault("eio"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a command did: its exit code (None if it hung), text, output and seconds."""

    code: int | None
    text: str
    output: dict[str, bytes]
    seconds: float


def run(
    command: Command, inputs: pathlib.Path, folder: pathlib.Path, fault: Fault, limit_s: float
) -> Run:
    """Runs a command under a fault; it may take `limit_s` seconds.

    Args:
      command: the command.
      inputs: the folder of the inputs.
      folder: a folder for the output, and for the library that makes reading fail.
      fault: the fault.
      limit_s: seconds after which the process is killed, with all that it started.
    """
    disk = folder / "disk"
    disk.mkdir()
    env = dict(os.environ)
    if fault.kind == "eio":
        env = failing_disk.environment(folder, command.reads)
        (folder / "fails").touch()
    start = time.monotonic()
    with fault.disk(disk) as is_mounted, tempfile.TemporaryFile("w+") as text:
        process = subprocess.Popen(
            command.line(inputs, disk / "out"),
            cwd=REPOSITORY,
            env=env,
            stdout=text,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=fault.limits(is_mounted),
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, 9)
            process.wait()
        seconds = time.monotonic() - start
        text.seek(0)
        files = [path for path in sorted(disk.rglob("*")) if path.is_file()]
        files = [path for path in files if path.name != "permit"]  # a random text
        output = {str(path.relative_to(disk)): path.read_bytes() for path in files}
        return Run(code, text.read(), output, seconds)


def outcome(command: Command, undisturbed: Run, disturbed: Run) -> str:
    """The outcome of a run, one of `OUTCOMES`."""
    if disturbed.code is None:
        return "hung"
    if "Traceback" in disturbed.text:
        return "traceback"
    if disturbed.code < 0:
        return "killed"
    if disturbed.code:
        return "refused" if "error: " in disturbed.text else "traceback"
    same = [_same_each_time(command, each) for each in (undisturbed, disturbed)]
    assert same[0] or not command.same or not undisturbed.output, f"no file is {command.same}"
    return "done" if same[0] == same[1] else "damaged"


def _same_each_time(command: Command, of: Run) -> dict[str, bytes]:
    return {name: of.output[name] for name in fnmatch.filter(of.output, command.same)}


def campaign(
    names: Sequence[str], kinds: Sequence[str], inputs: pathlib.Path, folder: pathlib.Path
) -> Iterator[tuple[str, Fault, str, Run]]:
    """Runs commands under faults; yields the command, the fault, the outcome and the run.

    Args:
      names: the commands.
      kinds: the kinds of faults.
      inputs: the folder of the inputs; they are made if it does not exist.
      folder: an empty folder to work in.
    """
    if not inputs.exists():
        prepare(inputs)
    for name in names:
        command = COMMANDS[name]
        undisturbed = _run_in_new_folder(command, inputs, folder, Fault("none"), 600)
        if undisturbed.code:
            raise SystemExit(f"{name} fails without a fault: {undisturbed.text[-500:]}")
        for fault in FAULTS:
            if fault.kind not in kinds or (fault.kind == "eio" and not command.reads):
                continue
            limit_s = _PATIENCE_S + 2 * undisturbed.seconds
            found = _run_in_new_folder(command, inputs, folder, fault, limit_s)
            yield name, fault, outcome(command, undisturbed, found), found


def _run_in_new_folder(
    command: Command, inputs: pathlib.Path, folder: pathlib.Path, fault: Fault, limit_s: float
) -> Run:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        return run(command, inputs, pathlib.Path(own), fault, limit_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign and prints a table; returns 1 if there was a bad outcome."""
    kinds = list(dict.fromkeys(fault.kind for fault in FAULTS))
    parser = argparse.ArgumentParser(description="Runs commands while the system fails them.")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="by default all")
    parser.add_argument("--faults", default=",".join(kinds), help="kinds, by default all")
    parser.add_argument("--inputs", help="where to keep the inputs, for the next call")
    flags = parser.parse_args(arguments)
    chosen = flags.faults.split(",")
    if "eio" in chosen and not failing_disk.is_possible():
        print("eio: skipped, because it needs a C compiler and Linux's /proc")
        chosen.remove("eio")
    table: dict[str, dict[str, str]] = collections.defaultdict(dict)
    with tempfile.TemporaryDirectory() as folder:
        for name, fault, how, found in campaign(
            flags.commands.split(","),
            chosen,
            pathlib.Path(flags.inputs or f"{folder}/inputs").absolute(),
            pathlib.Path(folder),
        ):
            table[name][str(fault)] = how
            last = (["", *found.text.strip().splitlines()])[-1]
            print(
                f"{name:10} {fault!s:12} {how:9} {found.seconds:5.1f} s  {last[:160]}", flush=True
            )
            if how in _BAD:
                print(found.text[-3000:], flush=True)
    columns = [str(fault) for fault in FAULTS if fault.kind in chosen]
    print(" " * 10, *(f"{column:>12}" for column in columns))
    for name, row in table.items():
        print(f"{name:10}", *(f"{row.get(column, '-'):>12}" for column in columns))
    counts = collections.Counter(how for row in table.values() for how in row.values())
    print(", ".join(f"{counts[each]} {each}" for each in OUTCOMES))
    return int(any(counts[each] for each in _BAD))


if __name__ == "__main__":
    sys.exit(main())
