"""Re-labels segment files by the ontology, for any training code.

    python -m data_prep.relabel \
        --segments=balanced_train_segments.csv,unbalanced_train_segments.csv.gz \
        --output=labels.parquet

`ol` are the raters' labels, and `pel` these and all of their ancestors. `masked` are the classes
that are unknown for the clip, because the raters chose only something more general: leave them out
of the loss and the metric (relabel_jax/labels/labelings.py).
"""

import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from data_prep import segment_flags
from data_prep.segments import GroupedSegments, read_segments
from data_prep.segments_csv import write_segments
from relabel_jax import cli
from relabel_jax.files import complete_file
from relabel_jax.labels.labelings import relabel_sparse
from relabel_jax.labels.ontology import Ontology

FORMATS = ("parquet", "csv", "npz")
ROWS_PER_GROUP = 1 << 16

_Path = str | pathlib.Path
_Writer = Callable[[BinaryIO, "Relabelled"], None]


def relabel_files(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output: _Path,
    format: str = "parquet",
    classes: str = "all",
    unknown: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Re-labels segment files into one table, in the order of the input; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files.
      output: the file to write; `csv` writes two files, with `.pel.csv` and `.pe_cml.csv` for the
        suffix.
      format: one of `FORMATS`.
      classes: `all` classes of the ontology, or only those `used` as original labels in these
        segments. Labels are expanded over all classes in either case.
      unknown: `refuse` or `drop` labels that are not in the ontology.
      overwrite: whether an output that exists is replaced.

    Raises:
      InputError: an input is wrong, the output exists, or it cannot be written.
    """
    began = time.monotonic()
    output = pathlib.Path(output)
    stem = output.with_suffix("") if output.suffix == ".csv" else output
    writers: dict[str, dict[pathlib.Path, _Writer]] = {
        "parquet": {output: write_parquet},
        "csv": {
            stem.with_name(f"{stem.name}.pel.csv"): _write_pel_csv,
            stem.with_name(f"{stem.name}.pe_cml.csv"): _write_pe_cml_csv,
        },
        "npz": {output: _write_npz},
    }
    outputs = writers[format]
    if not overwrite:
        for path in outputs:
            segment_flags.refuse_existing(path)
    the_ontology = Ontology.read(ontology)
    table = read_segments(segments, the_ontology, unknown=unknown)
    labels = Relabelled(table, the_ontology, classes)
    for path, write in outputs.items():
        with complete_file(path) as temporary, open(temporary, "wb") as file:
            write(file, labels)
    _summarise(labels, list(outputs), time.monotonic() - began)


class Relabelled:
    """Segments and their three kinds of labels over the chosen classes.

    Attributes:
      segments: the segments.
      mids, display_names: the chosen classes, in the ontology's order.
      ol, pel, masked: bool[sets, chosen classes], sparse: the labels for each distinct label set.
    """

    def __init__(self, segments: GroupedSegments, ontology: Ontology, classes: str = "all"):
        pel, masked = relabel_sparse(segments.label_sets, ontology.is_ancestor, "pe_cml")
        if classes == "used":
            columns = np.unique(segments.label_sets.indices)
        else:
            columns = np.arange(len(ontology))
        self.segments = segments
        self.mids = [ontology.mids[column] for column in columns]
        self.display_names = [ontology.display_names[column] for column in columns]
        self.ol, self.pel, self.masked = (
            _columns(sets, columns) for sets in (segments.label_sets, pel, masked)
        )

    def mean_per_clip(self, sets: sparse.csr_array) -> float:
        """The mean number of labels of a clip, from bool[sets, classes]."""
        return float(np.diff(sets.indptr) @ self.segments.clips_per_set) / len(self.segments)


def _columns(sets: sparse.csr_array, columns: np.ndarray) -> sparse.csr_array:
    chosen = sets[:, columns]
    chosen.sort_indices()
    return chosen


def write_parquet(file: BinaryIO, labels: Relabelled, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Writes a row for each clip: clip_id, start_s, end_s, and ol, pel, masked as lists of mids.

    The lists are written from class numbers, so that no string is encoded twice; readers see lists
    of strings.

    Args:
      file: opened for writing bytes.
      labels: the labels.
      rows_per_group: the rows that a writer or reader holds at once.
    """
    table = labels.segments
    lists = {
        name: _dictionary_lists(sets, labels.mids)
        for name, sets in (("ol", labels.ol), ("pel", labels.pel), ("masked", labels.masked))
    }
    schema = pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            *(pa.field(name, column.type, nullable=False) for name, column in lists.items()),
        ]
    )

    def group(first: int) -> pa.Table:
        rows = slice(first, first + rows_per_group)
        numbers = pa.array(table.set_numbers[rows])
        columns = [table.clip_ids[rows], table.start_s[rows], table.end_s[rows]]
        columns += [column.take(numbers) for column in lists.values()]
        return pa.table(columns, schema=schema)

    with (
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[f"{name}.list.element" for name in lists],
            write_statistics=False,
            store_schema=False,  # it would make pyarrow read dictionaries in place of strings
        ) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        # The groups are gathered while others are written; all of AudioSet's take 0.3 GB.
        for rows in pool.map(group, range(0, len(table), rows_per_group)):
            writer.write_table(rows)


