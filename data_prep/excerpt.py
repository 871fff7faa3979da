"""Draws a set of the paper's size: small files whole, and clips with rare labels from a large one.

    python -m data_prep.excerpt --segments=META --have=ids.txt --output=excerpt.csv

The paper says only that it took all available recordings of AudioSet's balanced and evaluation
sets, and a selection from the unbalanced set "to get more examples of the rare labels". These rules
give its size and its number of original labels:

- The file with the most segments is the pool, and all others are taken whole. A single file is the
  pool.
- Labels are ranked once, rarest first, by the number of clips that exist in whole files and pool
  together.
- Label by label, clips with this original label are drawn from the pool at random, without
  replacement, until min_per_label of the excerpt's clips have it or no clip with it is left. Clips
  that are drawn for one label count for all later labels.

They do not give the paper's other figures: see "A set of the paper's size" in docs/labels.md.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from data_prep.relabelled import relabel_segments
from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, refuse_existing, written_together
from relabel_jax.labels import segment_flags
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments, read_segments
from relabel_jax.labels.segments_csv import write_segments

_Path = str | pathlib.Path


def excerpt(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output: _Path,
    min_per_label: int = 300,
    have: _Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Writes an excerpt of segment files as a segment file; reports on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files, or folders with AudioSet's; the file with the most segments is the
        pool.
      output: the segment file to write.
      min_per_label: the number of clips that each used label should have.
      have: a file with the ids of the clips that exist, one a line; None if all of them do.
      seed: seed of the random draw.
      overwrite: whether an output that exists is replaced.

    Raises:
      InputError: an input is wrong, the output exists, or it cannot be written.
    """
    if min_per_label < 1:
        raise InputError(f"--min_per_label={min_per_label}: expected a number of at least 1")
    if seed < 0:
        raise InputError(f"--seed={seed}: expected a number of at least 0")
    output = pathlib.Path(output)
    if not overwrite:
        refuse_existing(output)
    files = segment_flags.segment_files(segments)
    segment_flags.refuse_inputs([output], [*files, ontology, have])
    the_ontology = Ontology.read(ontology)
    table = read_segments(files, the_ontology)
    exists = np.ones(len(table), bool) if have is None else _existing(table, have)

    pool_file = int(np.argmax(table.clips_per_file))
    file_of_clip = np.repeat(np.arange(len(files)), table.clips_per_file)
    is_pool = file_of_clip == pool_file
    chosen = top_up(
        table.label_sets[table.set_numbers],
        exists & ~is_pool,
        exists & is_pool,
        min_per_label,
        np.random.default_rng(seed),
    )
    result = table.take(np.flatnonzero(chosen))
    with (
        written_together(output),
        complete_file(output) as temporary,
        open(temporary, "wb") as file,
    ):
        write_segments(
            file,
            clip_ids=result.clip_ids,
            start_s=result.start_s,
            end_s=result.end_s,
            label_columns={"positive_labels": result.label_sets},
            set_numbers=result.set_numbers,
            mids=the_ontology.mids,
            title=f"Segments csv excerpted by relabel_jax: {min_per_label} clips a label, "
            f"seed {seed}",
        )
    for number, path in enumerate(files):
        of_file = file_of_clip == number
        print(
            f"{path}: {int((chosen & of_file).sum()):,} of {int((exists & of_file).sum()):,} clips "
            + ("drawn" if number == pool_file else "taken whole"),
            file=sys.stderr,
        )
    _summarise(result, the_ontology, min_per_label, output)


