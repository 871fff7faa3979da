"""The flags that the commands on segment files share, and their rule for outputs that exist."""

import argparse
import pathlib

from relabel_jax.errors import InputError


def add_inputs(
    parser: argparse.ArgumentParser, segments: str = "one or more segment files"
) -> None:
    """Adds `--ontology` and `--segments`.

    Args:
      parser: the command's parser.
      segments: the help for `--segments`.
    """
    parser.add_argument(
        "--ontology", metavar="JSON", help="(default: AudioSet's, which comes with this package)"
    )
    parser.add_argument(
        "--segments",
        required=True,
        type=lambda text: text.split(","),
        metavar="CSV[,CSV.gz]",
        help=segments,
    )


def add_unknown(parser: argparse.ArgumentParser) -> None:
    """Adds `--unknown`."""
    parser.add_argument(
        "--unknown",
        choices=("refuse", "drop"),
        default="refuse",
        help="what to do about mids that are not in the ontology (default: %(default)s)",
    )


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Adds `--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")


def refuse_existing(path: pathlib.Path) -> None:
    """Raises InputError if there is something under that name."""
    if path.exists():
        raise InputError(f"{path}: exists already; give --overwrite or another --output")
