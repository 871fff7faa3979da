"""What the raters said and left unsaid: the paper's section II for any segment files.

    python -m data_prep.audit --segments=A.csv,B.csv.gz --output_dir=AUDIT

Leaves in AUDIT: `audit.json` with everything, `files.csv`, `classes.csv` and `edges.csv` as tables,
and `audit.html`, a page with plots that needs nothing but itself.
"""

import argparse
import csv
import io
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from data_prep.outputs import refuse_existing
from data_prep.segments import GroupedSegments, read_segments
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.labels.labelings import relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.report.web_page import fill_page

_PAGE = pathlib.Path(__file__).with_name("audit_page.html")

_EDGE_FIELDS = (
    *("parent", "parent_name", "child", "child_name"),
    *("child_clips", "both_clips", "parent_given_child", "on_offer"),
)

_Path = str | pathlib.Path


def audit(segments: GroupedSegments, ontology: Ontology, files: Sequence[str]) -> dict[str, Any]:
    """Counts of the original labels and of what follows from them.

    Args:
      segments: the segments.
      ontology: their ontology.
      files: what to call each of the segments' files.

    Returns:
      A value for JSON:

      - `files`: for each file, and for all if there are several: `clips`, and labels per clip under
        `ol`; `pel` and `masked`, each over the whole ontology and over the used classes alone.
      - `roots`: for each root, `used_labels` below it, and `clips` with one of them.
      - `parent_chosen_too`: how many of the labels with a parent on offer (used by the raters,
        neither abstract nor blacklisted) stand beside such a parent, and their share: the paper's
        52%.
      - `general`: clips with at least one label of which no descendant was chosen though there are
        some, clips with no other labels, and their shares of all clips.
      - `imbalance`: of the used classes' clips under each labeling: most, fewest above none, their
        ratio, and the Gini coefficient.
      - `classes`: for each class the clips under `ol`, `pel` and `masked`; of the clips under `ol`
        those `with_child` (a child was chosen too) and those that are `general` (no descendant
        was); and `parent_chosen_too`, the share beside a parent on offer, or null.
      - `edges`: for each parent and child with clips: `child_clips`, `both_clips`,
        `parent_given_child` = P(parent chosen | child chosen), and whether the parent is
        `on_offer`.
    """
    labels = segments.label_sets
    is_ancestor = ontology.is_ancestor
    pel, masked = relabel_sparse(labels, is_ancestor, "pe_cml")
    clips_per_set = segments.clips_per_set
    counts = {
        name: _clips_per_class(sets, clips_per_set)
        for name, sets in (("ol", labels), ("pel", pel), ("masked", masked))
    }
    used = counts["ol"] > 0
    if not used.any():
        raise InputError("none of the clips has a label; give the ontology of these segments")

    is_on_offer = used & ~ontology.is_abstract & ~ontology.is_blacklisted
    offered_parent = ontology.is_parent & is_on_offer[:, None]
    has_offered_parent = offered_parent.any(axis=0)
    beside_parent = labels.multiply(labels @ sparse.csr_array(offered_parent)).tocsr()
    beside_parent_clips = _clips_per_class(beside_parent, clips_per_set)
    asked = int(counts["ol"][has_offered_parent].sum())
    answered = int(beside_parent_clips.sum())

    above = labels @ sparse.csr_array(is_ancestor.T)
    is_inner = is_ancestor.any(axis=1)
    general = (labels > above) @ sparse.dia_array((is_inner[None], 0), shape=(len(ontology),) * 2)
    general = sparse.csr_array(general, dtype=bool)
    general.eliminate_zeros()
    num_labels, num_general = np.diff(labels.indptr), np.diff(general.indptr)
    some_general = int(clips_per_set[num_general > 0].sum())
    only_general = int(clips_per_set[(num_general == num_labels) & (num_labels > 0)].sum())
    general_clips = _clips_per_class(general, clips_per_set)
    with_child = labels.multiply(labels @ sparse.csr_array(ontology.is_parent.T)).tocsr()
    with_child_clips = _clips_per_class(with_child, clips_per_set)

    weighted = labels.astype(np.int64).multiply(clips_per_set[:, None]).tocsr()
    together = (labels.astype(np.int64).T @ weighted).toarray()
    num_clips = len(segments)

    return {
        "files": _files(segments, files, {"ol": labels, "pel": pel, "masked": masked}, used),
        "roots": [
            {
                "mid": ontology.mids[root],
                "name": ontology.display_names[root],
                "used_labels": int((used & _with_itself(is_ancestor[root], root)).sum()),
                "clips": int(counts["pel"][root]),
            }
            for root in ontology.roots
        ],
        "parent_chosen_too": {
            "labels_with_a_parent_on_offer": asked,
            "beside_such_a_parent": answered,
            "share": answered / asked if asked else None,
        },
        "general": {
            "clips_with_a_general_label": some_general,
            "share_with_a_general_label": some_general / num_clips,
            "clips_with_only_general_labels": only_general,
            "share_with_only_general_labels": only_general / num_clips,
        },
        "imbalance": {name: _imbalance(counts[name][used]) for name in ("ol", "pel")},
        "classes": [
            {
                "mid": mid,
                "name": ontology.display_names[i],
                "ol": int(counts["ol"][i]),
                "pel": int(counts["pel"][i]),
                "masked": int(counts["masked"][i]),
                "with_child": int(with_child_clips[i]),
                "general": int(general_clips[i]),
                "parent_chosen_too": float(beside_parent_clips[i] / counts["ol"][i])
                if used[i] and has_offered_parent[i]
                else None,
                "is_abstract": bool(ontology.is_abstract[i]),
                "is_blacklisted": bool(ontology.is_blacklisted[i]),
            }
            for i, mid in enumerate(ontology.mids)
        ],
        "edges": [
            {
                "parent": ontology.mids[parent],
                "parent_name": ontology.display_names[parent],
                "child": ontology.mids[child],
                "child_name": ontology.display_names[child],
                "child_clips": int(counts["ol"][child]),
                "both_clips": int(together[parent, child]),
                "parent_given_child": float(together[parent, child] / counts["ol"][child]),
                "on_offer": bool(is_on_offer[parent]),
            }
            for parent, child in np.argwhere(ontology.is_parent & used)
        ],
    }


