"""`python -m relabel_jax.report`: the command line."""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from relabel_jax.errors import InputError
from relabel_jax.report.tables import text
from relabel_jax.report.write import PAPER_TABLES, write_report


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m relabel_jax.report",
        description="The paper's Tables I, III and IV of finished runs, with their statistics, as "
        "CSV, JSON and a page to look at. A grid writes its report itself at the end; this does it "
        "again from the results alone, also while a grid is running.",
        epilog="""\
example:
  python -m relabel_jax.report --workdir=W
  open W/report/index.html

The page needs the extra: pip install 'relabel-jax[report]'. The curves are also TensorBoard's:
tensorboard --logdir=W""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--workdir", required=True, metavar="W", type=pathlib.Path, help="the workdir of a grid")
    add(
        "--truth",
        metavar="CSV",
        help="true labels of the clips, to score all runs on them too: the miniature's truth.csv "
        "(default: the grid's config.truth; --truth= is none)",
    )
    add(
        "--paper",
        default=PAPER_TABLES,
        metavar="JSON",
        help="the paper's figures to stand beside (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 if every result found could be used."""
    flags = _parse_flags(arguments)
    try:
        result = write_report(flags.workdir, truth=flags.truth, paper=flags.paper)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for problem in result["problems"]:
        print(f"left out: {problem}", file=sys.stderr)
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(text(result))
    print(f"written {flags.workdir / 'report' / 'index.html'} and tables", file=sys.stderr)
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
