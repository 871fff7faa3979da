"""The split by ontology against its rules on Python sets."""

import csv
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_ontologies import CHOIR, make_ontology

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot, read_segments
from relabel_jax.labels.views import SIDES, SPLITS, hashed_splits, make_view, side_columns

# The paper's roots and their number of used labels (section III).
ROOTS = {
    "Human sounds": 72,
    "Sounds of things": 176,
    "Source-ambiguous sounds": 55,
    "Natural sounds": 18,
}


@st.composite
def ontologies(draw) -> Ontology:
    """A random DAG; the numbers of the classes say nothing about who is above whom."""
    num_classes = draw(st.integers(1, 8))
    names = draw(st.permutations([f"c{i}" for i in range(num_classes)]))
    children: dict[str, list[str]] = {f"c{i}": [] for i in range(num_classes)}
    for child in range(1, num_classes):
        for parent in draw(st.sets(st.integers(0, child - 1), max_size=3)):
            children[names[parent]].append(names[child])
    return make_ontology(children, draw(st.sets(st.sampled_from(names))))


def below(ontology: Ontology, of: int, within: set[int]) -> set[int]:
    """Descendants by paths that stay within a set of classes; follows edges one by one."""
    children = (set(np.flatnonzero(ontology.is_parent[of]).tolist()) & within) - {of}
    return children.union(*(below(ontology, child, within) for child in children))


@functools.cache
def entailed(ontology: Ontology, label: int) -> set[int]:
    """The classes on every path from a label up to a root, in the whole ontology."""

    def paths(of):
        parents = np.flatnonzero(ontology.is_parent[:, of]).tolist()
        return [{of} | path for parent in parents for path in paths(parent)] or [{of}]

    return set.intersection(*paths(label))


@functools.cache
def propagated(ontology: Ontology, label: int) -> set[int]:
    """A label and what HLP adds to it, in the whole ontology."""

    def nearest_used(of):
        found = set()
        for parent in np.flatnonzero(ontology.is_parent[:, of]).tolist():
            found |= {parent} if ontology.is_used[parent] else nearest_used(parent)
        return found

    above = nearest_used(label)
    return {label} | (propagated(ontology, *above) if len(above) == 1 else set())


class BruteForce:
    """One root and side; clips are sets of class numbers."""

    def __init__(self, ontology, root, side):
        everything = set(range(len(ontology)))
        self.ontology = ontology
        self.target = {root} | below(ontology, root, everything)
        self.side = side
        self.classes = self.target if side == "target" else everything - self.target
        self.below = {c: below(ontology, c, self.classes) for c in self.classes}

    def has(self, clip: set[int]) -> bool:
        return bool(clip & self.target) == (self.side == "target")

    @functools.cache  # noqa: B019
    def expanded(self, clip: frozenset[int]) -> tuple[set[int], set[int]]:
        """The labels with all classes above them, and all that PE-CML masks."""
        above = {c for c in self.classes if self.below[c] & clip}
        return clip | above, set().union(*(self.below[p] for p in clip if p not in above))

    def relabel(self, clip: set[int], labeling: str) -> tuple[set[int], set[int]]:
        clip = frozenset(clip & self.classes)  # first drop, then re-label
        if labeling == "ol":
            return set(clip), set()
        expanded, below = self.expanded(clip)
        if labeling in ("hlp", "entailed"):
            of_label = propagated if labeling == "hlp" else entailed
            of_labels = set().union(*(of_label(self.ontology, label) for label in clip))
            positive = of_labels & self.classes
            return positive, below | (expanded - positive) if labeling == "entailed" else set()
        return expanded, below if labeling == "pe_cml" else set()

    def view(self, clips, splits, labeling):
        """{split: (rows, their labels, what is masked)}, label set."""
        rows = {
            split: [r for r, clip in enumerate(clips) if self.has(clip) and splits[r] == number]
            for number, split in enumerate(SPLITS)
        }
        cache = {clip: self.relabel(set(clip), labeling) for clip in set(map(frozenset, clips))}
        relabelled = [cache[frozenset(clip)] for clip in clips]
        label_set = set().union(*(relabelled[row][0] for row in rows["train"]))
        outside = self.classes - label_set
        return {
            split: (
                rows[split],
                [relabelled[row][0] & label_set for row in rows[split]],
                [relabelled[row][1] | outside for row in rows[split]],
            )
            for split in SPLITS
        }, label_set


