"""Judges labels by a better reference on the same clips, without listening to them.

    python -m data_prep.judge --segments=SEGMENTS.csv --against=REFERENCE [--output_dir=JUDGE]

For each labeling it says how many of the true labels it holds (recall), how many of its labels are
true (precision), how often an ancestor that it adds is confirmed, and how often an entry that it
masks is true. `data_prep/judge_references.py` lists the references and what each of them decides,
`data_prep/judge_counts.py` has the rule of the counts. The table goes to stdout. JUDGE gets
`judge.json` with all counts, `classes.csv` and `edges.csv`, and `judge.html`, a self-contained page
with plots, if plotly is installed.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep import judge_table
from data_prep.judge_labels import NUM_REPLICATES, judge
from data_prep.judge_references import read_reference
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, csv_text, refuse_existing, written_together
from relabel_jax.labels import segment_flags
from relabel_jax.labels.label_files import labeling_files, read_label_file
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.report.web_page import fill_page

_TABLE_NAMES = ("judge.json", "classes.csv", "edges.csv")
_PAGE_NAME = "judge.html"
_PAGE = pathlib.Path(__file__).with_name("judge_page.html")
_MAX_REPLICATES = 1_000_000
_EDGE_FIELDS = (
    "parent",
    "parent_name",
    "child",
    "child_name",
    "entailed",
    "parent_left_out",
    "confirmed",
    "share",
)

_Path = str | pathlib.Path


def judge_files(
    *,
    segments: Sequence[_Path],
    against: _Path,
    ontology: _Path | None = None,
    labelings: Sequence[str] | None = None,
    labeling_files: Mapping[str, _Path] | None = None,
    output_dir: _Path | None = None,
    seed: int = 0,
    replicates: int = NUM_REPLICATES,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Judges labels of files, prints the table, and writes the results into a folder if given.

    Args:
      segments: segment files, or folders with AudioSet's.
      against: the file of the reference.
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      labelings: names of labelings; by default all of `LABELINGS` and of `labeling_files`.
      labeling_files: files of labels by the names of their labelings.
      output_dir: the folder for the tables and the page; None writes nothing.
      seed: seed of the bootstrap.
      replicates: the number of bootstrap replicates.
      unknown: `refuse` or `drop` labels that are not in the ontology.
      overwrite: whether outputs that exist are replaced.

    Returns:
      The result of `judge`.

    Raises:
      InputError: an input is wrong, an output exists, or it cannot be written.
    """
    folder = None if output_dir is None else pathlib.Path(output_dir)
    if folder is not None and not overwrite:
        refuse_existing(*(folder / name for name in (*_TABLE_NAMES, _PAGE_NAME)))
    the_ontology = Ontology.read(ontology)
    reference = read_reference(against, the_ontology, unknown)
    table = read_segments(segment_flags.segment_files(segments), the_ontology, unknown=unknown)
    files = {
        name: read_label_file(path, the_ontology, name, unknown)
        for name, path in (labeling_files or {}).items()
    }
    names = labelings or (*LABELINGS, *files)
    result = judge(
        table, reference, the_ontology, names, files, num_replicates=replicates, seed=seed
    )
    for line in judge_table.warnings(result):
        print(line, file=sys.stderr)
    print(judge_table.table(result))
    if folder is None:
        print("next: --output_dir=JUDGE writes the counts and the page", file=sys.stderr)
    else:
        _write(result, folder)
    return result


def _write(result: Mapping[str, Any], folder: pathlib.Path) -> None:
    contents = {
        "judge.json": json.dumps(result, indent=1, allow_nan=False).encode() + b"\n",
        "classes.csv": csv_text(result["classes"]).encode(),
        "edges.csv": csv_text(result["edges"], _EDGE_FIELDS).encode(),
    }
    if importlib.util.find_spec("plotly") is not None:
        contents[_PAGE_NAME] = page(result).encode()
    with written_together(*(folder / name for name in contents)):
        for name, content in contents.items():
            with complete_file(folder / name) as temporary:
                temporary.write_bytes(content)
    lines = [f"written {', '.join(contents)} in {folder}"]
    if _PAGE_NAME in contents:
        lines.append(f"next: open {folder / _PAGE_NAME} in a browser")
    else:
        lines.append(f"left out {_PAGE_NAME}: the page needs plotly (pip install plotly)")
    print(*lines, sep="\n", file=sys.stderr)


def page(result: Mapping[str, Any]) -> str:
    """Returns the self-contained HTML page.

    Raises:
      InputError: plotly is not installed.
    """
    return fill_page(_PAGE, result, "audit")


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.judge",
        "Judges labels by a better reference on the same clips: recall and precision, added "
        "ancestors that are confirmed, and masked entries that are true.",
        epilog=f"""\
example:
  {cli.program("data_prep.judge")} --segments=META/eval_segments.csv \\
      --against=AudioSet-R_eval.json --output_dir=JUDGE

references, which the command recognises by their content:
  the miniature's truth.csv, and any file of labels: AudioSet's segment form, AST's JSON, Parquet
  AudioSet-Strong's audioset_eval_strong.tsv and audioset_eval_strong_framed_posneg.tsv
  FSD50K's pp_pnp_ratings_FSD50K.json, eval.csv and dev.csv

The table goes to stdout, everything else to stderr. JUDGE gets judge.json with all counts, the
tables classes.csv and edges.csv, and judge.html, which needs plotly: pip install plotly""",
    )
    segment_flags.add_inputs(parser, "segment files with the raters' labels")
    add = parser.add_argument_group("judgement").add_argument
    add(
        "--against",
        required=True,
        type=cli.path,
        metavar="REFERENCE",
        help="the file that says what is true",
    )
    add("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")
    add(
        "--replicates",
        type=int,
        default=NUM_REPLICATES,
        help="draws of the bootstrap (default: %(default)s)",
    )
    labels = parser.add_argument_group("labels")
    segment_flags.add_labelings(labels, "all")
    segment_flags.add_unknown(labels)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_dir", type=cli.path, metavar="JUDGE", help="the folder to write into, if any"
    )
    segment_flags.add_overwrite(output)
    return parser.parse_args(arguments)


def _run(flags: dict[str, Any]) -> None:
    flags["labeling_files"] = labeling_files(flags["labeling_files"])
    for name, least, most in (("replicates", 1, _MAX_REPLICATES), ("seed", 0, None)):
        if flags[name] < least:
            raise InputError(f"--{name}={flags[name]}: expected at least {least}")
        if most is not None and flags[name] > most:
            raise InputError(f"--{name}={flags[name]}: expected at most {most:,}")
    judge_files(**flags)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: _run(flags))


if __name__ == "__main__":
    sys.exit(main())
