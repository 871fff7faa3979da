"""The flags that the commands on segment files share, and what these flags mean."""

import argparse
import pathlib
import sys
from collections.abc import Iterable, Sequence

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import LABELINGS

_Path = str | pathlib.Path


def add_inputs(
    parser: argparse.ArgumentParser, segments: str = "one or more segment files"
) -> None:
    """Adds `--segments` and `--ontology`.

    Args:
      parser: the command's parser.
      segments: the help for `--segments`.
    """
    add = parser.add_argument_group("input").add_argument
    add(
        "--segments",
        required=True,
        type=cli.paths,
        metavar="CSV[,CSV.gz]",
        help=f"{segments} (CSV, AudioSet-Strong's TSV or the JSON of AST); a folder stands for "
        "AudioSet's files in it (*_segments.csv)",
    )
    add(
        "--ontology",
        type=cli.path,
        metavar="JSON",
        help="(default: AudioSet's, which comes with this package)",
    )


def segment_files(places: Sequence[_Path]) -> list[pathlib.Path]:
    """The files that `--segments` means; tells stderr if they have other names.

    Args:
      places: segment files and folders. A folder stands for its `*_segments.csv`, sorted by name.
        Each file may be gzipped: where `X.csv` is absent, `X.csv.gz` is taken, and the other way
        round.

    Raises:
      InputError: a folder has no segment files.
    """
    files: list[pathlib.Path] = []
    for place in map(pathlib.Path, places):
        if place.is_dir():
            names = {path.name.removesuffix(".gz") for path in place.glob("*_segments.csv*")}
            found = [
                with_or_without_gz(place / name) for name in sorted(names) if name.endswith(".csv")
            ]
            if not found:
                raise InputError(
                    f"{place}: has no *_segments.csv; expected AudioSet's segment files, or the "
                    "path of a file"
                )
        else:
            found = [with_or_without_gz(place)]
        if found != [place]:
            print(f"{place}: reads {', '.join(path.name for path in found)}", file=sys.stderr)
        files += found
    return files


def with_or_without_gz(path: pathlib.Path) -> pathlib.Path:
    """The path, or if there is no such file, its name with or without `.gz` if there is one."""
    if path.exists():
        return path
    is_gzip = path.suffix == ".gz"
    other = path.with_suffix("") if is_gzip else path.with_name(f"{path.name}.gz")
    return other if other.exists() else path


def add_labelings(parser: argparse._ActionsContainer, default: str) -> None:
    """Adds `--labelings`, which is None if it is not given, and `--labeling_files`.

    Args:
      parser: the command's parser, or a group of it.
      default: the default of `--labelings`, for the help.
    """
    parser.add_argument(
        "--labelings",
        type=lambda text: text.split(","),
        metavar="NAME[,NAME]",
        help=f"of {', '.join(LABELINGS)} and those of --labeling_files (default: {default})",
    )
    parser.add_argument(
        "--labeling_files",
        default="",
        metavar="NAME=FILE[,NAME=FILE]",
        help="your own labelings: names, and files of positive and masked mids (Parquet, CSV or "
        "the JSON of AST)",
    )


def add_unknown(parser: argparse._ActionsContainer) -> None:
    """Adds `--unknown`."""
    parser.add_argument(
        "--unknown",
        choices=("refuse", "drop"),
        default="refuse",
        help="what to do about mids that are not in the ontology (default: %(default)s)",
    )


def add_overwrite(parser: argparse._ActionsContainer) -> None:
    """Adds `--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def refuse_inputs(
    outputs: Iterable[pathlib.Path], inputs: Iterable[str | pathlib.Path | None]
) -> None:
    """Raises InputError if an output would replace an input."""
    read = [pathlib.Path(path) for path in inputs if path is not None]
    for output in outputs:
        for path in read:
            if output.exists() and path.exists() and output.samefile(path):
                raise InputError(
                    f"{output}: is an input too, and would be replaced; give another --output"
                )
