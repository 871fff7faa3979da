"""Kills every command at random moments, runs it again, and compares what it leaves.

  python tests/campaigns/kills.py --kills=200 --seed=0
  python tests/campaigns/kills.py --kills=40 --commands=train,export

It makes the inputs of all commands from a tiny miniature and a tiny network, in a temporary folder
or in `--folder`, which later calls then use again. For each command it runs the command twice
without a kill: the outputs are the reference, and the times say when it writes. For each trial it
runs the command in an empty folder, sends SIGKILL to all of its processes at a random moment, most
often while it writes, and runs the same command again, to its end or to the next kill.

Each trial has one of these outcomes:

- `same`: all outputs are those of the reference, byte for byte;
- `complete`: the same, but the outputs were complete before the kill, so the command refused to
  replace them;
- `refused`: the command did not finish its work; its last line says why;
- `different`: an output is missing, new or has other bytes.

A `leftover` is a hidden file or folder that only a killed command leaves. Most commands delete
their own when they run again.

`command_outputs.VARYING` lists what may differ between two runs, and why. The campaign prints a
line for each command, and exits with 1 if a trial was refused or different. 20 kills take 5 to 9
minutes on 2 cores.
"""

import argparse
import collections
import contextlib
import dataclasses
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

from command_outputs import is_leftover, outputs, snapshot

from relabel_jax import cli

OUTCOMES = ("same", "complete", "refused", "different")
REPOSITORY = pathlib.Path(__file__).parents[2]
_TIMEOUT_S = 300

