"""Degrades complete labels as raters with AudioSet's habits would have given them.

    python -m data_prep.raters --segments=COMPLETE.csv --output=RATED.csv

The complete labels are those of the file and all of their ancestors. For each clip,

1. The raters go down from the roots. At each class that is true they may stop, at the class's rate
   of general labels. They name the class where they stopped, else the most precise true classes.
   A class that raters are never offered is replaced by the nearest ones above it that are.
2. They go up again. Where they named a child, they name its parent at the rate of that edge. If
   they named several children of a parent, they name it at the mean rate of these edges beside
   siblings. A class that is never offered is passed over.

`data_prep/rater_habits.py` has the rates, which are counted in labels. The rate of general labels
is an upper bound: a rater who stops at Guitar may have heard a kind of guitar that AudioSet lacks.

The labels are a subset of the complete ones. Each clip has its own random numbers, from the seed
and its id. So they depend neither on the other clips of a file nor on their order.
"""

import argparse
import hashlib
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from scipy import sparse

from data_prep.audit_counts import audit
from data_prep.rater_habits import Habits
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, refuse_existing, written_together
from relabel_jax.labels import segment_flags
from relabel_jax.labels.labelings import relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments, read_segments
from relabel_jax.labels.segments_csv import write_segments
from relabel_jax.progress import Progress

_CLIPS_AT_ONCE = 1 << 14
_STOP, _CHOOSE = range(2)  # the purposes of random numbers

_Path = str | pathlib.Path


def rate(
    truth: np.ndarray, clip_ids: Sequence[str], ontology: Ontology, habits: Habits, seed: int = 0
) -> np.ndarray:
    """The labels that the raters give.

    Args:
      truth: bool[clips, classes], the true classes with all of their ancestors.
      clip_ids: the ids of the clips.
      ontology: the ontology of the classes.
      habits: the raters' habits.
      seed: seed of the random numbers.

    Returns:
      bool[clips, classes], a subset of `truth`. A clip has a label if one of its true classes is
      offered.
    """
    order = ontology.parents_first
    parents = [np.flatnonzero(ontology.is_parent[:, number]) for number in range(len(ontology))]
    children = [np.flatnonzero(ontology.is_parent[number]) for number in range(len(ontology))]
    keys = _keys(clip_ids, seed)

    stops = np.zeros_like(truth)
    reached = np.zeros_like(truth)
    for number in order:
        has_more = truth[:, children[number]].any(axis=1)
        stops[:, number] = has_more & (_uniform(keys, number, _STOP) < habits.general[number])
        goes_on = reached[:, parents[number]] & ~stops[:, parents[number]]
        is_root = not len(parents[number])
        reached[:, number] = truth[:, number] & (is_root | goes_on.any(axis=1))

    named = np.zeros_like(truth)  # classes that are not offered included
    required = np.zeros_like(truth)  # the classes that stand for a class that is not offered
    for number in reversed(order):
        below = named[:, children[number]]
        goes_on = reached[:, children[number]].any(axis=1)
        is_end = reached[:, number] & (stops[:, number] | ~goes_on)
        must = is_end | required[:, number]
        if habits.is_offered[number]:
            count = below.sum(axis=1)
            alone = below @ habits.parent[number, children[number]]
            beside = below @ habits.parent_of_siblings[number, children[number]]
            rates = np.where(count > 1, beside / np.maximum(count, 1), alone)
            named[:, number] = must | (_uniform(keys, number, _CHOOSE) < rates)
        else:
            named[:, number] = must | below.any(axis=1)
            required[:, parents[number]] |= must[:, None]
    return named & habits.is_offered


