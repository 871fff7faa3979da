"""The outputs of a command, in a form in which those of two runs can be compared."""

import contextlib
import fnmatch
import json
import os
import pathlib

from relabel_jax.digests import of_bytes, of_file
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.restoring import state_digest
from relabel_jax.runs.workdir import Workdir

VARYING = {
    "permit": "random; it tells the processes of one build from those of another",
    "events.out.tfevents.*": "TensorBoard's files have times and the name of the host",
    "sha256.json": "has the digest of metrics.jsonl; whoever reads the result compares it",
}
_TIMES = ("seconds", "clips_per_s")
"""The fields of `metrics.jsonl` that differ from run to run."""


def outputs(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digest of each output below a folder, by its path; those that vary are left out.

    A checkpoint is one output: the digest of its arrays. Of `metrics.jsonl` times are left out.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        is_varying = any(fnmatch.fnmatch(path.name, pattern) for pattern in VARYING)
        if path.is_dir() and path.parent.name == "checkpoints" and path.name.isdecimal():
            with Checkpoints(Workdir(path.parents[1]), read_only=True) as checkpoints:
                found[name] = state_digest(checkpoints.restore_arrays(int(path.name)))
        elif "checkpoints" in path.parts or is_varying or (path.is_dir() and path.name[0] != "."):
            continue
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            kept = [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]
            found[name] = of_bytes(json.dumps(kept).encode())
        elif path.name == "result.json" and path.with_name("config.json").exists():
            Workdir(path.parent).read_result()
            found[name] = of_file(path)
        else:
            found[name] = "a folder" if path.is_dir() else of_file(path)
    return found


def is_leftover(name: str) -> bool:
    """Whether only a killed command leaves a file of this name."""
    parts = pathlib.PurePath(name).parts
    return any(
        part.startswith(".") and part.endswith((".tmp", ".partial", ".unfinished"))
        for part in parts
    ) or any(".parts" in part or "orbax-checkpoint-tmp" in part for part in parts)


def snapshot(folder: pathlib.Path) -> list[tuple[str, int]]:
    """The entries below a folder and when they changed."""
    found = []
    for at, _, files in os.walk(folder):
        for name in ("", *files):
            with contextlib.suppress(OSError):
                path = os.path.join(at, name)
                found.append((path, os.stat(path).st_mtime_ns))
    return found