def top_up(
    labels: sparse.csr_array,
    is_whole: np.ndarray,
    is_pool: np.ndarray,
    min_per_label: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Chooses the clips of the excerpt.

    Args:
      labels: bool[clips, classes], sparse, the original labels.
      is_whole: bool[clips], clips that are taken in any case.
      is_pool: bool[clips], clips that may be drawn.
      min_per_label: the number of clips that each label should have.
      rng: draws the clips.

    Returns:
      bool[clips], the chosen clips.
    """
    chosen = is_whole.copy()
    available = _clips_per_class(labels[is_whole | is_pool])
    counts = _clips_per_class(labels[is_whole])
    pool = np.flatnonzero(is_pool)
    clips_of_class = labels[pool].tocsc()
    for label in np.argsort(available, kind="stable"):
        of_label = slice(*clips_of_class.indptr[label : label + 2])
        candidates = np.sort(pool[clips_of_class.indices[of_label]])
        candidates = candidates[~chosen[candidates]]
        missing = min(min_per_label - counts[label], len(candidates))
        if missing > 0:
            drawn = rng.choice(candidates, missing, replace=False)
            chosen[drawn] = True
            counts += _clips_per_class(labels[drawn])
    return chosen


def _clips_per_class(labels: sparse.csr_array) -> np.ndarray:
    return np.bincount(labels.indices, minlength=labels.shape[1])


def _existing(table: GroupedSegments, path: _Path) -> np.ndarray:
    """bool[clips]: whether the clip is in the file of clip ids."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the clip ids: {error}") from error
    ids = pa.array(sorted({line.strip() for line in lines} - {""}), pa.string())
    exists = np.asarray(pc.is_in(table.clip_ids, ids))
    if not exists.any():
        first = f", such as {ids[0].as_py()!r}" if len(ids) else ""
        raise InputError(
            f"{path}: the segments contain none of the {len(ids)} clip ids{first}; expected one "
            "clip id a line"
        )
    if strangers := len(ids) - int(exists.sum()):
        print(f"warning: {path}: {strangers:,} clip ids are not in the segments", file=sys.stderr)
    return exists


def _summarise(
    result: GroupedSegments, ontology: Ontology, minimum: int, output: pathlib.Path
) -> None:
    labels = relabel_segments(result, ontology)
    counts = result.clips_per_set @ result.label_sets.astype(np.int64)
    used = np.flatnonzero(counts)
    rarest = used[counts[used].argmin()]
    print(
        f"clips             {len(result):,}",
        f"labels per clip   {labels.mean_per_clip('ol'):.2f} ol, "
        f"{labels.mean_per_clip('pel'):.2f} pel, "
        f"{labels.mean_per_clip('masked'):.2f} masked",
        f"labels            {len(used)} used, {(counts[used] < minimum).sum()} of them with fewer "
        f"than {minimum} clips",
        f"rarest            {ontology.display_names[rarest]}, {counts[rarest]:,} clips",
        f"written           {output}",
        f"next: {cli.program('data_prep.build')} --segments={output} --audio=FOLDER "
        "--output_dir=DATA",
        sep="\n",
        file=sys.stderr,
    )


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "data_prep.excerpt",
        "Draws a segment file of the paper's size: takes small segment files whole and "
        "adds clips with rare labels from a large one, rarest label first, until each label has "
        "--min_per_label clips or has run out.",
        epilog=f"""\
example (a set of the paper's size: about 103,000 clips if 82% of the clips still exist):
  {cli.program("data_prep.excerpt")} --segments=META --have=ids.txt --output=excerpt.csv

META is the folder that {cli.program("data_prep.metadata")} fills. The result is a segment file in
AudioSet's own form, in the order of the input. A report goes to stderr.

The paper does not state its selection. With 300 clips a label the set has the paper's size and
original labels, but 0.2 fewer labels and 3.8 fewer masked classes a clip than the paper.""",
    )
    segment_flags.add_inputs(
        parser,
        "segment files; clips are drawn from the one with the most segments, the others are taken "
        "whole",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output", required=True, type=cli.path, metavar="CSV", help="the segment file to write"
    )
    segment_flags.add_overwrite(output)
    add = parser.add_argument_group("draw").add_argument
    add(
        "--min_per_label",
        type=int,
        default=300,
        metavar="N",
        help="the number of clips that each label should have (default: %(default)s, which gives "
        "the paper's size)",
    )
    have_help = "a file with the ids of the clips that exist, one a line (default: all exist)"
    add("--have", type=cli.path, metavar="TXT", help=have_help)
    seed_help = "the seed of the random draw (default: %(default)s)"
    add("--seed", type=int, default=0, metavar="N", help=seed_help)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    return cli.run(lambda: excerpt(**flags))


if __name__ == "__main__":
    sys.exit(main())
