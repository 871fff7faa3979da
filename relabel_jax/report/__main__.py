"""Writes the paper's Tables I, III and IV for finished runs, with their statistics.

The tables are written as CSV, as JSON and as a web page.

A grid writes its report at its end. This command writes the report from the results of the
finished runs, also while a grid is running:

  python -m relabel_jax.report --workdir=W
  open W/report/index.html

The page needs the extra: pip install '.[report]'. TensorBoard shows the curves too:
tensorboard --logdir=W
"""

import sys
from collections.abc import Sequence

from relabel_jax import cli
from relabel_jax.report.tables import text
from relabel_jax.report.write import PAPER_TABLES, page_path, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code: 0 if all results could be used."""
    parser = cli.parser("relabel_jax.report.__main__", __doc__)
    parser.add_argument(
        "--workdir", required=True, metavar="W", type=cli.path, help="the workdir of a grid"
    )
    parser.add_argument(
        "--truth",
        metavar="CSV",
        help="the true labels of the clips, on which all runs are scored too: the miniature's "
        "truth.csv (default: the grid's config.truth; --truth= is none)",
    )
    parser.add_argument(
        "--paper",
        default=PAPER_TABLES,
        type=cli.path,
        metavar="JSON",
        help="the paper's figures to compare with (default: %(default)s)",
    )
    flags = parser.parse_args(arguments)

    def command() -> int:
        result = write_report(flags.workdir, truth=flags.truth, paper=flags.paper)
        for problem in result["problems"]:
            print(f"left out: {problem}", file=sys.stderr)
        for note in result["notes"]:
            print(f"note: {note}", file=sys.stderr)
        print(text(result))
        print(f"written {page_path(flags.workdir)} and tables", file=sys.stderr)
        return 1 if result["problems"] else 0

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
