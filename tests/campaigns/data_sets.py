"""Changes files of a built data set in every way, and counts what passes unnoticed.

  python tests/campaigns/data_sets.py --flips=300 --seed=0

It builds two small data sets that differ in the seed of the splits. Each change is made in a copy
of the first one:

- a random bit of a file is flipped; each file has its turn, those of `.build` included;
- a file or `.build` is deleted, or the file's second half;
- two shards, or two outcomes, are swapped;
- a file, or several that belong together, are those of the other data set.

Then the copy is used in four ways, each time from a new copy:

- `open`: opens it and reads all waveforms, as training does;
- `verify`: checks all of it;
- `build`: gives the command that built it again, and opens the result;
- `finish`: the same, but the index is gone, as if that build had been killed.

The outcomes are those of flips.py; `same` includes a build that wrote the right bytes again. A
verification that finds nothing is silent if any file beside `.build` has other bytes. The command
exits with 1 if a change was silent or crashed. 300 flips and the 100 other changes take about five
minutes.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import itertools
import logging
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "data_prep"))

from building import build_here, make_inputs
from flips import OUTCOMES, flip, outcome_of

from data_prep.verify import verify
from relabel_jax import digests
from relabel_jax.data.data_set import open_data_set
from relabel_jax.data.layout import INDEX_NAME
from relabel_jax.errors import InputError

NUM_CLIPS = 40
Change = Callable[[pathlib.Path], object]
"""Changes a copy of the data set in this folder."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the campaign; returns 1 if a change was silent or crashed."""
    parser = argparse.ArgumentParser(description="Changes files of a data set.")
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(arguments)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole, other, arguments_of_build = make(pathlib.Path(folder))
        changes = itertools.chain(
            all_flips(whole, flags.flips, flags.seed), deletions(whole), mixtures(whole, other)
        )
        for name, outcome, detail in campaign(whole, arguments_of_build, changes):
            counts[outcome] += 1
            if outcome in ("crashed", "silent"):
                print(f"{outcome}: {name}: {detail}")
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES))
    return int(counts["crashed"] + counts["silent"] > 0)


def make(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, dict]:
    """Builds the two data sets; returns their folders and the arguments that built the first."""
    arguments = make_inputs(folder / "inputs", NUM_CLIPS)
    with contextlib.redirect_stderr(io.StringIO()):
        build_here(folder / "whole", **arguments)
        build_here(folder / "other", **arguments | {"split_seed": 1})
    return folder / "whole", folder / "other", arguments


def campaign(
    whole: pathlib.Path, arguments: dict, changes: Iterator[tuple[str, Change]]
) -> Iterator[tuple[str, str, str]]:
    """Makes each change; yields its name, the worst outcome, and what was read or said.

    Args:
      whole: the data set.
      arguments: the arguments that built it.
      changes: names and changes.
    """
    logging.getLogger("relabel_jax").propagate = False
    copy = whole.with_name("copy")

    def build_again(folder: pathlib.Path) -> Any:
        with contextlib.redirect_stderr(io.StringIO()):
            build_here(folder, **arguments)
        return _read(folder)

    def finish(folder: pathlib.Path) -> Any:
        (folder / INDEX_NAME).unlink(missing_ok=True)
        return build_again(folder)

    readings = {"open": _read, "verify": _verified, "build": build_again, "finish": finish}
    expected = {}
    for name, read in readings.items():
        shutil.copytree(whole, copy)
        expected[name] = read(copy)
        shutil.rmtree(copy)
    for what, change in changes:
        outcomes = []
        for name, read in readings.items():
            shutil.copytree(whole, copy)
            change(copy)
            outcome, detail = outcome_of(read, copy, expected[name])
            outcomes.append((outcome, f"{name}: {detail}"))
            shutil.rmtree(copy)
        yield what, *max(outcomes, key=lambda each: OUTCOMES.index(each[0]))


def _read(folder: pathlib.Path) -> Any:
    """What training reads."""
    data_set = open_data_set(folder)
    rows = np.arange(len(data_set.clip_ids))
    waveforms = hashlib.sha256(data_set.read_waveforms(rows)).hexdigest()
    return data_set.fingerprint, data_set.clip_ids.tolist(), data_set.labels.tobytes(), waveforms


def _verified(folder: pathlib.Path) -> Any:
    """The bytes that a verification vouches for."""
    with contextlib.redirect_stderr(io.StringIO()):
        problems = verify(folder, num_workers=1)
    if problems:
        raise InputError("; ".join(map(str, problems)))
    paths = [path for path in folder.iterdir() if path.is_file()]
    return {path.name: path.read_bytes() for path in paths if path.name != digests.LIST_NAME}


def all_flips(whole: pathlib.Path, num_flips: int, seed: int) -> Iterator[tuple[str, Change]]:
    """Flips of random bits. Each file gets as many of them as any other."""
    files = _files(whole)
    rng = random.Random(seed)
    for number in range(num_flips):
        name = files[number % len(files)]
        bit = rng.randrange(8 * (whole / name).stat().st_size)
        yield f"bit {bit} of {name}", functools.partial(_flip, name, bit)


def _flip(name: str, bit: int, folder: pathlib.Path) -> None:
    flip(folder / name, bit)


def deletions(whole: pathlib.Path) -> Iterator[tuple[str, Change]]:
    """Deletions of each file, of its second half, and of `.build`."""

    def delete(name: str, folder: pathlib.Path) -> None:
        (folder / name).unlink()

    def cut(name: str, folder: pathlib.Path) -> None:
        (folder / name).write_bytes(
            (whole / name).read_bytes()[: (whole / name).stat().st_size // 2]
        )

    for name in _files(whole):
        yield f"no {name}", functools.partial(delete, name)
        yield f"half of {name}", functools.partial(cut, name)
    yield "no .build", lambda folder: shutil.rmtree(folder / ".build")


def mixtures(whole: pathlib.Path, other: pathlib.Path) -> Iterator[tuple[str, Change]]:
    """Swaps of shards and of outcomes, and files of another data set."""

    def swap(first: str, second: str, folder: pathlib.Path) -> None:
        shutil.copy(whole / first, folder / second)
        shutil.copy(whole / second, folder / first)

    def take(names: list[str], folder: pathlib.Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)
            if (other / name).exists():
                shutil.copy(other / name, folder / name)

    files = sorted({*_files(whole), *_files(other)})
    shards = [name for name in files if ".array_record" in name]
    outcomes = [name for name in files if name.startswith(".build/t")]
    plan = [".build/plan.arrow", ".build/sha256.json"]
    small = [name for name in files if not name.startswith(".build") and name not in shards]
    for kind in (shards, outcomes):
        for first, second in itertools.pairwise(name for name in kind if (whole / name).exists()):
            yield f"{first} and {second} swapped", functools.partial(swap, first, second)
    together = {
        "shards": shards,
        "shards and outcomes": shards + outcomes,
        "outcomes": outcomes,
        "index and digests": [INDEX_NAME, digests.LIST_NAME],
        "small files": small,
        "small files but the digests": [name for name in small if name != digests.LIST_NAME],
    }
    for name in files:
        yield f"the other {name}", functools.partial(take, [name])
    for what, names in together.items():
        yield f"the other {what}", functools.partial(take, names)
    # The plan itself is compared with the flags of the command.
    yield "the other plan", functools.partial(take, plan)


def _files(folder: pathlib.Path) -> list[str]:
    """The files with content, below the data set's folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [str(path.relative_to(folder)) for path in paths]


if __name__ == "__main__":
    sys.exit(main())
