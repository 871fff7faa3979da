"""Re-labels segment files by the ontology, for any training code.

    python -m data_prep.relabel --segments=META --output=labels.parquet

`ol` are the raters' labels. `pel` are these and all of their ancestors. `masked` are the classes
that are unknown for the clip, because the raters chose only something more general: leave them out
of the loss and the metric. `--labelings` chooses other labelings (relabel_jax/labels/labelings.py),
and `--labeling_files` adds labelings from files (relabel_jax/labels/label_files.py).
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
from data_prep.relabelled import Relabelled, relabel_segments
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, refuse_existing, written_together
from relabel_jax.labels import segment_flags
from relabel_jax.labels.label_files import LabelFile, read_label_file
from relabel_jax.labels.label_files import labeling_files as parse_labeling_files
from relabel_jax.labels.labelings import LABELINGS, PAPER_LABELINGS, label_columns
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments, read_segments

FORMATS = ("parquet", "csv", "npz", "torch", "ast_json")

# The original labels are the input of `csv`; a file of `ast_json` has one labeling.
_DEFAULT_LABELINGS = {"csv": ("pel", "pe_cml"), "ast_json": ("pe_cml",)}

_Path = str | pathlib.Path
_Writer = Callable[[BinaryIO, Relabelled], None]


def relabel_files(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output: _Path,
    format: str = "parquet",
    labelings: Sequence[str] | None = None,
    labeling_files: str = "",
    classes: str | None = None,
    wav: str | None = None,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Re-labels segment files into one table, in the order of the input; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files, or folders with AudioSet's.
      output: the file to write. `csv` writes a file for each labeling, with `.NAME.csv` for the
        suffix, and so does `ast_json` if there are several labelings.
      format: one of `FORMATS`.
      labelings: names of `LABELINGS` and of `labeling_files`, in the order of the columns. None
        means `PAPER_LABELINGS`; for `csv`, `pel` and `pe_cml`; for `ast_json`, `pe_cml`.
      labeling_files: labelings from files, `NAME=FILE,NAME=FILE`. Each file must have all clips.
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
    if labelings is None:
        labelings = _DEFAULT_LABELINGS.get(format, PAPER_LABELINGS)
    paths = parse_labeling_files(labeling_files)
    _check_labelings(labelings, paths)
    writers = _writers(format, pathlib.Path(output), labelings, wav)
    if not overwrite:
        refuse_existing(*writers)
    segment_paths = segment_flags.segment_files(segments)
    segment_flags.refuse_inputs(writers, [*segment_paths, *paths.values(), ontology])
    the_ontology = Ontology.read(ontology)
    table = read_segments(segment_paths, the_ontology, unknown=unknown)
    files = {
        name: read_label_file(path, the_ontology, name, unknown) for name, path in paths.items()
    }
    if classes is None:
        classes = "used" if format == "ast_json" else "all"
    labels = relabel_segments(table, the_ontology, classes, labelings, files)
    with written_together(*writers):
        for path, write in writers.items():
            with complete_file(path) as temporary, open(temporary, "wb") as file:
                write(file, labels)
    _summarise(labels, labelings, files, list(writers), format, time.monotonic() - began)


def _check_labelings(labelings: Sequence[str], files: Mapping[str, pathlib.Path]) -> None:
    known = (*LABELINGS, *files)
    for name in labelings:
        if name not in known:
            raise InputError(
                f"--labelings: {name!r} is none of {', '.join(known)}; a labeling from a file "
                f"needs --labeling_files={name or 'NAME'}=FILE"
            )
    if len(set(labelings)) < len(labelings):
        raise InputError(f"--labelings={','.join(labelings)}: expected each name once")
    if unused := [name for name in files if name not in labelings]:
        raise InputError(
            f"--labeling_files: {unused[0]!r} is not in --labelings; expected "
            f"--labelings={','.join([*labelings, *unused])}, or no file of that name"
        )


def _writers(
    format: str, output: pathlib.Path, labelings: Sequence[str], wav: str | None
) -> Mapping[pathlib.Path, _Writer]:
    """By path of an output, the function that writes it."""
    if (wav is None) != (format != "ast_json"):
        raise InputError(
            "--format=ast_json needs --wav, the paths of the recordings, such as "
            "--wav=/data/audioset/{clip_id}.wav; no other format has it"
        )
    if format == "csv":
        return {
            _with_name(output, name, ".csv"): functools.partial(
                label_formats.write_csv, labeling=name
            )
            for name in labelings
        }
    if wav is not None:
        label_formats.check_wav(wav)
        return {
            output if len(labelings) == 1 else _with_name(output, name, ".json"): functools.partial(
                label_formats.write_ast_json, labeling=name, wav=wav
            )
            for name in labelings
        }
    writers: dict[str, _Writer] = {
        "parquet": label_formats.write_parquet,
        "npz": label_formats.write_npz,
        "torch": label_formats.write_torch,
    }
    return {output: writers[format]}


def _with_name(output: pathlib.Path, labeling: str, suffix: str) -> pathlib.Path:
    """The path with `.LABELING` before the suffix: `labels.csv` gives `labels.pel.csv`."""
    stem = output.with_suffix("") if output.suffix == suffix else output
    return stem.with_name(f"{stem.name}.{labeling}{suffix}")


def _summarise(
    labels: Relabelled,
    labelings: Sequence[str],
    files: Mapping[str, LabelFile],
    outputs: Sequence[pathlib.Path],
    format: str,
    seconds: float,
) -> None:
    table = labels.segments
    num_sets = table.label_sets.shape[0]
    original = np.diff(table.label_sets.indptr) @ table.clips_per_set / len(table)
    means = {"ol": original} | {name: labels.mean_per_clip(name) for name in labels.columns}
    lines = [
        f"clips             {len(table):,}, with {num_sets:,} different label sets",
        f"classes           {len(labels.mids)}",
        f"labels per clip   {', '.join(f'{mean:.3f} {name}' for name, mean in means.items())}",
        *_dropped_lines(table, files),
    ]
    for path in outputs:
        lines.append(f"written           {path} ({path.stat().st_size / 1e6:,.1f} MB)")
    lines.append(f"time              {seconds:.1f} s")
    if format == "ast_json":
        lines += _left_out_lines(labels, labelings)
    lines += [f"WARNING: {warning}" for warning in _warnings(labels, labelings, format)]
    print(*lines, sep="\n", file=sys.stderr)


def _dropped_lines(table: GroupedSegments, files: Mapping[str, LabelFile]) -> list[str]:
    lines = []
    if table.dropped:
        total = sum(table.dropped.values())
        without = int(table.clips_per_set[np.diff(table.label_sets.indptr) == 0].sum())
        lines = [
            f"dropped labels    {total:,} of {len(table.dropped)} unknown mids; "
            f"{without:,} clips have none left",
            *(f"  {mid}  {count:,}" for mid, count in table.dropped.items()),
        ]
    for name, file in files.items():
        if file.dropped:
            total = sum(file.dropped.values())
            mids = f"{len(file.dropped)} unknown mids"
            lines.append(f"dropped labels    {total:,} of {mids} in {name}, {file.path}")
    return lines


def _left_out_lines(labels: Relabelled, labelings: Sequence[str]) -> list[str]:
    lines = []
    for name in labelings:
        column = labels.columns[label_columns(name)[0]]
        if without := int((column.labels_per_clip == 0).sum()):
            which = "" if len(labelings) == 1 else f" in {name}"
            lines.append(
                f"left out          {without:,} clips without labels{which}, which AST cannot load"
            )
    return lines


def _warnings(labels: Relabelled, labelings: Sequence[str], format: str) -> list[str]:
    """Says how a loader trains that ignores the masked labels of a file that has them."""
    warnings = []
    for name in labelings:
        instead = "PEL, not on PE-CML" if name == "pe_cml" else f"the positives of {name} alone"
        ignored = {
            "csv": f"the fifth column of the {name}.csv trains on {instead}",
            "ast_json": "the key 'masked', as those of AST and PSLA do, trains on " + instead,
        }.get(format)
        if ignored and label_columns(name)[1] in labels.columns:
            warnings.append(
                f"a loader that ignores {ignored}: its unknown classes then count as absent"
            )
    return warnings


_EPILOG = """\
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