def as_sets(matrix, columns):
    return [set(columns[row].tolist()) for row in matrix]


def as_matrix(sets, columns, num_classes):
    """bool[sets, columns] of sets of class numbers."""
    lengths = [len(classes) for classes in sets]
    flat = np.fromiter((c for classes in sets for c in classes), int, sum(lengths))
    matrix = np.zeros((len(sets), num_classes), bool)
    matrix[np.repeat(np.arange(len(sets)), lengths), flat] = True
    assert not np.delete(matrix, columns, axis=1).any()
    return matrix[:, columns]


def check(view, expected, label_set, num_classes):
    assert set(view.columns[view.label_set].tolist()) == label_set
    for split, (rows, labels, masked) in expected.items():
        assert view.rows[split].tolist() == rows
        for got, want in ((view.labels[split], labels), (view.masked[split], masked)):
            assert got.dtype == bool
            np.testing.assert_array_equal(got, as_matrix(want, view.columns, num_classes))
        assert not (view.labels[split] & view.masked[split]).any()


@settings(max_examples=150)
@given(st.data())
def test_any_ontology_root_and_side(data):
    ontology = data.draw(ontologies())
    root = data.draw(st.integers(0, len(ontology) - 1))
    clips = data.draw(st.lists(st.sets(st.integers(0, len(ontology) - 1)), max_size=14))
    splits = np.array(data.draw(st.lists(st.integers(0, 2), min_size=14, max_size=14)), np.int8)
    splits = splits[: len(clips)]
    labels = as_matrix(clips, np.arange(len(ontology)), len(ontology))
    original = labels.copy()
    for side in SIDES:
        brute_force = BruteForce(ontology, root, side)
        for labeling in LABELINGS:
            expected, label_set = brute_force.view(clips, splits, labeling)
            arguments = {"root": root, "side": side, "labeling": labeling}
            empty = [split for split in SPLITS if not expected[split][0]]
            if empty:
                with pytest.raises(InputError, match=f"has no {empty[0]} clip on the {side} side"):
                    make_view(ontology, labels, splits, **arguments)
                continue
            view = make_view(ontology, labels, splits, **arguments)
            assert view.columns.tolist() == sorted(brute_force.classes)
            check(view, expected, label_set, len(ontology))
    np.testing.assert_array_equal(labels, original)


@pytest.fixture(scope="module")
def audioset(real_segments):
    """(ontology, labels, the same as sets, splits) of AudioSet's segments."""
    ontology = Ontology.audioset()
    segments = read_segments(real_segments, ontology)
    clips = [frozenset(row) for row in segments.labels.to_pylist()]
    splits = hashed_splits(segments.clip_ids.to_pylist())
    return ontology, multi_hot(segments.labels, len(ontology)), clips, splits


@pytest.mark.parametrize(("root", "side"), list(zip(ROOTS, SIDES * 2, strict=True)))
def test_real_segments(audioset, root, side):
    ontology, labels, clips, splits = audioset
    brute_force = BruteForce(ontology, ontology.find(root), side)
    for labeling in LABELINGS:
        view = make_view(
            ontology, labels, splits, root=ontology.find(root), side=side, labeling=labeling
        )
        check(view, *brute_force.view(clips, splits, labeling), len(ontology))


