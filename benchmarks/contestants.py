"""Runs programs in turn, so that a machine whose speed changes treats them alike.

Each contestant is a process that prints `ready` and then, for each line on its standard input, runs
one round and prints numbers in a line.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tqdm import tqdm


def take_turns(
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], num_rounds: int
) -> dict[str, list[list[float]]]:
    """Runs the contestants for some rounds, one at a time.

    Args:
      commands: by contestant, its command line and what its environment has besides that of this
        process. One that does not start is named on stderr and left out.
      num_rounds: the number of rounds.

    Returns:
      By contestant, the numbers of each round.
    """
    numbers: dict[str, list[list[float]]] = {}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, (command, environment) in tqdm(
            commands.items(), desc="starting", file=sys.stderr
        ):
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            if process.stdout.readline().strip() == "ready":
                processes[name], numbers[name] = process, []
            else:
                print(f"{name}: did not start, left out", file=sys.stderr)
        for _ in tqdm(range(num_rounds), desc="rounds", file=sys.stderr):
            for name, process in processes.items():
                process.stdin.write("\n")
                process.stdin.flush()
                numbers[name].append([float(each) for each in process.stdout.readline().split()])
    return numbers