labelings:
  ol        the original labels
  pel       and all of their ancestors
  pe_cml    the labels of pel; masked are the descendants of general labels
  hlp       and the nearest used ancestors, while there is exactly one
  entailed  and the ancestors on every path to a root; masked are the descendants of general labels
            and the other ancestors
  NAME      the labels of a file that --labeling_files names: Parquet, CSV or the JSON of AST
A labeling's columns are NAME and, if it masks, NAME_masked. Those of pe_cml are pel and masked.
csv writes labels.NAME.csv for each labeling, and ast_json labels.NAME.json if there are several.

examples:
  python -m data_prep.relabel --segments=META --output=labels.parquet
  python -m data_prep.relabel --segments=META/balanced_train_segments.csv \\
      --format=torch --output=labels.npz
  python -m data_prep.relabel --segments=META/balanced_train_segments.csv \\
      --format=ast_json --wav='/data/audioset/Y{clip_id}.wav' --output=balanced.json
  python -m data_prep.relabel --segments=META --output=labels.parquet \\
      --labelings=ol,pel,pe_cml,hlp,entailed,mine --labeling_files=mine=my_labels.csv

META is the folder that python -m data_prep.metadata fills. A report goes to stderr."""


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.relabel",
        "Re-labels AudioSet's segment files by the ontology and writes one table: for every clip "
        "its original labels (ol), these and all of their ancestors (pel), and the classes that "
        "are unknown (masked), which belong out of the loss and the metric.",
        epilog=_EPILOG,
    )
    segment_flags.add_inputs(parser)
    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--output", required=True, type=cli.path, metavar="FILE", help="the file to write")
    add("--format", choices=FORMATS, default="parquet", help="(default: %(default)s)")
    add(
        "--wav",
        metavar="PATH",
        help="for ast_json, the path of a clip's recording, with {clip_id}; {start_s}, {end_s}, "
        "{start_ms} and {end_ms} are its times as whole numbers",
    )
    segment_flags.add_overwrite(output)
    labels = parser.add_argument_group("labels")
    segment_flags.add_labelings(labels, "ol,pel,pe_cml; for csv pel,pe_cml; for ast_json pe_cml")
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
