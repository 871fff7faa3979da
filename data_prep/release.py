"""Writes all labelings of AudioSet as a data set to publish: no user then needs this package.

    python -m data_prep.release --segments=META --output_dir=LABELS

The folder has, for each labeling and each segment file, the labels as Parquet and as npz; the
classes; checksums; and a data set card (`README.md`) in the form that Hugging Face reads. The same
input gives the same bytes with the same versions of NumPy and pyarrow.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re
import string
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import numpy as np
from scipy import sparse

import relabel_jax
from data_prep import label_formats
from data_prep.relabelled import Column, Relabelled, relabel_segments
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, left_behind, refuse_existing, written_together
from relabel_jax.labels import class_indices, segment_flags
from relabel_jax.labels.labelings import LABELINGS, label_columns
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments, read_segments

CARD = "README.md"
CHECKSUMS = "SHA256SUMS"

_Path = str | pathlib.Path
_TEMPLATE = pathlib.Path(__file__).with_name("release_card.md")
_FORMATS: Mapping[str, Callable[..., None]] = {
    "parquet": label_formats.write_parquet,
    "npz": label_formats.write_npz,
}
_SPLIT = re.compile(r"\w+(\.\w+)*", re.ASCII)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

_PE_CML = (
    'T. Grzywalski and D. Botteldooren, "Automatic re-labeling of Google AudioSet for improved '
    'quality of learned features and pre-training".'
)
_HLP = '"Hierarchical Label Propagation", ICASSP 2025, arXiv 2503.21826.'


@dataclasses.dataclass(frozen=True)
class _Definition:
    """A labeling as the card explains it: its positive and masked labels, and its publication."""

    positive: str
    masked: str = "none"
    source: str | None = None


_DEFINITIONS = {
    "ol": _Definition("L"),
    "pel": _Definition("L and all ancestors of L in the ontology", source=_PE_CML),
    "pe_cml": _Definition("as `pel`", "all descendants of the general labels in L", source=_PE_CML),
    "hlp": _Definition(
        "L and, from each label upwards, the nearest used ancestor while there is exactly one",
        source=_HLP,
    ),
    "entailed": _Definition(
        "L and the ancestors that lie on every path from a label up to a root",
        "as `pe_cml`, and the other ancestors of L",
    ),
}


def release(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output_dir: _Path,
    overwrite: bool = False,
) -> None:
    """Writes the folder; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files, or folders with AudioSet's. Each file is a split, whose name is that
        of the file without `_segments` and extension.
      output_dir: the folder.
      overwrite: whether a release in the folder is replaced.

    Raises:
      InputError: an input is wrong, the folder has a release, or a file cannot be written.
    """
    began = time.monotonic()
    folder = pathlib.Path(output_dir)
    last = folder / CARD, folder / CHECKSUMS
    if not overwrite:
        refuse_existing(*last)
    the_ontology = Ontology.read(ontology)
    files = segment_flags.segment_files(segments)
    splits = _split_names(files)
    table = read_segments(files, the_ontology)
    # They are written last, so a folder that has them is complete.
    for path in last:
        with contextlib.suppress(OSError):
            path.unlink()
    output = _Folder(folder)
    totals = {labeling: np.zeros(2, np.int64) for labeling in LABELINGS}
    ends = np.cumsum(table.clips_per_file)
    for split, num_clips, end in zip(splits, table.clips_per_file, ends, strict=True):
        rows = np.arange(end - num_clips, end)
        labels = relabel_segments(table.take(rows), the_ontology, labelings=LABELINGS)
        for labeling in LABELINGS:
            one = _uniform(labels, labeling)
            totals[labeling] += [column.labels_per_clip.sum() for column in one.columns.values()]
            for suffix, write in _FORMATS.items():
                output.write(f"{labeling}/{split}.{suffix}", functools.partial(write, labels=one))
    used = np.unique(table.label_sets.indices).tolist()
    all_classes = range(len(the_ontology))
    output.write_text("classes.csv", class_indices.class_indices_text(the_ontology, all_classes))
    output.write_text(class_indices.FILE_NAME, class_indices.class_indices_text(the_ontology, used))
    with written_together(*last):
        output.write_text(CARD, _card(table, splits, totals, the_ontology))
        output.write_text(CHECKSUMS, output.checksums())
    print(
        f"clips   {len(table):,} in the splits {', '.join(splits)}",
        f"time    {time.monotonic() - began:.1f} s",
        f"next: hf upload USER/DATASET {folder} --repo-type=dataset",
        sep="\n",
        file=sys.stderr,
    )


class _Folder:
    """Writes files, tells stderr, and keeps the checksums."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._digests: dict[str, str] = {}

    def write(self, name: str, content: Callable[[BinaryIO], object]) -> None:
        path = self._path / name
        for temporary in left_behind(path):
            temporary.unlink(missing_ok=True)
        with complete_file(path) as temporary:
            with open(temporary, "wb") as file:
                content(file)
            with open(temporary, "rb") as file:
                self._digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        print(f"{path}: {path.stat().st_size:,} bytes", file=sys.stderr)

    def write_text(self, name: str, text: str) -> None:
        self.write(name, lambda file: file.write(text.encode()))

    def checksums(self) -> str:
        """The checksums of all files so far, as `sha256sum` writes them."""
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self._digests.items()))


