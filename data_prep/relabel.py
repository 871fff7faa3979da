"""Re-labels segment files by the ontology, for any training code.

    python -m data_prep.relabel --segments=META --output=labels.parquet

`ol` are the raters' labels. `pel` are these and all of their ancestors. `masked` are the classes
that are unknown for the clip, because the raters chose only something more general: leave them out
of the loss and the metric (relabel_jax/labels/labelings.py).
"""

import argparse
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from data_prep import label_formats
from data_prep.label_formats import Relabelled
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.labels import segment_flags
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

FORMATS = ("parquet", "csv", "npz", "torch", "ast_json")

_Path = str | pathlib.Path
_Writer = Callable[[BinaryIO, Relabelled], None]


def relabel_files(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output: _Path,
    format: str = "parquet",
    classes: str | None = None,
    wav: str | None = None,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Re-labels segment files into one table, in the order of the input; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files, or folders with AudioSet's.
      output: the file to write; `csv` writes two files, with `.pel.csv` and `.pe_cml.csv` for the
        suffix.
      format: one of `FORMATS`.
      classes: `all` classes of the ontology, or only those `used` as original labels in these
        segments. Labels are expanded over all classes in either case. None means `used` for
        `ast_json`, whose readers know no other classes, and `all` for the other formats.
      wav: for `ast_json`, the path of a clip's recording, as `label_formats.write_ast_json` says.
      unknown: `refuse` or `drop` labels that are not in the ontology.
      overwrite: whether an output that exists is replaced.

    Raises:
      InputError: an input is wrong, the output exists, or it cannot be written.
    """
    began = time.monotonic()
    writers = _writers(format, pathlib.Path(output), wav)
    if not overwrite:
        for path in writers:
            segment_flags.refuse_existing(path)
    the_ontology = Ontology.read(ontology)
    table = read_segments(segment_flags.segment_files(segments), the_ontology, unknown=unknown)
    if classes is None:
        classes = "used" if format == "ast_json" else "all"
    labels = Relabelled(table, the_ontology, classes)
    for path, write in writers.items():
        with complete_file(path) as temporary, open(temporary, "wb") as file:
            write(file, labels)
    _summarise(labels, list(writers), format, time.monotonic() - began)


def _writers(format: str, output: pathlib.Path, wav: str | None) -> Mapping[pathlib.Path, _Writer]:
    """By path of an output, the function that writes it."""
    if (wav is None) != (format != "ast_json"):
        raise InputError(
            "--format=ast_json needs --wav, the paths of the recordings, such as "
            "--wav=/data/audioset/{clip_id}.wav; no other format has it"
        )
    if format == "csv":
        stem = output.with_suffix("") if output.suffix == ".csv" else output
        return {
            stem.with_name(f"{stem.name}.pel.csv"): label_formats.write_pel_csv,
            stem.with_name(f"{stem.name}.pe_cml.csv"): label_formats.write_pe_cml_csv,
        }
    if wav is not None:
        label_formats.check_wav(wav)
        return {output: functools.partial(label_formats.write_ast_json, wav=wav)}
    writers: dict[str, _Writer] = {
        "parquet": label_formats.write_parquet,
        "npz": label_formats.write_npz,
        "torch": label_formats.write_torch,
    }
    return {output: writers[format]}


def _summarise(
    labels: Relabelled, outputs: Sequence[pathlib.Path], format: str, seconds: float
) -> None:
    table = labels.segments
    num_sets = table.label_sets.shape[0]
    lines = [
        f"clips             {len(table):,}, with {num_sets:,} different label sets",
        f"classes           {len(labels.mids)}",
        f"labels per clip   {labels.mean_per_clip(labels.ol):.3f} ol, "
        f"{labels.mean_per_clip(labels.pel):.3f} pel, "
        f"{labels.mean_per_clip(labels.masked):.3f} masked",
    ]
    without = int(table.clips_per_set[np.diff(table.label_sets.indptr) == 0].sum())
    if table.dropped:
        total = sum(table.dropped.values())
        lines += [
            f"dropped labels    {total:,} of {len(table.dropped)} unknown mids; "
            f"{without:,} clips have none left",
            *(f"  {mid}  {count:,}" for mid, count in table.dropped.items()),
        ]
    for path in outputs:
        lines.append(f"written           {path} ({path.stat().st_size / 1e6:,.1f} MB)")
    lines.append(f"time              {seconds:.1f} s")
    if format == "ast_json" and without:
        lines.append(f"left out          {without:,} clips without labels, which AST cannot load")
    if warning := _WARNINGS.get(format):
        lines.append(f"WARNING: {warning}")
    print(*lines, sep="\n", file=sys.stderr)


_WARNINGS = {
    "csv": "a loader that ignores the fifth column of the pe_cml.csv trains on PEL, "
    "not on PE-CML: its unknown classes then count as absent",
    "ast_json": "a loader that ignores the key 'masked', as those of AST and PSLA do, trains on "
    "PEL, not on PE-CML: its unknown classes then count as absent",
}


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    command = cli.program("data_prep.relabel")
    parser = cli.parser(
        "data_prep.relabel",
        "Re-labels AudioSet's segment files by the ontology and writes one table: for every clip "
        "its original labels (ol), these and all of their ancestors (pel), and the classes that "
        "are unknown (masked), which belong out of the loss and the metric.",
        epilog=f"""\
formats:
  parquet   a row for each segment in input order: clip_id, start_s, end_s, and ol, pel, masked
            as lists of mids in the ontology's order
  csv       AudioSet's own form, for loaders that read it: labels.csv gives labels.pel.csv and
            labels.pe_cml.csv, which has the masked mids as a fifth, quoted column.
            A loader that ignores this column trains on PEL, not on PE-CML
  npz       for NumPy: clip_ids, start_s, end_s, mids and display_names (the order of the classes),
            and ol, pel, masked as uint8[clips, bytes];
            numpy.unpackbits(x, axis=1, count=len(mids)) has a column for each class
  torch     a table for relabel_jax.labels.torch, which opens it by memory map
  ast_json  the data file of AST and PSLA, with the masked mids under the key "masked".
            A loader that ignores this key, as theirs do, trains on PEL, not on PE-CML

examples:
  {command} --segments=META --output=labels.parquet
  {command} --segments=META/balanced_train_segments.csv \\
      --format=torch --output=labels.npz
  {command} --segments=META/balanced_train_segments.csv \\
      --format=ast_json --wav='/data/audioset/Y{{clip_id}}.wav' --output=balanced.json

META is the folder that {cli.program("data_prep.metadata")} fills. A report goes to stderr.""",
    )
    segment_flags.add_inputs(parser)
    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--output", required=True, metavar="FILE", help="the file to write")
    add("--format", choices=FORMATS, default="parquet", help="(default: %(default)s)")
    add(
        "--wav",
        metavar="PATH",
        help="for ast_json, the path of a clip's recording, with {clip_id}; {start_s}, {end_s}, "
        "{start_ms} and {end_ms} are its times as whole numbers",
    )
    segment_flags.add_overwrite(output)
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--classes",
        choices=("all", "used"),
        help="all classes of the ontology, or only those that are original labels in these "
        "segments (AudioSet: 527 of 632, in the order of class_labels_indices.csv); ancestors are "
        "found over all classes in either case (default: used for ast_json, else all)",
    )
    segment_flags.add_unknown(labels)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: relabel_files(**flags))


if __name__ == "__main__":
    sys.exit(main())
