"""The power calculation: its arithmetic, and a tiny simulation."""

import argparse
import math
import pathlib

import numpy as np
import pytest

from data_prep.rater_habits import Habits
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import side_columns

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
TINY = ["--base_clips=64", "--target_clips=64", "--test_clips=64", "--num_epochs=1"]
TINY += ["--target_epochs=1", "--num_seeds=2", "--labelings=ol,pel"]


@pytest.fixture
def label_power(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import label_power

    return label_power


def test_the_two_parts_of_the_variance_are_found(label_power):
    rng = np.random.default_rng(0)
    of_seeds, of_clips = 0.02, 0.01
    gains = 0.03 + rng.normal(0, math.hypot(of_seeds, of_clips), 20_000)
    replicates = gains[:, None] + rng.normal(0, of_clips, (20_000, 50))
    found = label_power.spread(gains, replicates)
    assert found.gain == pytest.approx(0.03, abs=1e-3)
    assert math.sqrt(found.of_clips) == pytest.approx(of_clips, rel=0.03)
    assert math.sqrt(found.of_seeds) == pytest.approx(of_seeds, rel=0.03)


def test_the_needed_numbers_give_the_wanted_interval(label_power):
    found = label_power.Spread(gain=0.02, sd=0.02, of_clips=1e-5, of_seeds=4e-4)
    seeds = found.seeds_needed(0.01)
    assert found.half_width(seeds) <= 0.01 < found.half_width(seeds - 1)
    ratio = found.clips_ratio_needed(0.02, num_seeds=5)
    assert found.half_width(5, ratio) == pytest.approx(0.02)
    assert found.seeds_needed(0.001) == math.inf
    assert found.clips_ratio_needed(0.01, num_seeds=5) == math.inf


@pytest.mark.slow
@pytest.mark.release
def test_raters_without_general_labels_leave_nothing_that_pel_does_not_add(label_power):
    """Then the labels of `pel` are the truth, and so is everything that follows."""
    flags = label_power.parse_flags([*TINY, "--general=0"])
    measured = label_power.simulate(flags)
    assert len(measured) == 2
    for values, replicates in measured:
        ol, pel, truth = range(3)
        np.testing.assert_array_equal(values[pel], values[truth])
        np.testing.assert_array_equal(replicates[pel], replicates[truth])
        assert (values[pel] != values[ol]).all()
    rows = [line.split() for line in label_power.table(measured, flags)[1:]]
    bases, targets = ("ol", "pel", "truth"), ("ol", "truth")
    assert [tuple(row[:2]) for row in rows] == [(b, t) for b in bases for t in targets]
    gains = np.array([values[1] - values[0] for values, _ in measured])
    for row, gain in zip(rows[2:4], gains.T, strict=True):
        assert float(row[3]) == pytest.approx(gain.mean(), abs=5e-4)
        assert float(row[4]) == pytest.approx(gain.std(ddof=1), abs=5e-5)


def test_base_clips_have_no_event_of_the_target(label_power):
    from label_power_simulation import draw_clips

    ontology = Ontology.audioset()
    root = ontology.find("Human sounds")
    sizes = argparse.Namespace(base_clips=200, target_clips=100, test_clips=50)
    sizes.noise, sizes.mixing = 0.5, 1.0
    clips = draw_clips(ontology, Habits.read(None, ontology), sizes, root, seed=0)
    of_target = clips.truth[:, side_columns(ontology, root, "target")].any(axis=1)
    assert of_target.sum() == 100 + 64 + 50
    assert np.bincount(clips.splits[of_target]).tolist() == [100, 64, 50]
    assert np.bincount(clips.splits[~of_target]).tolist() == [200, 64, 64]
    assert not (clips.original & ~clips.truth).any()
