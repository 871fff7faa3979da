"""Small inputs for builds, and helpers that the tests of builds share."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import soundfile

from data_prep.build import build, main
from data_prep.inputs import Inputs, open_plan
from data_prep.plan import Plan
from data_prep.shards import write_shard
from data_prep.working_folder import working_folder

REPOSITORY = pathlib.Path(__file__).parents[2]

CHILDREN = {
    "/m/root": ["/m/animal", "/m/home"],
    "/m/animal": ["/m/dog", "/m/cat"],
    "/m/home": ["/m/cat", "/m/door"],
    "/m/dog": ["/m/bark"],
}
MIDS = ["/m/root", "/m/animal", "/m/home", "/m/dog", "/m/cat", "/m/door", "/m/bark", "/m/music"]


def make_inputs(folder: pathlib.Path, num_clips: int, duration_s: float = 0.5) -> dict:
    """Recordings, ontology and segments; the arguments of build."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    (folder / "ontology.json").write_text(
        json.dumps([{"id": m, "name": m[3:], "child_ids": CHILDREN.get(m, [])} for m in MIDS])
    )
    rows = ["# made for a test", "# ", "# YTID, start_seconds, end_seconds, positive_labels"]
    for number in range(num_clips):
        clip_id = f"{'-_aY'[number % 4]}clip{number:03d}"
        mids = rng.choice(MIDS, rng.integers(1, 4), replace=False)
        rows.append(f'{clip_id}, {number}.000, {number + 10}.000, "{",".join(mids)}"')
        rate_hz = [8_000, 16_000, 44_100, 48_000][number % 4]
        samples = 0.2 * rng.standard_normal((round(duration_s * rate_hz), 1 + number % 2))
        name = [clip_id, f"Y{clip_id}", f"{clip_id}_{number}", f"{clip_id}_{number}_{number + 10}"]
        soundfile.write(folder / "audio" / f"{name[number % 4]}.flac", samples, rate_hz)
    (folder / "segments.csv").write_text("\n".join(rows) + "\n")
    return {
        "ontology": folder / "ontology.json",
        "segments": [folder / "segments.csv"],
        "audio": folder / "audio",
        "clips_per_shard": 5,
    }


def command(arguments: dict, output_dir: pathlib.Path, **more) -> list[str]:
    flags = arguments | more | {"output_dir": output_dir}
    if "segments" in flags:
        flags["segments"] = ",".join(map(str, flags["segments"]))
    return [
        sys.executable,
        "-m",
        "data_prep.build",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def contents(data_dir: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file()}


def rejects(data_dir: pathlib.Path) -> dict[str, str]:
    with open(data_dir / "rejects.csv", newline="") as file:
        return {row["clip_id"]: row["reason"] for row in csv.DictReader(file)}


def refused(arguments, output_dir, capfd, **more) -> str:
    """The one line that the command prints."""
    assert main(command(arguments, output_dir, **more)[3:]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def plan_only(arguments: dict, data_dir: pathlib.Path) -> Plan:
    """The plan of a build that has not started to read recordings."""
    inputs = Inputs(**arguments)
    with working_folder(data_dir):
        return open_plan(data_dir, inputs, inputs.identity())


def build_here(output_dir: pathlib.Path, **arguments) -> None:
    """A build without worker processes, because each of them takes a second to start."""
    plan = plan_only(arguments, output_dir)
    for shard in plan.shards:
        if plan.outcome(shard) is None:
            write_shard(plan, shard, on_clip=lambda position: None, fatal={})
    build(**arguments, output_dir=output_dir)


def children_of(pid: int) -> list[int]:
    """The worker processes of a build."""
    workers = []
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if b"data_prep.worker_program" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
        except FileNotFoundError:
            continue
    return workers


def start(arguments: dict, data_dir: pathlib.Path) -> subprocess.Popen:
    """Starts a build. `communicate` waits for its workers too, which share its stdout."""
    return subprocess.Popen(
        command(arguments, data_dir, num_workers=2),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
