"""Fetches AudioSet's ontology and segment files, from its own addresses or from a folder.

    python -m data_prep.metadata --output_dir=META

A download that fails is tried again. A file gets its name when it is complete and has been checked:

- a file from AudioSet's own address has the known SHA-256;
- the ontology is well formed and acyclic;
- a segment file has as many rows, different labels and labels in all as its own header says;
- all mids of the segment files are in the ontology.

`class_labels_indices.csv`, the order of the classes in most networks' outputs, is not fetched: it
lists the classes that the segments use, in the ontology's order, so it is written from these files.
"""

import argparse
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.download import MAX_BYTES, MAX_TIMEOUT_S, Source, check_address, download
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.labels import class_indices
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segment_flags import with_or_without_gz
from relabel_jax.labels.segments import GroupedSegments, read_segments
from relabel_jax.labels.text_files import opened

_CSV_FOLDER = "https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"

# By file: where AudioSet's download page (research.google.com/audioset/download.html) leads.
SOURCES = {
    "ontology.json": Source(
        "https://raw.githubusercontent.com/audioset/ontology/master/ontology.json",
        "9c685f4403eecc3ca9be37fd7285cf212feaaea6ff7229d3e7ca89e0d1f2d15d",
    ),
    "balanced_train_segments.csv": Source(
        f"{_CSV_FOLDER}/balanced_train_segments.csv",
        "3b83e5ff9ed72cfda37d4e36ce08250e107c1ea70f109f6ab6668ac200db5e94",
    ),
    "eval_segments.csv": Source(
        f"{_CSV_FOLDER}/eval_segments.csv",
        "f7055f53935f70e74e39494a5c8c4c78f1700fce275028bd36e31186f33d45db",
    ),
    "unbalanced_train_segments.csv": Source(
        f"{_CSV_FOLDER}/unbalanced_train_segments.csv",
        "bb2dfd5e4f1ced39db9480633c510f813d7899f4b7472aa83a411b4a43a12698",
    ),
}
RETRIES = 6
TIMEOUT_S = 30.0

_Path = str | pathlib.Path