def rate_segments(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output: _Path,
    habits: _Path | None = None,
    severity: float = 1.0,
    seed: int = 0,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Writes the labels that raters give to clips whose labels are complete; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files with complete labels, or folders with AudioSet's.
      output: the segment file of the raters' labels. The complete labels, with all ancestors, are
        written beside it as `truth_path(output)`.
      habits: a folder that `data_prep.audit` wrote; None for AudioSet's raters.
      severity: the factor of the odds of every omission; see `Habits.with_severity`.
      seed: seed of the random numbers.
      unknown: `refuse` or `drop` labels that are not in the ontology.
      overwrite: whether outputs that exist are replaced.

    Raises:
      InputError: an input is wrong, an output exists, or it cannot be written.
    """
    if seed < 0:
        raise InputError(f"--seed={seed}: expected a number of at least 0")
    output = pathlib.Path(output)
    if not overwrite:
        refuse_existing(output, truth_path(output))
    the_ontology = Ontology.read(ontology)
    the_habits = Habits.read(habits, the_ontology).with_severity(severity)
    files = segment_flags.segment_files(segments)
    segment_flags.refuse_inputs([output, truth_path(output)], [*files, ontology])
    complete = read_segments(files, the_ontology, unknown=unknown)
    truth_sets, _ = relabel_sparse(complete.label_sets, the_ontology, "pel")
    pieces = []
    with Progress("rating", len(complete), "clips") as progress:
        for first in range(0, len(complete), _CLIPS_AT_ONCE):
            rows = slice(first, first + _CLIPS_AT_ONCE)
            clip_ids = complete.clip_ids[rows].to_pylist()
            truth = truth_sets[complete.set_numbers[rows]].toarray()
            pieces.append(sparse.csr_array(rate(truth, clip_ids, the_ontology, the_habits, seed)))
            progress.update(len(clip_ids))
    rated = sparse.csr_array(sparse.vstack(pieces))
    has_labels = np.diff(rated.indptr) > 0
    if not has_labels.any():
        raise InputError(f"{segments[0]}: raters with these habits would name no label")
    title = f"Segments csv rated by relabel_jax, severity {severity:g}, seed {seed}"
    truth = sparse.csr_array(truth_sets[complete.set_numbers])
    with written_together(output, truth_path(output)):
        _write(truth_path(output), complete, np.arange(len(complete)), truth, the_ontology, "Truth")
        _write(output, complete, np.flatnonzero(has_labels), rated, the_ontology, title)
    # Reading groups the clips by their labels, which the counts need.
    _summarise(output, read_segments([output], the_ontology), truth, has_labels, the_ontology)


def truth_path(output: pathlib.Path) -> pathlib.Path:
    """The name of the complete labels: `RATED.truth.csv` beside `RATED.csv`."""
    return output.with_name(f"{output.name.removesuffix('.csv')}.truth.csv")


def _keys(clip_ids: Sequence[str], seed: int) -> np.ndarray:
    """uint64[clips]: a hash of the seed and each clip's id."""
    digests = [
        hashlib.blake2b(f"{seed} {clip_id}".encode(), digest_size=8).digest()
        for clip_id in clip_ids
    ]
    return np.frombuffer(b"".join(digests), "<u8")


def _uniform(keys: np.ndarray, number: int, purpose: int) -> np.ndarray:
    """float64[clips] in [0, 1): the random number of each clip for a class and a purpose.

    Element `2 * number + purpose` of the sequence SplitMix64 (Steele, Lea and Flood, 2014) that
    begins at the clip's key.
    """
    step = (0x9E3779B97F4A7C15 * (2 * number + purpose + 1)) & 0xFFFFFFFFFFFFFFFF
    mixed = keys + np.uint64(step)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


def _write(
    path: pathlib.Path,
    segments: GroupedSegments,
    rows: np.ndarray,
    labels: sparse.csr_array,
    ontology: Ontology,
    title: str,
) -> None:
    """Writes these rows of the segments with the labels bool[clips, classes]."""
    with complete_file(path) as temporary, open(temporary, "wb") as file:
        write_segments(
            file,
            clip_ids=segments.clip_ids.take(pa.array(rows)),
            start_s=segments.start_s[rows],
            end_s=segments.end_s[rows],
            label_columns={"positive_labels": labels},
            set_numbers=rows.astype(np.int32),
            mids=ontology.mids,
            title=title,
        )


def _summarise(
    output: pathlib.Path,
    rated: GroupedSegments,
    truth: sparse.csr_array,
    has_labels: np.ndarray,
    ontology: Ontology,
) -> None:
    result = audit(rated, ontology, [output.name])
    if nameless := int((~has_labels).sum()):
        print(
            f"warning: {nameless:,} clips have no class that raters are offered; they are left "
            "out of the raters' labels",
            file=sys.stderr,
        )
    lines = [
        f"clips                               {len(rated):,}",
        f"true labels per clip                {truth.nnz / truth.shape[0]:.2f}",
        f"raters' labels per clip             {result['files'][0]['ol']:.2f}",
        f"clips with only general labels      "
        f"{result['general']['share_with_only_general_labels']:.2%}",
    ]
    if (share := result["parent_chosen_too"]["share"]) is not None:
        lines.append(f"labels whose parent was chosen too  {share:.2%}")
    lines.append(f"written {output} and {truth_path(output)}")
    lines.append(
        f"next: {cli.program('data_prep.judge')} --segments={output} --against={truth_path(output)}"
    )
    print(*lines, sep="\n", file=sys.stderr)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.raters",
        "Degrades complete labels as raters with AudioSet's habits would have given them.",
        epilog=f"""\
example:
  {cli.program("data_prep.raters")} --segments=COMPLETE.csv --output=RATED.csv

RATED.csv has the raters' labels, and RATED.truth.csv the complete labels with all ancestors. Both
are segment files in AudioSet's form. The raters leave out parents, edge by edge, and name general
classes instead of precise ones, at the rates that {cli.program("data_prep.audit")} counts. A
summary goes to stderr.""",
    )
    segment_flags.add_inputs(parser, "one or more segment files with complete labels")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", required=True, type=cli.path, metavar="CSV", help="the segment file to write"
    )
    segment_flags.add_overwrite(output)
    segment_flags.add_unknown(parser.add_argument_group("labels"))
    add = parser.add_argument_group("raters").add_argument
    add(
        "--habits",
        type=lambda text: None if text == "audioset" else cli.path(text),
        metavar="audioset|AUDIT",
        help="the rates of AudioSet's raters, or of others: a folder that "
        f"{cli.program('data_prep.audit')} wrote (default: audioset)",
    )
    add(
        "--severity",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="multiplies the odds of every omission; 0 leaves nothing out (default: %(default)s)",
    )
    seed_help = "the seed of the random numbers (default: %(default)s)"
    add("--seed", type=int, default=0, metavar="N", help=seed_help)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: rate_segments(**flags))


if __name__ == "__main__":
    sys.exit(main())