@pytest.mark.parametrize(("root", "num_used"), ROOTS.items())
def test_num_labels_of_a_set_with_all_used_labels(audioset_dir, root, num_used):
    ontology = Ontology.audioset()
    with open(audioset_dir / "class_labels_indices.csv", newline="") as file:
        used = [ontology.index[row["mid"]] for row in csv.DictReader(file)]
    labels = np.tile(np.eye(len(ontology), dtype=bool)[used], (3, 1))
    splits = np.repeat(np.arange(3, dtype=np.int8), len(used))
    sizes = {
        side: make_view(
            ontology, labels, splits, root=ontology.find(root), side=side, labeling="ol"
        ).label_set.sum()
        for side in SIDES
    }
    assert sizes == {"base": 527 - num_used, "target": num_used}


def view_of_three(labels: list[list[str]], side: str, labeling: str):
    """The view of the root Human sounds; clip i is in split i. Rows as sets of names."""
    matrix = np.array([[name in clip for name in CHOIR.display_names] for clip in labels])
    arguments = {"root": CHOIR.find("Human sounds"), "side": side, "labeling": labeling}
    view = make_view(CHOIR, matrix, np.arange(3, dtype=np.int8), **arguments)
    names = np.array(CHOIR.display_names)[view.columns]
    return [
        [{*names[row].tolist()} for row in (view.labels[split][0], view.masked[split][0])]
        for split in SPLITS
    ]


def test_a_dropped_music_does_not_mask_a_kept_choir():
    train, validation, test = view_of_three(
        [["Choir", "Rapping"], ["Music", "Rapping"], ["Music", "Singing"]], "target", "pe_cml"
    )
    assert train == [{"Human sounds", "Singing", "Choir", "Rapping"}, set()]
    # Music, with none of its descendants here, would mask Choir if it were not dropped first.
    assert validation == [{"Human sounds", "Singing", "Rapping"}, set()]
    assert test == [{"Human sounds", "Singing"}, {"Choir", "Rapping"}]


def test_classes_outside_the_label_set_are_masked_for_every_clip():
    train, validation, test = view_of_three([["Opera"], ["Rain", "Music"], ["Rain"]], "base", "ol")
    assert train == [{"Opera"}, {"Music", "Rain"}]
    assert validation == test == [set(), {"Music", "Rain"}]


def test_sides_are_all_classes_once():
    for root in range(len(CHOIR)):
        columns = [side_columns(CHOIR, root, side) for side in SIDES]
        assert sorted(np.concatenate(columns)) == list(range(len(CHOIR)))
        assert root in columns[SIDES.index("target")]
    with pytest.raises(InputError, match="side 'left' is none of base, target"):
        side_columns(CHOIR, 0, "left")


def test_splits_are_80_10_10():
    counts = np.bincount(hashed_splits([f"clip{i}" for i in range(50_000)]), minlength=3)
    assert counts.sum() == 50_000
    share = np.array([0.8, 0.1, 0.1])
    # 4.5 standard deviations of a fair draw.
    assert (np.abs(counts - 50_000 * share) < 4.5 * np.sqrt(50_000 * share * (1 - share))).all()


@given(st.lists(st.text(max_size=12), unique=True), st.integers(0, 10), st.randoms())
def test_a_clip_keeps_its_split(clip_ids, seed, random):
    splits = dict(zip(clip_ids, hashed_splits(clip_ids, seed), strict=True))
    more = [*clip_ids, "one more", "\N{SNOWMAN}"]
    random.shuffle(more)
    later = dict(zip(more, hashed_splits(more, seed), strict=True))
    assert {clip_id: later[clip_id] for clip_id in clip_ids} == splits


def test_another_seed_is_another_split_and_none_ever_changes():
    clip_ids = [f"-{i}_" for i in range(40)]
    splits = [hashed_splits(clip_ids, seed).tolist() for seed in range(3)]
    assert splits[0] != splits[1] != splits[2] != splits[0]
    assert hashed_splits(clip_ids).dtype == np.int8
    # Recorded when it was written: with other values every data set would have to be built again.
    assert "".join(map(str, splits[0])) == "0101000000000010002000010020002000000220"