def metadata(
    *,
    output_dir: _Path,
    sources: Mapping[str, Source] = SOURCES,
    from_dir: _Path | None = None,
    retries: int = RETRIES,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Fills a folder with AudioSet's metadata; reports on stderr.

    Args:
      output_dir: the folder. Files that are already in it are checked and kept.
      sources: by the file's name, the ontology first.
      from_dir: a folder to copy the files from (`.gz` or not), instead of downloading them.
      retries: how often a failed download of a file is tried again.
      timeout_s: seconds without a byte after which a download has failed.
      max_bytes: the most bytes of a download.

    Raises:
      InputError: a file cannot be fetched, fails its check, or cannot be written; or a name in the
        folder is a symbolic link, which others may have made.
    """
    if retries < 0:
        raise InputError(f"--retries={retries}: expected 0 or more")
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise InputError(f"--timeout_s={timeout_s}: expected more than 0, up to {MAX_TIMEOUT_S:g}")
    folder = pathlib.Path(output_dir)
    checks = _Checks()
    for name in (*sources, class_indices.FILE_NAME):
        _refuse_links(folder, name)
    if from_dir is None:
        for source in sources.values():
            check_address(source.url)
    for name, source in sources.items():
        if path := _existing(folder, name):
            try:
                content = checks.check(path)
            except InputError as error:
                raise InputError(f"{error}; remove the file to get it again") from error
            print(f"{path}: kept, {content}", file=sys.stderr)
        else:
            origin = source.url
            if from_dir is not None:
                origin = str(_existing(pathlib.Path(from_dir), name) or "")
                if not origin:
                    raise InputError(f"{from_dir}: has neither {name} nor {name}.gz")
            is_gzip = re.split("[?#]", origin)[0].endswith(".gz")
            path = folder / (f"{name}.gz" if is_gzip else name)
            with (
                complete_file(path) as temporary,
                tempfile.TemporaryDirectory(prefix=".part.", dir=folder) as part_folder,
            ):
                part = pathlib.Path(part_folder) / path.name
                if from_dir is None:
                    download(source, part, retries, timeout_s, max_bytes)
                else:
                    shutil.copyfile(origin, part)
                try:
                    content = checks.check(part)
                except InputError as error:
                    raise InputError(str(error).replace(str(part), origin)) from error
                part.replace(temporary)
            print(f"{path}: {content}", file=sys.stderr)
    if checks.used:
        _write_class_indices(folder, checks)
    command = cli.program("data_prep.relabel")
    print(f"next: {command} --segments={folder} --output=labels.parquet", file=sys.stderr)


def _write_class_indices(folder: pathlib.Path, checks: "_Checks") -> None:
    """Writes AudioSet's `class_labels_indices.csv`, or checks the one that is there."""
    path = folder / class_indices.FILE_NAME
    text = class_indices.class_indices_text(checks.ontology, checks.used)
    content = f"{len(checks.used)} classes, all that the segments use"
    if not path.exists():
        with complete_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(f"{path}: {content}", file=sys.stderr)
        return
    mids = [checks.ontology.mids[number] for number in sorted(checks.used)]
    if class_indices.read_class_indices(path) != mids:
        raise InputError(
            f"{path}: its classes are not those that the segment files use; remove the file to get "
            "it again"
        )
    print(f"{path}: kept, {content}", file=sys.stderr)


class _Checks:
    """Checks files, the ontology first, and remembers the ontology and the labels in use.

    Attributes:
      ontology: the ontology, once it has been checked.
      used: the class numbers of all labels in the segment files so far.
    """

    ontology: Ontology

    def __init__(self) -> None:
        self.used: set[int] = set()

    def check(self, path: pathlib.Path) -> str:
        """Checks and describes a file. Raises InputError if something is wrong with it."""
        if not hasattr(self, "ontology"):
            self.ontology = Ontology.from_json(path)
            return f"{len(self.ontology)} classes"
        segments = _read_checked(path, self.ontology)
        self.used.update(np.unique(segments.label_sets.indices).tolist())
        return f"{len(segments):,} segments"


def _read_checked(path: pathlib.Path, ontology: Ontology) -> GroupedSegments:
    """Reads the segments. Raises InputError if the file differs from what its header says."""
    segments = read_segments([path], ontology)
    counts = {
        "num_segs": len(segments),
        "num_unique_labels": len(np.unique(segments.label_sets.indices)),
        "num_positive_labels": int(np.diff(segments.label_sets.indptr) @ segments.clips_per_set),
    }
    with opened(path, "segments") as file:
        header = file.readline() + file.readline()
    said = {key.decode(): int(number) for key, number in re.findall(rb"(num_\w+)=(\d+)", header)}
    if "num_segs" not in said:
        raise InputError(
            f"{path}: its second line does not say num_segs=...; expected AudioSet's header of "
            "three lines"
        )
    for key, count in counts.items():
        if said.get(key, count) != count:
            raise InputError(
                f"{path}: its header says {key}={said[key]}, but it has {count}; the file is not "
                "complete or was changed"
            )
    return segments


def _refuse_links(folder: pathlib.Path, name: str) -> None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_symlink():
            raise InputError(
                f"{path}: is a symbolic link; remove it, and give a folder that has the file as "
                "--from_dir"
            )
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a file; remove it to get the file")


def _existing(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    path = with_or_without_gz(folder / name)
    return path if path.exists() else None


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = cli.program("data_prep.metadata")
    parser = cli.parser(
        "data_prep.metadata",
        "Downloads AudioSet's ontology and its three segment files (100 MB), checks them, "
        "and keeps files that are in the folder already.",
        epilog=f"""\
examples:
  {command} --output_dir=META
  {command} --output_dir=META --from_dir=/mnt/audioset     # without a network
  {command} --output_dir=META \\
      --unbalanced_train_segments_url=https://mirror.example/unbalanced_train_segments.csv.gz

META gets ontology.json, balanced_train_segments.csv, eval_segments.csv,
unbalanced_train_segments.csv, and class_labels_indices.csv, written from the others. A file that
comes gzipped stays so; --segments finds X.csv.gz under the name X.csv. Messages go to stderr.
Downloads need pooch and requests (pip install pooch requests), --from_dir does not.
The files are Google's: the ontology CC BY-SA 4.0, the segments CC BY 4.0.""",
    )
    add = parser.add_argument_group("folders").add_argument
    add("--output_dir", required=True, type=cli.path, metavar="META", help="the folder to fill")
    add(
        "--from_dir",
        type=cli.path,
        metavar="FOLDER",
        help="copy the files from here (.csv or .csv.gz)",
    )
    add = parser.add_argument_group("addresses").add_argument
    for name, source in SOURCES.items():
        flag = f"--{name.partition('.')[0]}_url"
        add(flag, default=source.url, metavar="URL", help="(default: %(default)s)")
    add = parser.add_argument_group("patience").add_argument
    retries_help = "how often a failed download of a file is tried again (default: %(default)s)"
    add("--retries", type=int, default=RETRIES, metavar="N", help=retries_help)
    timeout_help = "seconds without a byte after which a download has failed (default: %(default)s)"
    add("--timeout_s", type=float, default=TIMEOUT_S, metavar="S", help=timeout_help)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    sources = {}
    for name, source in SOURCES.items():
        url = flags.pop(f"{name.partition('.')[0]}_url")
        sources[name] = source if url == source.url else Source(url)
    return cli.run(lambda: metadata(sources=sources, **flags), stopped=cli.RESUMES)


if __name__ == "__main__":
    sys.exit(main())
