"""Counts what raters chose and what they left out: the paper's section II for any segment files.

    python -m data_prep.audit --segments=A.csv,B.csv.gz --output_dir=AUDIT

Writes into AUDIT: `audit.json` with all counts, `files.csv`, `classes.csv` and `edges.csv` as
tables, and `audit.html`, a self-contained page with plots, if plotly is installed.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.audit_counts import audit
from relabel_jax import cli
from relabel_jax.files import complete_file, csv_text, refuse_existing, written_together
from relabel_jax.labels import segment_flags
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.report.web_page import fill_page

_TABLE_NAMES = ("audit.json", "files.csv", "classes.csv", "edges.csv")
_PAGE_NAME = "audit.html"
_PAGE = pathlib.Path(__file__).with_name("audit_page.html")

_EDGE_FIELDS = (
    "parent",
    "parent_name",
    "child",
    "child_name",
    "child_clips",
    "both_clips",
    "parent_given_child",
    "sibling_clips",
    "both_sibling_clips",
    "on_offer",
)

_Path = str | pathlib.Path


def page(result: Mapping[str, Any], ontology: Ontology) -> str:
    """Returns the self-contained HTML page.

    Raises:
      InputError: plotly is not installed.
    """
    data = dict(result, tree=_tree(result["classes"], ontology))
    return fill_page(_PAGE, data, "audit")


def _tree(classes: Sequence[Mapping[str, Any]], ontology: Ontology) -> list[dict[str, Any]]:
    """The nodes of the treemap, one for every path from a root.

    A class with several parents has several nodes. Its own clips are shared evenly among them, so
    that the areas add up.
    """
    nodes = []
    for number in range(len(ontology)):
        paths = ontology.paths(number)
        nodes += [
            {
                "id": "/".join(map(str, path)),
                "parent": "/".join(map(str, path[:-1])),
                "class": number,
                "value": classes[number]["ol"] / len(paths),
            }
            for path in paths
        ]
    return nodes


def audit_files(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output_dir: _Path,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Audits segment files into a folder; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files, or folders with AudioSet's.
      output_dir: the folder.
      unknown: `refuse` or `drop` labels that are not in the ontology.
      overwrite: whether outputs that exist are replaced.

    Raises:
      InputError: an input is wrong, an output exists, or it cannot be written.
    """
    folder = pathlib.Path(output_dir)
    if not overwrite:
        refuse_existing(*(folder / name for name in (*_TABLE_NAMES, _PAGE_NAME)))
    the_ontology = Ontology.read(ontology)
    files = segment_flags.segment_files(segments)
    table = read_segments(files, the_ontology, unknown=unknown)
    result = audit(table, the_ontology, [path.name for path in files])
    contents = {
        "audit.json": json.dumps(result, indent=1, allow_nan=False).encode() + b"\n",
        "files.csv": csv_text(result["files"]).encode(),
        "classes.csv": csv_text(result["classes"]).encode(),
        "edges.csv": csv_text(result["edges"], _EDGE_FIELDS).encode(),
    }
    if importlib.util.find_spec("plotly") is not None:
        contents[_PAGE_NAME] = page(result, the_ontology).encode()
    with written_together(*(folder / name for name in contents)):
        for name, content in contents.items():
            with complete_file(folder / name) as temporary:
                temporary.write_bytes(content)
    _summarise(result, folder, list(contents))


def _summarise(result: Mapping[str, Any], folder: pathlib.Path, names: Sequence[str]) -> None:
    lines = []
    for row in result["files"]:
        lines.append(
            f"{row['file']}: {row['clips']:,} clips, labels per clip {row['ol']:.3f} ol, "
            f"{row['pel']:.3f} pel, {row['masked']:.3f} masked"
        )
    if (share := result["parent_chosen_too"]["share"]) is not None:
        lines.append(f"labels whose parent was chosen too  {share:.2%}")
    general = result["general"]["share_with_only_general_labels"]
    lines.append(f"clips with only general labels      {general:.2%}")
    lines.append(f"written {', '.join(names)} in {folder}")
    if _PAGE_NAME in names:
        lines.append(f"next: open {folder / _PAGE_NAME} in a browser")
    else:
        lines.append(f"left out {_PAGE_NAME}: the page needs plotly (pip install plotly)")
    print(*lines, sep="\n", file=sys.stderr)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.audit",
        "Counts what the raters chose and what they left out, for each class, for each edge of "
        "the ontology and over all clips, and draws a page.",
        epilog=f"""\
example:
  {cli.program("data_prep.audit")} --segments=META --output_dir=AUDIT

META is the folder that {cli.program("data_prep.metadata")} fills. AUDIT gets audit.html, the page,
audit.json with all counts, and the tables files.csv, classes.csv and edges.csv. A summary goes to
stderr. The page needs plotly: pip install plotly""",
    )
    segment_flags.add_inputs(parser)
    output = parser.add_argument_group("output")
    folder_help = "the folder to write into"
    output.add_argument(
        "--output_dir", required=True, type=cli.path, metavar="AUDIT", help=folder_help
    )
    segment_flags.add_overwrite(output)
    segment_flags.add_unknown(parser.add_argument_group("labels"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: audit_files(**flags))


if __name__ == "__main__":
    sys.exit(main())
