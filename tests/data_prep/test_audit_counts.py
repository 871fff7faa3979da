"""The audit's counts of real segments against the paper and against brute force."""

import csv
import itertools
import json

import pytest

from data_prep.audit_counts import audit
from relabel_jax.labels.labelings import relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

pytestmark = pytest.mark.slow

FILES = (
    "balanced_train_segments.csv",
    "eval_segments.csv",
    "unbalanced_train_segments.csv.gz",
)


@pytest.fixture(scope="module")
def audioset(audioset_dir):
    """All 2,084,320 segments: 2 s to read, 0.3 s to audit."""
    ontology = Ontology.audioset()
    segments = read_segments([audioset_dir / name for name in FILES], ontology)
    return audit(segments, ontology, FILES)


# The folder's README.md, second table, printed to three decimals.
@pytest.mark.parametrize(
    ("number", "clips", "ol", "pel", "pel_used", "masked", "masked_used"),
    [
        (0, 22_160, 2.386, 5.597, 3.592, 24.476, 19.912),
        (1, 20_371, 2.543, 5.907, 3.833, 25.462, 20.688),
        (2, 2_041_789, 1.969, 4.046, 2.409, 64.212, 51.899),
        (3, 2_084_320, 1.979, 4.081, 2.436, 63.411, 51.254),
    ],
)
def test_labels_per_clip(audioset, number, clips, ol, pel, pel_used, masked, masked_used):
    row = audioset["files"][number]
    assert row["clips"] == clips
    assert round(row["ol"], 3) == ol
    assert round(row["pel"], 3) == pel
    assert round(row["pel_used"], 3) == pel_used
    assert round(row["masked"], 3) == masked
    assert round(row["masked_used"], 3) == masked_used


# The paper, section II, as quoted in the folder's README.md, first table.
@pytest.mark.parametrize(
    ("root", "used_labels"),
    [
        ("Human sounds", 72),
        ("Sounds of things", 176),
        ("Source-ambiguous sounds", 55),
        ("Natural sounds", 18),
    ],
)
def test_used_labels_below_a_root(audioset, root, used_labels):
    (found,) = [row for row in audioset["roots"] if row["name"] == root]
    assert found["used_labels"] == used_labels


@pytest.mark.parametrize(
    ("child", "parent", "child_clips", "both_clips"),
    [
        ("Electric guitar", "Guitar", 12_024, 10_243),
        ("Guitar", "Plucked string instrument", 51_597, 40_266),
        ("Rain", "Water", 3_392, 24),
        ("Duck", "Fowl", 2_603, 5),
    ],
)
def test_parents_chosen_too(audioset, child, parent, child_clips, both_clips):
    (edge,) = [
        row
        for row in audioset["edges"]
        if (row["child_name"], row["parent_name"]) == (child, parent)
    ]
    assert (edge["child_clips"], edge["both_clips"]) == (child_clips, both_clips)
    assert edge["parent_given_child"] == both_clips / child_clips
    assert edge["on_offer"]


def test_guitars_with_any_child_of_guitar(audioset):
    (guitar,) = [row for row in audioset["classes"] if row["name"] == "Guitar"]
    assert (guitar["ol"], guitar["with_child"]) == (51_597, 30_863)


def test_the_52_percent(audioset):
    assert round(audioset["parent_chosen_too"]["share"], 4) == 0.5194


def test_used_classes(audioset):
    assert sum(row["ol"] > 0 for row in audioset["classes"]) == 527
    assert len(audioset["classes"]) == 632


def test_the_sample_by_brute_force(segments_sample):
    """Every count of real segments against counting clip by clip on sets of mids."""
    ontology = Ontology.audioset()
    result = audit(read_segments([segments_sample], ontology), ontology, ["sample"])
    with open(segments_sample, newline="") as file:
        rows = csv.reader(itertools.islice(file, 3, None), skipinitialspace=True)
        clips = [set(row[3].split(",")) for row in rows]
    relabelled = [relabel_set(clip, ontology, "pe_cml") for clip in clips]
    used = set().union(*clips)
    parents = {mid: set() for mid in ontology.mids}
    barred = set()
    for node in json.loads(ontology.text):
        for child in node["child_ids"]:
            parents[child].add(node["id"])
        if node["restrictions"]:
            barred.add(node["id"])
    below = {
        mid: {ontology.mids[i] for i in ontology.descendant_sets[number]}
        for mid, number in ontology.index.items()
    }

    (row,) = result["files"]
    assert row["clips"] == len(clips) == 300
    for name, sets in (
        ("ol", clips),
        ("pel", [positive for positive, _ in relabelled]),
        ("pel_used", [positive & used for positive, _ in relabelled]),
        ("masked", [masked for _, masked in relabelled]),
        ("masked_used", [masked & used for _, masked in relabelled]),
    ):
        assert row[name] == pytest.approx(sum(map(len, sets)) / 300)

    on_offer = used - barred
    asked = [(clip, label) for clip in clips for label in clip if parents[label] & on_offer]
    beside = [parents[label] & on_offer & clip for clip, label in asked]
    assert result["parent_chosen_too"]["labels_with_a_parent_on_offer"] == len(asked)
    assert result["parent_chosen_too"]["beside_such_a_parent"] == sum(map(bool, beside))
    general = [
        {label for label in clip if below[label] and not below[label] & clip} for clip in clips
    ]
    assert result["general"]["clips_with_a_general_label"] == sum(map(bool, general))
    only = sum(some == clip for some, clip in zip(general, clips, strict=True))
    assert result["general"]["clips_with_only_general_labels"] == only > 0

    for row in result["classes"]:
        mid = row["mid"]
        assert row["ol"] == sum(mid in clip for clip in clips)
        assert row["pel"] == sum(mid in positive for positive, _ in relabelled)
        assert row["masked"] == sum(mid in masked for _, masked in relabelled)
        assert row["general"] == sum(mid in some for some in general)
        with_child = [
            clip for clip in clips if mid in clip and any(mid in parents[c] for c in clip)
        ]
        assert row["with_child"] == len(with_child)
    edges = {(row["parent"], row["child"]): row for row in result["edges"]}
    assert set(edges) == {(parent, child) for child in used for parent in parents[child]}
    for (parent, child), row in edges.items():
        assert row["child_clips"] == sum(child in clip for clip in clips)
        assert row["both_clips"] == sum({parent, child} <= clip for clip in clips)
        assert row["on_offer"] == (parent in on_offer)
    for row in result["roots"]:
        assert row["used_labels"] == len(used & (below[row["mid"]] | {row["mid"]}))
        assert row["clips"] > 0
    assert len(result["roots"]) == 7
