"""AudioSet's ontology and segment files, from its own addresses or from a folder.

    python -m data_prep.metadata --output_dir=META

A download that breaks off is taken up where it stopped: by itself, with growing pauses, and by the
same command after it was stopped. A file gets its name when it is complete and has been checked:
the ontology is well formed and acyclic; a segment file has as many rows, different labels and
labels in all as its own header says, and all of its mids are in the ontology.
"""

import argparse
import contextlib
import dataclasses
import gzip
import http.client
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tqdm

from data_prep.segments import read_segments
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

_CSV_FOLDER = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"

# By file: where AudioSet's download page (research.google.com/audioset/download.html) leads.
ADDRESSES = {
    "ontology.json": "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json",
    "balanced_train_segments.csv": f"{_CSV_FOLDER}/balanced_train_segments.csv",
    "eval_segments.csv": f"{_CSV_FOLDER}/eval_segments.csv",
    "unbalanced_train_segments.csv": f"{_CSV_FOLDER}/unbalanced_train_segments.csv",
}

_RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_S = 60
_CHUNK_BYTES = 1 << 18

_Path = str | pathlib.Path


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a download goes on trying.

    Attributes:
      retries: attempts in a row that may bring nothing new before it is given up.
      timeout_s: seconds without a byte after which a connection is given up.
      first_pause_s: before the first retry; doubled each time, up to a minute.
    """

    retries: int = 6
    timeout_s: float = 30
    first_pause_s: float = 1


def metadata(
    *,
    output_dir: _Path,
    addresses: Mapping[str, str] = ADDRESSES,
    from_dir: _Path | None = None,
    patience: Patience = Patience(),
) -> None:
    """Brings AudioSet's metadata into a folder; tells of it on stderr.

    Args:
      output_dir: the folder; files in it that are complete stay.
      addresses: by the file's name, the ontology first; one that ends in `.gz` gives such a file.
      from_dir: a folder to copy the files from (`.gz` or not), instead of downloading them.
      patience: with the server.

    Raises:
      InputError: a file cannot be had, is not what it should be, or cannot be written.
    """
    folder = pathlib.Path(output_dir)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    ontology: Ontology | None = None
    for name, address in addresses.items():
        targets = [folder / name, folder / f"{name}.gz"]
        there = [target for target in targets if target.exists()]
        if there:
            try:
                found = _check(there[0], ontology)
            except InputError as error:
                raise InputError(f"{error}; remove the file to get it anew") from error
            print(f"{there[0]}: kept, {found}", file=sys.stderr)
        else:
            source = str(_in_folder(from_dir, name)) if from_dir is not None else address
            target = targets[urllib.parse.urlparse(source).path.endswith(".gz")]
            part = target.with_name(f".part.{target.name}")
            if from_dir is not None:
                with _writing(target):
                    shutil.copyfile(source, part)
                found = _checked(part, ontology, source)
            else:
                was_resumed = download(address, part, patience)
                try:
                    found = _checked(part, ontology, source)
                except InputError:
                    if not was_resumed:
                        raise
                    # The file may have changed between one answer and the next.
                    download(address, part, patience)
                    found = _checked(part, ontology, source)
            with _writing(target):
                with open(part, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(part, target)
            print(f"{target}: {found}", file=sys.stderr)
        if ontology is None:
            ontology = Ontology.from_json((there or [target])[0])


def download(address: str, part: pathlib.Path, patience: Patience) -> bool:
    """Downloads into `part`, or the rest of it if a beginning is there.

    Returns:
      Whether it was put together from several answers.

    Raises:
      InputError: the server refuses, keeps failing, or the file cannot be written.
    """
    failures, num_answers = 0, int(part.exists() and part.stat().st_size > 0)
    name = part.name.removeprefix(".part.")
    with tqdm.tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=name) as bar:
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                if _one_answer(address, part, bar, patience.timeout_s):
                    return num_answers > 0
                problem = "the connection closed early"
            except urllib.error.HTTPError as error:
                if error.code == 416:  # there is nothing behind what we hold
                    if error.headers["Content-Range"] == f"bytes */{before}":
                        return True
                    part.unlink(missing_ok=True)
                elif error.code not in _RETRIED_STATUSES:
                    raise InputError(
                        f"{address}: the server answers {error.code} {error.reason}; give another "
                        "address, or a folder that has the file (--from_dir)"
                    ) from error
                problem = f"{error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                problem = str(getattr(error, "reason", error)) or type(error).__name__
            after = part.stat().st_size if part.exists() else 0
            num_answers += after > before
            failures = 0 if after > before else failures + 1
            if failures > patience.retries:
                raise InputError(
                    f"{address}: given up after {failures} attempts without a byte: {problem}; the "
                    "same command goes on from here, --from_dir takes files from a folder"
                )
            pause = min(patience.first_pause_s * 2 ** max(failures - 1, 0), _LONGEST_PAUSE_S)
            bar.write(f"{name}: {problem}; trying again in {pause:g} s", file=sys.stderr)
            time.sleep(pause)


def _one_answer(address: str, part: pathlib.Path, bar: tqdm.tqdm, timeout_s: float) -> bool:
    """Asks once for what is missing; returns whether the file is complete now."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "relabel_jax"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(address, headers=headers)
    except ValueError as error:
        raise InputError(f"{address}: {error}; expected https://HOST/FILE") from error
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:
        total: int | None
        if answer.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers["Content-Range"] or "")
            if not match or int(match[1]) != have:
                with _writing(part):
                    part.unlink()
                return False
            total = int(match[2])
        else:  # all of it, whatever was asked for
            have = 0
            length = answer.headers["Content-Length"]
            total = int(length) if length else None
        bar.total = total
        bar.n = bar.initial = have
        bar.refresh()
        with _writing(part):
            file = open(part, "ab" if have else "wb")  # noqa: SIM115
        with file:
            while chunk := answer.read1(_CHUNK_BYTES):
                with _writing(part):
                    file.write(chunk)
                    file.flush()
                bar.update(len(chunk))
    return total is None or part.stat().st_size == total


