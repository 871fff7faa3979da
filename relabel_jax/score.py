r"""Measures anybody's predictions under every labeling. Needs no JAX.

The common case:

  python -m relabel_jax.score --scores=predictions.npz --segments=META/eval_segments.csv

For each labeling it prints mAP, mean AUC, d' and the hierarchical F1 (hF1, with the threshold that
maximizes it), over the classes that have scores. Masked labels are left out of everything. It also
prints fingerprints of clips, classes and labels, and what was left out: if two results differ,
these tell why.

A file of scores, clips x classes, is one of these:

  .npz, .h5     arrays clip_id and scores, or audio_name and clipwise_output as in PANNs'
                evaluation; mids may give the order of the classes
  .parquet      a column clip_id, and a column of lists (scores) or a column for each class
  .csv          a header line with clip_id and the mid or display name of each class
  a run folder  its test_scores.npz

Clip ids may have a folder, an extension and PANNs' prefix Y. With two or more files, it also
prints the differences of mAP to the first file on the clips that all files share.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, refuse_existing, write_json, written_together
from relabel_jax.labels import label_files, segment_flags
from relabel_jax.labels.class_indices import read_class_indices
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.scoring import output
from relabel_jax.scoring.comparison import NUM_REPLICATES, compare_files
from relabel_jax.scoring.measure import labels_by_name, match, measure
from relabel_jax.scoring.score_files import read_score_file

_MAX_REPLICATES = 1_000_000
_JSON, _CSV = "scores.json", "classes.csv"
_EPILOG = """\
examples:
  python -m relabel_jax.score --scores=a.npz,b.npz --segments=META/eval_segments.csv \\
      --output_dir=OUT
  python -m relabel_jax.score --scores=predictions.h5 --classes=META/class_labels_indices.csv \\
      --segments=META/eval_segments.csv --labelings=ol,pel,audioset_r \\
      --labeling_files=audioset_r=AudioSet-R_eval.json

OUT gets scores.json, with all metrics and all ids and classes that were left out, and classes.csv,
with the metrics of each class."""


def score_files(
    *,
    scores: Sequence[str | pathlib.Path],
    segments: Sequence[str | pathlib.Path],
    labelings: Sequence[str] | None = None,
    labeling_files: str = "",
    classes: str | pathlib.Path | None = None,
    ontology: str | pathlib.Path | None = None,
    unknown: str = "refuse",
    num_replicates: int = NUM_REPLICATES,
    output_dir: str | pathlib.Path | None = None,
    overwrite: bool = False,
) -> str:
    """Measures files of scores; writes the results if there is an output folder.

    Args:
      scores: files of scores, or run folders.
      segments: segment files, or folders with AudioSet's.
      labelings: labelings of the package or of `labeling_files`; None for all of them.
      labeling_files: further labelings, as `NAME=FILE,NAME=FILE`.
      classes: a `class_labels_indices.csv` with the order of the classes of files that do not name
        them.
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      unknown: `refuse` or `drop` labels that are not in the ontology.
      num_replicates: bootstrap replicates of the differences of two or more files.
      output_dir: the folder for `scores.json` and `classes.csv`; None writes nothing.
      overwrite: whether outputs that exist are replaced.

    Returns:
      The summary.

    Raises:
      InputError: an input is wrong, an output exists, or it cannot be written.
    """
    if num_replicates < 1:
        raise InputError(f"num_replicates: expected 1 or more, got {num_replicates}")
    if num_replicates > _MAX_REPLICATES:
        raise InputError(
            f"num_replicates: expected at most {_MAX_REPLICATES:,}, got {num_replicates}"
        )
    folder = None if output_dir is None else pathlib.Path(output_dir)
    if folder is not None and not overwrite:
        refuse_existing(folder / _JSON, folder / _CSV)
    the_ontology = Ontology.read(ontology)
    files = label_files.labeling_files(labeling_files)
    class_order = None if classes is None else read_class_indices(classes)
    table = read_segments(segment_flags.segment_files(segments), the_ontology, unknown=unknown)
    names = [*LABELINGS, *files] if labelings is None else labelings
    labels = labels_by_name(table, names, files, the_ontology, unknown)
    matched = [
        match(read_score_file(path, the_ontology, class_order), table, the_ontology)
        for path in scores
    ]
    results = [(each, {name: measure(each, labels[name]) for name in labels}) for each in matched]
    differences = compare_files(matched, labels, num_replicates) if len(matched) > 1 else None
    if folder is not None:
        with written_together(folder / _JSON, folder / _CSV):
            write_json(folder / _JSON, output.as_json(results, differences))
            with complete_file(folder / _CSV) as temporary:
                temporary.write_text(output.classes_csv(results), encoding="utf-8")
        print(f"written {_JSON} and {_CSV} in {folder}", file=sys.stderr)
    return output.text(results, differences)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser("relabel_jax.score", __doc__, epilog=_EPILOG)

    segment_flags.add_inputs(parser)
    scores = parser.add_argument_group("scores")
    scores.add_argument(
        "--scores",
        required=True,
        type=cli.paths,
        metavar="FILE[,FILE]",
        help="files of scores, or run folders; the others are compared with the first",
    )
    scores.add_argument(
        "--classes",
        type=cli.path,
        metavar="CSV",
        help="AudioSet's class_labels_indices.csv, for the order of classes that a file does not "
        "name (default: 527 classes without names count as AudioSet's)",
    )
    scores.add_argument(
        "--replicates",
        "--num_replicates",  # the name in older versions
        dest="num_replicates",
        type=int,
        default=NUM_REPLICATES,
        metavar="NUMBER",
        help="bootstrap replicates for the differences of two files (default: %(default)s)",
    )
    labels = parser.add_argument_group("labels")
    segment_flags.add_labelings(labels, "all")
    segment_flags.add_unknown(labels)
    results = parser.add_argument_group("output")
    results.add_argument(
        "--output_dir",
        type=cli.path,
        metavar="OUT",
        help="the folder for scores.json and classes.csv",
    )
    segment_flags.add_overwrite(results)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: print(score_files(**flags)))


if __name__ == "__main__":
    sys.exit(main())