def _split_names(files: Sequence[pathlib.Path]) -> list[str]:
    """The split of each segment file: `balanced_train` for `balanced_train_segments.csv.gz`."""
    names = [path.name.removesuffix(".gz").removesuffix(".csv") for path in files]
    splits = [name.removesuffix("_segments") for name in names]
    for path, split in zip(files, splits, strict=True):
        if not _SPLIT.fullmatch(split):
            raise InputError(
                f"{path}: {split!r} cannot be the name of a split; expected a file name of "
                "letters, digits and underscores"
            )
        if splits.count(split) > 1:
            raise InputError(f"{path}: another file is the split {split!r} too; rename one of them")
    return splits


def _uniform(labels: Relabelled, labeling: str) -> Relabelled:
    """A labeling alone, with the columns `positive` and `masked` whether or not it masks."""
    positive, masked = label_columns(labeling)
    num_clips = len(labels.segments)
    nothing = Column(
        sparse.csr_array((1, len(labels.mids)), dtype=bool), np.zeros(num_clips, np.int32)
    )
    columns = {
        "positive": labels.columns[positive],
        "masked": labels.columns.get(masked, nothing),
    }
    return dataclasses.replace(labels, columns=columns)


def _card(
    table: GroupedSegments,
    splits: Sequence[str],
    totals: Mapping[str, np.ndarray],
    ontology: Ontology,
) -> str:
    """The data set card."""
    configs = []
    rows = []
    for labeling, definition in _DEFINITIONS.items():
        configs += [f"- config_name: {labeling}"]
        configs += ["  default: true"] if labeling == "pe_cml" else []
        configs += ["  data_files:"]
        for split in splits:
            configs += [f"  - split: {split}", f"    path: {labeling}/{split}.parquet"]
        positive, masked = totals[labeling] / len(table)
        rows.append(
            f"| `{labeling}` | {definition.positive} | {definition.masked} | {positive:.2f} | "
            f"{masked:.2f} |"
        )
    sources: dict[str, list[str]] = {}
    for labeling, definition in _DEFINITIONS.items():
        if definition.source:
            sources.setdefault(definition.source, []).append(f"`{labeling}`")
    return string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        size=next((size for limit, size in _SIZES if len(table) < limit), "1M<n<10M"),
        configs="\n".join(configs),
        clips=f"{len(table):,}",
        labelings=len(LABELINGS),
        table="\n".join(rows),
        splits=", ".join(f"`{split}`" for split in splits),
        split=splits[0],
        classes=len(ontology),
        usable=ontology.is_used.sum(),
        used=len(np.unique(table.label_sets.indices)),
        version=relabel_jax.__version__,
        sources="\n".join(f"- {' and '.join(names)}: {text}" for text, names in sources.items()),
    )


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.release",
        "Writes AudioSet's labels in all labelings as a data set to publish: Parquet and npz for "
        "each labeling and segment file, the classes, checksums, and a data set card with the "
        "licences in the form that Hugging Face reads.",
        epilog="""\
example:
  python -m data_prep.release --segments=META --output_dir=LABELS

META is the folder that python -m data_prep.metadata fills. LABELS gets
  LABELING/SPLIT.parquet   clip_id, start_s, end_s, and positive and masked as lists of mids
  LABELING/SPLIT.npz       the same, with positive and masked as packed bits
  classes.csv, class_labels_indices.csv, README.md, SHA256SUMS
with a split for each segment file: balanced_train for balanced_train_segments.csv.
The labelings are those of python -m data_prep.relabel.""",
    )
    segment_flags.add_inputs(parser, "segment files; each is a split")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_dir",
        required=True,
        type=cli.path,
        metavar="LABELS",
        help="the folder to fill",
    )
    segment_flags.add_overwrite(output)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: release(**flags))


if __name__ == "__main__":
    sys.exit(main())
