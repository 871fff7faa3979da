"""Raters with AudioSet's habits: subsets of the truth, at the rates that the audit counts."""

import dataclasses
import pathlib

import numpy as np
import pytest

from data_prep import audit, raters
from data_prep.rater_habits import Habits
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

NUM_CLIPS = 2000


@pytest.fixture(scope="module")
def ontology():
    return Ontology.audioset()


@pytest.fixture(scope="module")
def habits(ontology):
    return Habits.read(None, ontology)


def ids(count):
    return [f"clip{number}" for number in range(count)]


def truth_of(ontology, labels):
    """bool[clips, classes] with all ancestors, from a set of class numbers for each clip."""
    truth = np.zeros((len(labels), len(ontology)), bool)
    for row, numbers in enumerate(labels):
        truth[row, list(numbers)] = True
    return relabel(truth, ontology, "pel")[0]


@pytest.fixture(scope="module")
def some_truth(ontology):
    rng = np.random.default_rng(0)
    return truth_of(ontology, [rng.choice(len(ontology), rng.integers(1, 5)) for _ in ids(300)])


def test_labels_are_a_subset_of_the_truth(ontology, habits, some_truth):
    named = raters.rate(some_truth, ids(300), ontology, habits)
    assert not (named & ~some_truth).any()
    assert not named[:, ~habits.is_offered].any()
    has_offered = (some_truth & habits.is_offered).any(axis=1)
    np.testing.assert_array_equal(named.any(axis=1), has_offered)


def test_severity_zero_leaves_nothing_out(ontology, habits, some_truth):
    named = raters.rate(some_truth, ids(300), ontology, habits.with_severity(0))
    np.testing.assert_array_equal(named, some_truth & habits.is_offered)


def test_more_severity_leaves_out_more(ontology, habits, some_truth):
    counts = [
        raters.rate(some_truth, ids(300), ontology, habits.with_severity(severity)).sum()
        for severity in (0, 0.3, 1, 4, 1e9)
    ]
    assert sorted(counts, reverse=True) == counts
    assert len(set(counts)) == len(counts)


def test_severity_multiplies_odds(habits):
    scaled = habits.with_severity(3.0)
    inside = (habits.parent > 0) & (habits.parent < 1)
    odds = [1 / each.parent[inside] - 1 for each in (habits, scaled)]
    np.testing.assert_allclose(odds[1], 3 * odds[0])
    np.testing.assert_allclose(habits.with_severity(1).general, habits.general)


def test_a_clip_depends_on_seed_and_id_alone(ontology, habits, some_truth):
    named = raters.rate(some_truth, ids(300), ontology, habits)
    rows = np.random.default_rng(1).permutation(300)[:100]
    again = raters.rate(some_truth[rows], [ids(300)[row] for row in rows], ontology, habits)
    np.testing.assert_array_equal(again, named[rows])
    assert (raters.rate(some_truth, ids(300), ontology, habits, seed=1) != named).any()


@pytest.mark.parametrize("names", [("Rain",), ("Electric guitar",), ("Rain", "Ocean"), ("Dog",)])
def test_parents_are_chosen_at_the_rate_of_the_edges(ontology, habits, names):
    children = [ontology.find(name) for name in names]
    (parent,) = np.flatnonzero(ontology.is_parent[:, children].all(axis=1) & habits.is_offered)
    precise = dataclasses.replace(habits, general=np.zeros(len(ontology)))
    truth = truth_of(ontology, [children] * NUM_CLIPS)
    named = raters.rate(truth, ids(NUM_CLIPS), ontology, precise)
    assert named[:, children].all()
    edges = habits.parent if len(children) == 1 else habits.parent_of_siblings
    rate = edges[parent, children].mean()
    deviation = (rate * (1 - rate) / NUM_CLIPS) ** 0.5
    assert named[:, parent].mean() == pytest.approx(rate, abs=4 * deviation)


def test_general_classes_are_named_at_their_rates(ontology, habits):
    """Down from Musical instrument to Acoustic guitar, from the rates alone."""
    path = [ontology.find(name) for name in ("Music", "Musical instrument")]
    path += [ontology.find("Plucked string instrument"), ontology.find("Guitar")]
    leaf = ontology.find("Acoustic guitar")
    truth = truth_of(ontology, [{leaf}] * NUM_CLIPS)
    named = raters.rate(truth, ids(NUM_CLIPS), ontology, habits)
    reaches = 1.0
    for number in path:
        stops = named[:, number] & ~(named & ontology.is_ancestor[number]).any(axis=1)
        rate = reaches * habits.general[number]
        deviation = (rate * (1 - rate) / NUM_CLIPS) ** 0.5
        assert stops.mean() == pytest.approx(rate, abs=4 * deviation)
        reaches *= 1 - habits.general[number]
    assert named[:, leaf].mean() == pytest.approx(reaches, abs=0.05)