def _check(path: pathlib.Path, ontology: Ontology | None) -> str:
    """What is in the file: the ontology itself where there is none yet, else segments."""
    if ontology is None:
        return f"{len(Ontology.from_json(path))} classes"
    return f"{_check_segments(path, ontology):,} segments"


def _checked(part: pathlib.Path, ontology: Ontology | None, source: str) -> str:
    """The same; a part that fails the check is removed and its source named."""
    try:
        return _check(part, ontology)
    except InputError as error:
        part.unlink()
        raise InputError(str(error).replace(str(part), source)) from error


def _check_segments(path: pathlib.Path, ontology: Ontology) -> int:
    """The number of segments, if the file is what its header says."""
    segments = read_segments([path], ontology)
    has = {
        "num_segs": len(segments),
        "num_unique_labels": len(np.unique(segments.label_sets.indices)),
        "num_positive_labels": int(np.diff(segments.label_sets.indptr) @ segments.clips_per_set),
    }
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        header = file.readline() + file.readline()
    said = {key.decode(): int(number) for key, number in re.findall(rb"(num_\w+)=(\d+)", header)}
    if "num_segs" not in said:
        raise InputError(
            f"{path}: its second line does not say num_segs=...; expected AudioSet's header of "
            "three lines"
        )
    for key, count in has.items():
        if said.get(key, count) != count:
            raise InputError(
                f"{path}: its header says {key}={said[key]}, but it has {count}; the file is not "
                "complete or was changed"
            )
    return len(segments)


def _in_folder(folder: _Path, name: str) -> pathlib.Path:
    for path in (pathlib.Path(folder) / name, pathlib.Path(folder) / f"{name}.gz"):
        if path.exists():
            return path
    raise InputError(f"{folder}: has neither {name} nor {name}.gz")


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    """Tells trouble with the disk from trouble with the network: both are OSErrors."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror or error}") from error


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.metadata",
        description="Downloads AudioSet's ontology and its three segment files (100 MB) and checks "
        "them. The same command finishes a download that was stopped; files that are there stay.",
        epilog="""\
examples:
  python -m data_prep.metadata --output_dir=META
  python -m data_prep.metadata --output_dir=META --from_dir=/mnt/audioset     # without a network
  python -m data_prep.metadata --output_dir=META \\
      --unbalanced_train_segments_url=https://mirror.example/unbalanced_train_segments.csv.gz

The files are Google's: the ontology CC BY-SA 4.0, the segments CC BY 4.0.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output_dir", required=True, metavar="META", help="the folder to fill")
    add("--from_dir", metavar="FOLDER", help="copy the files from here (.csv or .csv.gz)")
    for name, address in ADDRESSES.items():
        flag = f"--{name.partition('.')[0]}_url"
        add(flag, default=address, metavar="URL", help="(default: %(default)s)")
    add(
        "--retries",
        type=int,
        default=Patience.retries,
        metavar="N",
        help="attempts in a row that may bring nothing (default: %(default)s)",
    )
    add(
        "--timeout_s",
        type=float,
        default=Patience.timeout_s,
        metavar="S",
        help="seconds without a byte after which a connection is given up (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = _parse_flags(arguments)
    addresses = {name: getattr(flags, f"{name.partition('.')[0]}_url") for name in ADDRESSES}
    try:
        metadata(
            output_dir=flags.output_dir,
            addresses=addresses,
            from_dir=flags.from_dir,
            patience=Patience(retries=flags.retries, timeout_s=flags.timeout_s),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