def _dictionary_lists(sets: sparse.csr_array, mids: Sequence[str]) -> pa.ListArray:
    """list<dictionary<string>> [sets]: the mids of each row of bool[sets, classes]."""
    elements = pa.DictionaryArray.from_arrays(
        pa.array(sets.indices, pa.int16()), pa.array(mids, pa.string())
    )
    return pa.ListArray.from_arrays(pa.array(sets.indptr, pa.int32()), elements)


def _write_pel_csv(file: BinaryIO, labels: Relabelled) -> None:
    _write_csv(file, labels, "pel", {"positive_labels": labels.pel})


def _write_pe_cml_csv(file: BinaryIO, labels: Relabelled) -> None:
    columns = {"positive_labels": labels.pel, "masked_labels": labels.masked}
    _write_csv(file, labels, "pe_cml", columns)


def _write_csv(
    file: BinaryIO, labels: Relabelled, labeling: str, columns: dict[str, sparse.csr_array]
) -> None:
    table = labels.segments
    write_segments(
        file,
        clip_ids=table.clip_ids,
        start_s=table.start_s,
        end_s=table.end_s,
        label_columns=columns,
        set_numbers=table.set_numbers,
        mids=labels.mids,
        title=f"Segments csv re-labelled by relabel_jax: {labeling}",
    )


def _write_npz(file: BinaryIO, labels: Relabelled) -> None:
    table = labels.segments
    np.savez_compressed(
        file,
        clip_ids=np.array(table.clip_ids.to_pylist()),
        start_s=table.start_s,
        end_s=table.end_s,
        mids=np.array(labels.mids),
        display_names=np.array(labels.display_names),
        **{
            name: np.packbits(sets.toarray(), axis=1)[table.set_numbers]
            for name, sets in (("ol", labels.ol), ("pel", labels.pel), ("masked", labels.masked))
        },
    )


def _summarise(labels: Relabelled, outputs: Sequence[pathlib.Path], seconds: float) -> None:
    table = labels.segments
    num_sets = table.label_sets.shape[0]
    lines = [
        f"clips             {len(table):,}, with {num_sets:,} different label sets",
        f"classes           {len(labels.mids)}",
        f"labels per clip   {labels.mean_per_clip(labels.ol):.3f} ol, "
        f"{labels.mean_per_clip(labels.pel):.3f} pel, "
        f"{labels.mean_per_clip(labels.masked):.3f} masked",
    ]
    if table.dropped:
        without = int(table.clips_per_set[np.diff(table.label_sets.indptr) == 0].sum())
        total = sum(table.dropped.values())
        lines += [
            f"dropped labels    {total:,} of {len(table.dropped)} unknown mids; "
            f"{without:,} clips have none left",
            *(f"  {mid}  {count:,}" for mid, count in table.dropped.items()),
        ]
    for path in outputs:
        lines.append(f"written           {path} ({path.stat().st_size / 1e6:,.1f} MB)")
    lines.append(f"time              {seconds:.1f} s")
    print(*lines, sep="\n", file=sys.stderr)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.relabel",
        "Re-labels AudioSet's segment files by the ontology: every clip's original "
        "labels (ol), these and all of their ancestors (pel), and the classes that are unknown "
        "(masked), which belong out of the loss and the metric.",
        epilog="""\
formats:
  parquet  a row for each segment in input order: clip_id, start_s, end_s, and ol, pel, masked
           as lists of mids in the ontology's order
  csv      AudioSet's own form, for loaders that read it: labels.csv gives labels.pel.csv and
           labels.pe_cml.csv, which has the masked mids as a fifth, quoted column
  npz      for NumPy: clip_ids, start_s, end_s, mids and display_names (the order of the classes),
           and ol, pel, masked as uint8[clips, bytes];
           numpy.unpackbits(x, axis=1, count=len(mids)) has a column for each class

example:
  python -m data_prep.relabel --output=labels.parquet \\
      --segments=META/balanced_train_segments.csv,META/unbalanced_train_segments.csv""",
    )
    segment_flags.add_inputs(parser)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="the file to write")
    add("--format", choices=FORMATS, default="parquet", help="(default: %(default)s)")
    add(
        "--classes",
        choices=("all", "used"),
        default="all",
        help="all classes of the ontology, or only those that are original labels in these "
        "segments (AudioSet: 527 of 632); ancestors are found over all classes in either case "
        "(default: %(default)s)",
    )
    segment_flags.add_unknown(parser)
    segment_flags.add_overwrite(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: relabel_files(**flags))


if __name__ == "__main__":
    sys.exit(main())
