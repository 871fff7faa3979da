"""The judge's counts: by hand, by scikit-learn, and on AudioSet-R."""

import csv
import json
import pathlib

import numpy as np
import pytest
from judging import ONTOLOGY, write_toy
from scipy import sparse
from sklearn.metrics import precision_score, recall_score

from data_prep.judge import judge_files, main
from data_prep.judge_counts import random_bags
from data_prep.judge_labels import judge
from data_prep.judge_references import Reference
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.labelings import LABELINGS, relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments, multi_hot, read_segments

TOY = Ontology.from_text(ONTOLOGY)


@pytest.fixture
def audioset_r(audioset_dir) -> pathlib.Path:
    """AudioSet-R's labels of the evaluation segments, beside AudioSet's metadata."""
    path = audioset_dir.parent / "audioset_r" / "AudioSet-R_eval.json"
    if not path.exists():
        pytest.skip("needs the folder ../shared/audioset_r")
    return path


@pytest.fixture
def toy(tmp_path) -> list[str]:
    return [*write_toy(tmp_path), f"--against={tmp_path / 'truth.csv'}"]


def by_name(result: dict) -> dict[str, dict]:
    return {row["name"]: row for row in result["labelings"]}


def counts(share: dict) -> tuple[int, int]:
    return share["count"], share["of"]


def test_by_hand(toy, tmp_path, capsys):
    """Clip e has no truth, and z no labels; each class is true of some clip of the file."""
    assert main([*toy, f"--output_dir={tmp_path / 'judge'}"]) == 0
    result = json.loads((tmp_path / "judge/judge.json").read_text())
    assert result["clips"] == 4
    assert result["reference"]["classes"] == 6
    assert result["reference"]["labels_per_clip"] == 7 / 4
    of = by_name(result)
    assert list(of) == list(LABELINGS)
    assert counts(of["ol"]["precision"]) == (3, 5)  # Rain in a, Steam in b, Water in c
    assert counts(of["ol"]["recall"]) == (3, 7)
    # Added: Water in a and b is true, Engine in b is not. Only Rain entails its parent.
    assert counts(of["pel"]["recall"]) == (5, 7)
    assert counts(of["pel"]["precision"]) == (5, 8)
    assert counts(of["pel"]["entailed"]) == (1, 1)
    assert counts(of["pel"]["not_entailed"]) == (1, 2)
    assert of["pel"]["masked"]["share"] is None
    # Masked: Drop in a; Rain, Drop and Steam in c and d; of these Rain in c is true.
    assert counts(of["pe_cml"]["masked"]) == (1, 7)
    # Drop is negative and unmasked in b, Rain in b, Steam in a; none of these is true.
    assert of["pe_cml"]["unmasked_negatives"]["share"] == 0
    assert counts(of["entailed"]["masked"]) == (2, 9)  # and Water and Engine in b
    # The other negatives of Drop, Rain and Steam, and Water has none, Engine in a, c, d: one true.
    assert of["entailed"]["unmasked_negatives"]["share"] == pytest.approx((1 / 3) / 8)
    assert of["hlp"]["labels_per_clip"] == 6 / 4

    edges = {(row["parent_name"], row["child_name"]): row for row in result["edges"]}
    assert {key: (row["confirmed"], row["parent_left_out"]) for key, row in edges.items()} == {
        ("Water", "Rain"): (1, 1),
        ("Water", "Steam"): (1, 1),
        ("Engine", "Steam"): (0, 1),
    }
    assert [row["entailed"] for row in edges.values()] == [True, False, False]

    with open(tmp_path / "judge/classes.csv", newline="") as file:
        rows = {(row["labeling"], row["name"]): row for row in csv.DictReader(file)}
    assert len(rows) == 5 * 6
    rain = rows["pe_cml", "Rain"]
    assert (rain["true"], rain["labels"], rain["true_labels"]) == ("2", "1", "1")
    assert (rain["masked"], rain["true_masked"], rain["unmasked_negatives"]) == ("2", "1", "1")
    assert len((tmp_path / "judge/edges.csv").read_text().splitlines()) == 4
    output = capsys.readouterr()
    assert "4 clips, judged by truth.csv" in output.out
    assert "left out 1 of the 5 clips of the segments" in output.err
    assert output.err.splitlines()[-1].startswith("next: open")


def test_a_labeling_from_a_file(toy, tmp_path, capsys):
    """It may add what is no ancestor; clips that it lacks are left out for all labelings."""
    (tmp_path / "mine.csv").write_text("clip_id,positive,masked\na,/m/d,/m/w\nb,/m/s,\n")
    flags = [*toy, "--labelings=mine,pel", f"--labeling_files=mine={tmp_path / 'mine.csv'}"]
    assert main([*flags, f"--output_dir={tmp_path / 'judge'}"]) == 0
    result = json.loads((tmp_path / "judge/judge.json").read_text())
    assert result["clips"] == 2
    mine = by_name(result)["mine"]
    assert counts(mine["precision"]) == (1, 2)
    assert counts(mine["elsewhere"]) == (0, 1)
    assert counts(mine["masked"]) == (1, 1)
    assert by_name(result)["pel"]["elsewhere"]["share"] is None
    assert "elsewhere" in capsys.readouterr().out