def test_audioset_habits_are_those_of_the_paper(ontology, habits):
    """The counts that the paper's section II prints."""
    for parent, child, both, clips in (
        ("Water", "Rain", 24, 3392),
        ("Guitar", "Electric guitar", 10243, 12024),
        ("Plucked string instrument", "Guitar", 40266, 51597),
        ("Fowl", "Duck", 5, 2603),
    ):
        assert habits.parent[ontology.find(parent), ontology.find(child)] == both / clips
    guitar = ontology.find("Guitar")
    above = habits.general[guitar]
    assert 0 < above < 1
    assert habits.is_offered.sum() == 527


@pytest.mark.slow
def test_audioset_habits_are_the_audit_of_audioset(ontology, audioset_dir, tmp_path):
    audit.audit_files(segments=[audioset_dir], output_dir=tmp_path)
    ours, audited = (Habits.read(folder, ontology) for folder in (None, tmp_path))
    for field in dataclasses.fields(Habits):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(audited, field.name))


SEGMENTS = """\
# complete labels
# YTID, start_seconds, end_seconds, positive_labels
a, 0.000, 10.000, "/m/02sgy"
b, 5.000, 15.000, "/m/06mb1,/m/0bt9lr"
c, 0.000, 10.000, "/m/09l8g"
"""  # Electric guitar; Rain and Dog; Human voice, which is abstract


def test_command_writes_labels_and_truth(ontology, tmp_path, capsys):
    complete = tmp_path / "complete.csv"
    complete.write_text(SEGMENTS)
    output = tmp_path / "rated.csv"
    flags = [f"--segments={complete}", f"--output={output}"]
    assert raters.main(flags) == 0
    report = capsys.readouterr().err
    assert "1 clips have no class that raters are offered" in report
    rated = read_segments([output], ontology)
    truth = read_segments([tmp_path / "rated.truth.csv"], ontology)
    assert rated.clip_ids.to_pylist() == ["a", "b"]
    assert truth.clip_ids.to_pylist() == ["a", "b", "c"]
    assert rated.start_s.tolist() == [0, 5]
    expected, _ = relabel(read_segments([complete], ontology).label_sets.toarray(), ontology, "pel")
    np.testing.assert_array_equal(truth.label_sets.toarray()[truth.set_numbers], expected)

    before = output.read_bytes()
    assert raters.main(flags) == 1
    assert "exists already" in capsys.readouterr().err
    assert raters.main([*flags, "--overwrite"]) == 0
    assert output.read_bytes() == before


def test_habits_of_an_audit(ontology, tmp_path):
    """Raters who gave these labels always choose Guitar, and never Plucked string instrument."""
    segments = tmp_path / "segments.csv"
    segments.write_text('a, 0, 10, "/m/02sgy,/m/0342h"\nb, 0, 10, "/m/0342h"\n')
    audit.audit_files(segments=[segments], output_dir=tmp_path / "audit")
    habits = Habits.read(tmp_path / "audit", ontology)
    guitar, electric = ontology.find("Guitar"), ontology.find("Electric guitar")
    assert habits.parent[guitar, electric] == 1
    assert habits.general[guitar] == 0.5
    assert habits.is_offered.sum() == 2


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("classes.csv", None, "cannot read the habits"),
        ("classes.csv", "mid,ol,pel\n/m/02sgy,1,1\n", "general"),
        ("classes.csv", "mid,ol,pel,general\n/m/02sgy,one,1,0\n", "one"),
        ("classes.csv", "mid,ol,pel,general\n/m/nothing,1,1,0\n", "no class with clips"),
        ("edges.csv", "parent,child\n", "child_clips"),
    ],
)
def test_wrong_habits_are_refused(ontology, tmp_path, name, content, expected):
    segments = tmp_path / "segments.csv"
    segments.write_text('a, 0, 10, "/m/02sgy,/m/0342h"\n')
    audit.audit_files(segments=[segments], output_dir=tmp_path)
    path = pathlib.Path(tmp_path / name)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=expected):
        Habits.read(tmp_path, ontology)