_SEGMENTS = "--segments={inputs}/MINI/segments.csv --ontology={inputs}/MINI/ontology.json"
_BUILD = (
    f"build {_SEGMENTS} --audio={{inputs}}/MINI/audio --splits={{inputs}}/splits.csv "
    "--clips_per_shard=10 --num_workers=2"
)
_NETWORK = (
    "--config.data_dir={inputs}/DATA --config.model.features=(4,4,4,4,4,4,4,4,4) "
    "--config.model.dense_units=(8,8) --config.batch_size=8 --config.num_epochs=2"
)
_CELLS = "--config.only=human --config.base_labelings=('ol',) --config.target_labelings=('ol',)"
_GRID = f"train --config=paper:small {_CELLS} {_NETWORK}"
_EXPORT = "--output_dir=EXPORT --format=huggingface,stablehlo"
INPUTS = {
    "MINI": "miniature --output_dir={inputs}/MINI --num_clips=60 --num_workers=1",
    "DATA": f"{_BUILD} --output_dir={{inputs}}/DATA",
    "BASE": f"train --config=base_human --workdir={{inputs}}/BASE {_NETWORK}",
    "GRID": f"{_GRID} --workdir={{inputs}}/GRID",
}
"""The commands that make the inputs of others, in the order in which they need each other."""
COMMANDS = {
    "miniature": "miniature --output_dir=MINI --num_clips=24 --num_workers=2",
    "relabel": f"relabel {_SEGMENTS} --output=labels.parquet",
    "relabel_csv": f"relabel {_SEGMENTS} --output=labels.csv --format=csv --labelings=pel,pe_cml",
    "release": f"release {_SEGMENTS} --output_dir=LABELS",
    "excerpt": f"excerpt {_SEGMENTS} --output=excerpt.csv --min_per_label=2",
    "audit": f"audit {_SEGMENTS} --output_dir=AUDIT",
    "judge": f"judge {_SEGMENTS} --against={{inputs}}/MINI/truth.csv --output_dir=JUDGE",
    "datasets": "datasets --dataset=esc50 --input_dir={inputs}/ESC50 --output_dir=META",
    "build": f"{_BUILD} --output_dir=DATA",
    "train": f"train --config=base_human --workdir=BASE {_NETWORK}",
    "population": f"train --config=base_human --workdir=W --config.seeds=0,1 {_NETWORK}",
    "grid": f"{_GRID} --workdir=GRID",
    "report": "report --workdir=GRID",  # a copy of {inputs}/GRID
    "score": f"score {_SEGMENTS} --scores={{inputs}}/BASE --output_dir=SCORE",
    "embed": "embed --checkpoint={inputs}/BASE --audio={inputs}/MINI/audio --output=e.parquet",
    "export": f"export --checkpoint={{inputs}}/BASE {_EXPORT}",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign; returns 1 if a trial was refused or different."""
    parser = argparse.ArgumentParser(description="Kills every command and runs it again.")
    parser.add_argument("--kills", type=int, default=200, help="in all, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the inputs for later calls")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begins no trial later")
    flags = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = flags.folder or stack.enter_context(tempfile.TemporaryDirectory())
        campaign = Campaign(pathlib.Path(folder).absolute())
        names = flags.commands.split(",")
        counts = {name: collections.Counter[str]() for name in names}
        end = time.monotonic() + 60 * flags.minutes
        for number in range(flags.kills):  # a trial has at least one kill
            name = names[number % len(names)]
            done = sum(each["kills"] for each in counts.values())
            if done >= flags.kills or time.monotonic() > end:
                break
            trial = campaign.trial(name, f"{flags.seed}/{number}")
            counts[name] += collections.Counter(
                {trial.outcome: 1, "kills": trial.kills, "leftovers": len(trial.leftovers)}
            )
            if trial.outcome in ("refused", "different"):
                print(f"{name}, trial {number}: {trial.outcome}: {trial.detail}", flush=True)
    columns = ("kills", *OUTCOMES, "leftovers")
    print(f"{'':12}" + "".join(f"{column:>11}" for column in columns))
    total = sum(counts.values(), collections.Counter[str]())
    for name, count in {**counts, "all": total}.items():
        print(f"{name:12}" + "".join(f"{count[column]:11}" for column in columns))
    return int(total["refused"] + total["different"] > 0)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What became of a command that was killed and run again.

    Attributes:
      outcome: one of `OUTCOMES`.
      detail: the last line of the command, or the first outputs that differ.
      kills: how often it was killed.
      leftovers: the files that only a killed command leaves.
    """

    outcome: str
    detail: str
    kills: int
    leftovers: list[str]


@dataclasses.dataclass(frozen=True)
class _Reference:
    """What a command does that nobody kills.

    Attributes:
      outputs: its outputs and their digests.
      starts_s: seconds until it first changes its folder.
      writes_s: seconds from then until it changes it for the last time.
    """

    outputs: dict[str, str]
    starts_s: float
    writes_s: float


class Campaign:
    """Kills commands in a folder.

    Args:
      folder: keeps the inputs of all commands, and is used again if it has them.
    """

    def __init__(self, folder: pathlib.Path):
        self._inputs = folder / "inputs"
        self._work = folder / "work"
        self._log = folder / "log.txt"
        self._cache = folder / "cache"
        self._references: dict[str, _Reference] = {}
        if not (self._inputs / "ESC50").exists():
            _write_esc50(self._inputs / "ESC50")

    def trial(self, name: str, seed: str) -> Trial:
        """Kills a command once or more often, runs it to its end, and looks at its outputs.

        Args:
          name: a key of `COMMANDS`.
          seed: chooses the number of kills and their moments.
        """
        reference = self._reference(name)
        rng = random.Random(seed)
        self._prepare(name)
        kills = 0
        while kills == 0 or rng.random() < 0.25:
            kills += 1
            process = self._start(COMMANDS[name])
            if rng.random() < 0.2:
                _wait(process, rng.uniform(0, reference.starts_s))
            else:
                self._until_it_writes(process)
                _wait(process, rng.uniform(0, 1.05 * reference.writes_s))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        code = self._start(COMMANDS[name]).wait(_TIMEOUT_S)
        found = outputs(self._work)
        leftovers = sorted(path for path in found if is_leftover(path))
        different = [
            path
            for path in sorted({*found, *reference.outputs} - {*leftovers})
            if found.get(path) != reference.outputs.get(path)
        ]
        last_line = (self._log.read_text().splitlines() or [""])[-1]
        if different and code:
            return Trial("refused", last_line, kills, leftovers)
        if different:
            return Trial("different", ", ".join(different[:5]), kills, leftovers)
        return Trial("complete" if code else "same", last_line, kills, leftovers)

    def _reference(self, name: str) -> _Reference:
        """Runs a command twice without a kill; both runs must leave the same outputs."""
        if name not in self._references:
            self._work.mkdir(exist_ok=True)
            self._make_inputs(COMMANDS[name])
            if name == "report":
                self._make_inputs("{inputs}/GRID")
            found = []
            for _ in range(2):
                self._prepare(name)
                process = self._start(COMMANDS[name])
                starts_s = self._until_it_writes(process)
                writes_s = 0.0
                while process.poll() is None:
                    writes_s += self._until_it_writes(process)
                if process.returncode:
                    raise RuntimeError(f"{name}: {self._log.read_text()}")
                found.append(outputs(self._work))
            first, second = found
            if first != second:
                varying = sorted(path for path in {*first, *second}
                                 if first.get(path) != second.get(path))  # fmt: skip
                raise RuntimeError(
                    f"{name}: two runs differ in {varying}; add them to command_outputs.VARYING"
                )
            self._references[name] = _Reference(second, starts_s, writes_s)
        return self._references[name]

    def _prepare(self, name: str) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        if name == "report":
            shutil.copytree(self._inputs / "GRID", self._work / "GRID")

    def _until_it_writes(self, process: subprocess.Popen) -> float:
        """Waits until the process changes its folder; returns the seconds, 0 if it ends before."""
        began = time.monotonic()
        before = snapshot(self._work)
        while process.poll() is None:
            if snapshot(self._work) != before:
                return time.monotonic() - began
            time.sleep(0.002)
        return 0.0

    def _start(self, command: str) -> subprocess.Popen:
        verb, *arguments = command.format(inputs=self._inputs).split()
        module = cli.VERBS[verb][0].removesuffix(".__main__")
        environment = os.environ | {
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "JAX_COMPILATION_CACHE_DIR": str(self._cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with open(self._log, "w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=self._work,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _make_inputs(self, command: str) -> None:
        """Makes those inputs of a command that are not there."""
        for name, make in INPUTS.items():
            done = self._inputs / f"{name}.done"
            if f"{{inputs}}/{name}" not in command or done.exists():
                continue
            self._make_inputs(make.replace(f"{{inputs}}/{name}", ""))
            if self._start(make).wait(_TIMEOUT_S):
                raise RuntimeError(f"{make}: {self._log.read_text()}")
            if name == "MINI":
                _write_splits(self._inputs)
            if name == "GRID":
                shutil.rmtree(self._inputs / name / "report")
            done.touch()


def _wait(process: subprocess.Popen, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def _clip_ids(inputs: pathlib.Path) -> Iterator[str]:
    for line in (inputs / "MINI" / "segments.csv").read_text().splitlines():
        if not line.startswith("#"):
            yield line.partition(",")[0]


def _write_splits(inputs: pathlib.Path) -> None:
    """Gives a fifth of the clips each to validation and test."""
    splits = ("train", "train", "train", "validation", "test")
    rows = [f"{clip},{splits[i % 5]}\n" for i, clip in enumerate(_clip_ids(inputs))]
    (inputs / "splits.csv").write_text("clip_id,split\n" + "".join(rows))


def _write_esc50(folder: pathlib.Path) -> None:
    (folder / "meta").mkdir(parents=True)
    rows = [f"{fold}-{i}.wav,{fold},rain\n" for fold in range(1, 6) for i in range(3)]
    (folder / "meta" / "esc50.csv").write_text("filename,fold,category\n" + "".join(rows))


if __name__ == "__main__":
    sys.exit(main())