def random_case(
    tmp_path: pathlib.Path, *, is_exhaustive: bool
) -> tuple[GroupedSegments, Reference, np.ndarray, np.ndarray]:
    """Random labels of 60 clips, and a reference that leaves entries open.

    Returns:
      The segments, the reference, and what it says: `(truth, decided)`, both bool[clips, classes].
    """
    rng, size = np.random.default_rng(7), (60, len(TOY))
    truth, chosen = rng.random(size) < 0.4, rng.random(size) < 0.3
    truth[:, 5] = False  # of this class an exhaustive reference says nothing
    labels = [",".join(np.array(TOY.mids)[row]) for row in rng.random(size) < 0.3]
    text = [f'c{i}, 0, 10, "{row or "/m/w"}"' for i, row in enumerate(labels)]
    (tmp_path / "segments.csv").write_text("\n".join(text) + "\n")
    segments = read_segments([tmp_path / "segments.csv"], TOY)
    chosen &= ~truth
    file = LabelFile(
        path=tmp_path / "truth.csv",
        clip_ids=segments.clip_ids,
        positive_sets=sparse.csr_array(truth),
        masked_sets=sparse.csr_array(chosen & is_exhaustive),
        set_numbers=np.arange(len(truth), dtype=np.int32),
        dropped={},
    )
    if is_exhaustive:
        return segments, Reference(file, None, ""), truth, ~chosen & truth.any(axis=0)
    return segments, Reference(file, sparse.csr_array(chosen), ""), truth, truth | chosen


@pytest.mark.parametrize("is_exhaustive", [True, False])
def test_agrees_with_scikit_learn(tmp_path, is_exhaustive):
    segments, reference, truth, decided = random_case(tmp_path, is_exhaustive=is_exhaustive)
    result = by_name(judge(segments, reference, TOY, num_replicates=2))
    for name in LABELINGS:
        positive, masked = relabel(multi_hot(segments.labels, len(TOY)), TOY, name)
        of = result[name]
        flat = truth[decided], positive[decided]
        assert of["precision"]["share"] == pytest.approx(precision_score(*flat), abs=1e-9)
        assert of["recall"]["share"] == pytest.approx(recall_score(*flat), abs=1e-9)
        if not masked.any():
            assert of["masked"]["share"] is None
            continue
        masked, negative = masked & decided, decided & ~masked & ~positive
        assert of["masked"]["share"] == pytest.approx(truth[masked].mean(), abs=1e-9)
        matched = [i for i in range(len(TOY)) if masked[:, i].any() and negative[:, i].any()]
        rates = [truth[negative[:, i], i].mean() for i in matched]
        expected = np.average(rates, weights=masked[:, matched].sum(axis=0))
        assert of["unmasked_negatives"]["share"] == pytest.approx(expected, abs=1e-9)


def test_intervals(tmp_path):
    """The interval of the recall is that of clips drawn one by one; bags change little."""
    segments, reference, truth, _ = random_case(tmp_path, is_exhaustive=True)
    held = (multi_hot(segments.labels, len(TOY)) & truth).sum(axis=1)
    rng = np.random.default_rng(1)
    drawn = rng.integers(60, size=(4000, 60))
    expected = np.quantile(held[drawn].sum(1) / truth.sum(1)[drawn].sum(1), (0.025, 0.975))
    for max_bags in (60, 30):
        result = judge(segments, reference, TOY, num_replicates=4000, max_bags=max_bags)
        assert result["bootstrap"]["units"] == max_bags
        recall = by_name(result)["ol"]["recall"]
        tolerance = 0.1 if max_bags == 60 else 0.4
        assert [recall["low"], recall["high"]] == pytest.approx(
            expected, abs=tolerance * (expected[1] - expected[0])
        )
        assert recall["count"] == held.sum()


def test_the_seed_decides_the_intervals(tmp_path):
    segments, reference, _, _ = random_case(tmp_path, is_exhaustive=True)
    first, again, other = (
        judge(segments, reference, TOY, num_replicates=50, seed=seed)["labelings"]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_bags_have_equal_sizes():
    sizes = np.bincount(random_bags(103, seed=0, max_bags=10))
    assert sorted(sizes) == [10] * 7 + [11] * 3


def test_audioset_r(audioset_dir, audioset_r):
    """The counting rule, in the docstring of judge_counts, gives these figures together."""
    result = judge_files(
        segments=[audioset_dir / "eval_segments.csv"],
        against=audioset_r,
        labelings=["pe_cml"],
        replicates=2,
    )
    (of,) = result["labelings"]
    assert result["clips"] == 18_885
    assert result["reference"]["classes"] == 527
    assert round(result["reference"]["labels_per_clip"], 2) == 7.26
    assert round(of["entailed"]["share"], 3) == 0.566
    assert round(of["not_entailed"]["share"], 3) == 0.294
    assert round(of["masked"]["share"], 4) == 0.0295
    assert round(of["unmasked_negatives"]["share"], 4) == 0.0126
    assert counts(of["entailed"])[1] + counts(of["not_entailed"])[1] == 19_485 + 5_042