def _clips_per_class(sets: sparse.csr_array, clips_per_set: np.ndarray) -> np.ndarray:
    """int64[classes]: clips with each class, from bool[sets, classes]."""
    return clips_per_set @ sets.astype(np.int64)


def _with_itself(is_descendant: np.ndarray, root: int) -> np.ndarray:
    both = is_descendant.copy()
    both[root] = True
    return both


def _files(
    segments: GroupedSegments,
    names: Sequence[str],
    sets: Mapping[str, sparse.csr_array],
    used: np.ndarray,
) -> list[dict[str, Any]]:
    ends = np.cumsum(segments.clips_per_file)
    rows = [
        (name, segments.set_numbers[end - count : end])
        for name, end, count in zip(names, ends, segments.clips_per_file, strict=True)
    ]
    if len(rows) > 1:
        rows.append(("all", segments.set_numbers))
    over_used = used.astype(np.int64)
    return [
        {
            "file": name,
            "clips": len(numbers),
            "ol": float(np.diff(sets["ol"].indptr)[numbers].mean()),
            "pel": float(np.diff(sets["pel"].indptr)[numbers].mean()),
            "pel_used": float((sets["pel"] @ over_used)[numbers].mean()),
            "masked": float(np.diff(sets["masked"].indptr)[numbers].mean()),
            "masked_used": float((sets["masked"] @ over_used)[numbers].mean()),
        }
        for name, numbers in rows
    ]


def _imbalance(clips: np.ndarray) -> dict[str, float]:
    """Of the clips of each class, all above zero."""
    ranked = np.sort(clips)
    position = np.arange(1, len(ranked) + 1)
    gini = (2 * position - len(ranked) - 1) @ ranked / (len(ranked) * ranked.sum())
    most, fewest = int(ranked[-1]), int(ranked[0])
    return {"most": most, "fewest": fewest, "ratio": most / fewest, "gini": float(gini)}


def page(result: Mapping[str, Any], ontology: Ontology) -> str:
    """The self-contained page.

    Raises:
      InputError: plotly is not installed.
    """
    data = dict(result, tree=_tree(result["classes"], ontology))
    return fill_page(_PAGE, data, "audit")


def _tree(classes: Sequence[Mapping[str, Any]], ontology: Ontology) -> list[dict[str, Any]]:
    """A node for every path from a root: a class with several parents has several nodes.

    The class's own clips are shared out evenly among its nodes, so that the areas add up.
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


def _table(rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()) -> bytes:
    """A CSV; its columns are those of the first row, or `fields` where there may be none."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=fields or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def audit_files(
    *,
    ontology: _Path | None = None,
    segments: Sequence[_Path],
    output_dir: _Path,
    unknown: str = "refuse",
    overwrite: bool = False,
) -> None:
    """Audits segment files into a folder; tells of it on stderr.

    Args:
      ontology: a file in the form of AudioSet's ontology.json; None for AudioSet's own.
      segments: segment files.
      output_dir: the folder.
      unknown: `refuse` or `drop` labels that the ontology has not.
      overwrite: whether outputs that exist are replaced.

    Raises:
      InputError: an input is wrong, an output exists, or it cannot be written.
    """
    folder = pathlib.Path(output_dir)
    names = ("audit.json", "files.csv", "classes.csv", "edges.csv", "audit.html")
    if not overwrite:
        for name in names:
            refuse_existing(folder / name)
    the_ontology = Ontology.read(ontology)
    table = read_segments(segments, the_ontology, unknown=unknown)
    result = audit(table, the_ontology, [pathlib.Path(path).name for path in segments])
    contents = (
        json.dumps(result, indent=1, allow_nan=False).encode() + b"\n",
        _table(result["files"]),
        _table(result["classes"]),
        _table(result["edges"], _EDGE_FIELDS),
        page(result, the_ontology).encode(),
    )
    for name, content in zip(names, contents, strict=True):
        with complete_file(folder / name) as temporary:
            temporary.write_bytes(content)
    _summarise(result, folder)


def _summarise(result: Mapping[str, Any], folder: pathlib.Path) -> None:
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
    lines.append(f"written {folder / 'audit.html'}, audit.json, files.csv, classes.csv, edges.csv")
    print(*lines, sep="\n", file=sys.stderr)


def _parse_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.audit",
        description="What the raters said and left unsaid, per class, per edge of the ontology and "
        "over all clips: audit.json, tables, and a page to look at, audit.html.",
        epilog="""\
example:
  python -m data_prep.audit --output_dir=AUDIT \\
      --segments=META/balanced_train_segments.csv,META/eval_segments.csv
  open AUDIT/audit.html""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--ontology", metavar="JSON", help="(default: AudioSet's, which comes with this package)")
    add("--segments", required=True, metavar="CSV[,CSV.gz]", help="one or more segment files")
    add("--output_dir", required=True, metavar="AUDIT", help="the folder to write into")
    add(
        "--unknown",
        choices=("refuse", "drop"),
        default="refuse",
        help="what to do about mids that the ontology has not (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace outputs that exist")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit status."""
    flags = vars(_parse_flags(arguments))
    flags["segments"] = flags["segments"].split(",")
    try:
        audit_files(**flags)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
