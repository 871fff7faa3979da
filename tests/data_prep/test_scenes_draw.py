"""The random choices behind scenes: splits of groups, events, frequencies."""

import numpy as np
import pytest

from data_prep.event_rates import event_rates
from data_prep.rater_habits import Habits
from data_prep.scenes_draw import Pool, ScenesSpec, Sound, split_recordings
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

ONE_EACH = (1, 1, 1)
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology.audioset()


def long_tail(num_groups: int, num_classes: int, seed: int = 0):
    """Groups of 1 to 5 recordings with one or two classes; class c is as rare as c is large."""
    rng = np.random.default_rng(seed)
    rates = 1 / np.arange(1, num_classes + 1)
    groups, rows = [], []
    for group in range(num_groups):
        kinds = rng.choice(num_classes, 2, replace=False, p=rates / rates.sum())
        for take in range(int(rng.integers(1, 6))):
            groups.append(f"g{group}")
            rows.append([kinds[0], kinds[take % 2]])
    labels = np.zeros((len(rows), num_classes), bool)
    labels[np.arange(len(rows))[:, None], rows] = True
    return groups, labels


def test_groups_stay_together_and_classes_are_in_all_splits():
    groups, labels = long_tail(300, 40)
    splits = split_recordings(groups, labels, ScenesSpec(ONE_EACH))
    of_group = {}
    for group, split in zip(groups, splits.tolist(), strict=True):
        assert of_group.setdefault(group, split) == split
    shares = np.bincount(splits) / len(splits)
    np.testing.assert_allclose(shares, ScenesSpec.shares, atol=0.05)
    for column in range(labels.shape[1]):
        has_class = {group for group, row in zip(groups, labels, strict=True) if row[column]}
        if len(has_class) >= 6:
            assert {of_group[group] for group in has_class} == {0, 1, 2}
    # By chance alone, the rare classes would lack a split.
    again = split_recordings(groups, labels, ScenesSpec(ONE_EACH))
    np.testing.assert_array_equal(splits, again)
    other = split_recordings(groups, labels, ScenesSpec(ONE_EACH, seed=1))
    assert (splits != other).any()


@pytest.mark.parametrize(
    ("num_folds", "expected"), [(3, (1, 1, 1)), (4, (2, 1, 1)), (5, (3, 1, 1))]
)
def test_a_few_folds_fill_all_splits(num_folds, expected):
    rng = np.random.default_rng(0)
    groups = [str(number % num_folds) for number in range(500)]
    labels = rng.random((500, 50)) < 0.02
    labels[np.arange(500), rng.integers(50, size=500)] = True
    splits = split_recordings(groups, labels, ScenesSpec(ONE_EACH))
    of_fold = splits[:num_folds]
    assert tuple(np.bincount(of_fold, minlength=3)) == expected
    np.testing.assert_array_equal(splits, of_fold[np.arange(500) % num_folds])


def test_groups_named_as_splits_go_there():
    groups = ["train"] * 5 + ["val"] * 2 + ["eval"] * 3
    labels = np.ones((10, 1), bool)
    splits = split_recordings(groups, labels, ScenesSpec(ONE_EACH))
    assert splits.tolist() == [0] * 5 + [1] * 2 + [2] * 3


def test_one_group_is_refused_unless_one_split_is_wanted():
    labels = np.ones((4, 1), bool)
    with pytest.raises(InputError, match="validation gets no recordings: there are 1 groups"):
        split_recordings(["a"] * 4, labels, ScenesSpec(ONE_EACH))
    only_train = ScenesSpec((1, 0, 0))
    assert split_recordings(["a"] * 4, labels, only_train).tolist() == [0] * 4


def pool_of(spec: ScenesSpec, ontology: Ontology, num_recordings: int = 90) -> Pool:
    rng = np.random.default_rng(1)
    sounds = []
    for length in np.geomspace(10, 60 * RATE_HZ, num_recordings).astype(int).tolist():
        tenths = max(length // (RATE_HZ // 10), 1)
        sounds.append(Sound(length, int(rng.integers(tenths)) * RATE_HZ // 10, -20.0))
    labels = np.zeros((num_recordings, len(ontology)), bool)
    kinds = [ontology.find(name) for name in ("Speech", "Dog", "Dog")]
    labels[np.arange(num_recordings), np.resize(kinds, num_recordings)] = True
    return Pool(spec, sounds, np.arange(num_recordings) // 3 % 3, labels, ontology)


def test_events_lie_in_the_scene_and_hold_the_loudest_part(ontology):
    spec = ScenesSpec((300, 300, 300))
    pool = pool_of(spec, ontology)
    numbers, starts = set(), []
    for split in range(3):
        for number in range(300):
            scene = pool.scene(split, number)
            assert len(scene.clip_id) == 11
            numbers.add(len(scene.events))
            recordings = [event.recording for event in scene.events]
            assert len(set(recordings)) == len(recordings)
            for event in scene.events:
                sound = pool._sounds[event.recording]
                assert event.recording // 3 % 3 == split
                assert 0 <= event.start <= event.start + event.num_samples <= spec.num_samples
                assert event.num_samples == min(sound.num_samples, spec.num_samples)
                assert event.skip + event.num_samples <= sound.num_samples
                assert event.skip <= sound.loudest
                end = min(sound.loudest + RATE_HZ // 10, sound.num_samples)
                assert end <= event.skip + event.num_samples
                assert 6 <= event.snr_db <= 30
                if sound.num_samples < RATE_HZ:
                    starts.append(event.start / RATE_HZ)
    assert numbers == {1, 2, 3, 4}
    assert min(starts) < 1
    assert max(starts) > 8


def test_a_scene_depends_on_seed_split_and_number_alone(ontology):
    small, large = (pool_of(ScenesSpec((n, n, n)), ontology) for n in (5, 500))
    assert small.scene(2, 4) == large.scene(2, 4)
    others = [large.scene(1, 4), large.scene(2, 5)]
    others.append(pool_of(ScenesSpec(ONE_EACH, seed=1), ontology).scene(2, 4))
    assert len({small.scene(2, 4).clip_id, *(each.clip_id for each in others)}) == 4
    assert len({small.scene(2, 4).events, *(each.events for each in others)}) == 4


def test_draws_follow_recordings_classes_or_audioset(ontology):
    """A third of the recordings are Speech, which AudioSet's raters chose 72 times as often."""
    share = {}
    for draw in ("recordings", "classes", "audioset"):
        spec = ScenesSpec(ONE_EACH, max_events=1, draw=draw)
        pool = pool_of(spec, ontology)
        events = [pool.scene(0, number).events[0] for number in range(800)]
        share[draw] = np.mean([event.recording % 3 == 0 for event in events])
    assert share["recordings"] == pytest.approx(1 / 3, abs=0.08)
    assert share["classes"] == pytest.approx(1 / 2, abs=0.08)
    assert share["audioset"] > 0.95


def test_event_rates_of_the_classes_at_hand(ontology):
    """Speech counts half for itself and half for its only kind at hand."""
    # The raters never named the last one.
    names = (
        "Speech",
        "Male speech, man speaking",
        "Bark",
        "Human group actions",
    )
    speech, man, bark, never = (ontology.find(name) for name in names)
    available = np.zeros(len(ontology), bool)
    available[[speech, man, bark, never]] = True
    rates = event_rates(ontology, available)
    assert rates.sum() == pytest.approx(1)
    np.testing.assert_array_equal(np.flatnonzero(rates), np.flatnonzero(available))
    habits = Habits.read(None, ontology)
    assert rates[man] / rates[speech] == pytest.approx(
        (habits.clips[man] + habits.alone[speech] / 2) / (habits.alone[speech] / 2)
    )
    assert rates[never] == rates[bark] == rates[available].min()
    # Dogs that were named only in general count for Bark.
    dogs = habits.alone[ontology.find("Dog")]
    assert rates[bark] / rates[speech] > (habits.clips[bark] + dogs) / (habits.alone[speech] / 2)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"num_clips": (0, 0, 0)}, "--num_clips=0,0,0: expected at least 1 clip"),
        ({"num_clips": (5, -1, 0)}, "--num_clips=5,-1,0: expected at least 1 clip, and none"),
        ({"seed": -1}, "--seed=-1: expected 0 or more"),
        ({"max_events": 0}, "--max_events=0: expected at least 1"),
        ({"snr_db": (9.0, 3.0)}, "--snr_db=9,3: expected two levels"),
        ({"snr_db": (float("nan"), 3.0)}, "--snr_db=nan,3: expected two levels"),
        ({"snr_db": (3.0,)}, "--snr_db=3: expected two levels"),
        ({"shares": (0.5, 0.5)}, "--shares=0.5,0.5: expected three parts"),
        ({"shares": (0.9, 0.2, 0.1)}, "--shares=0.9,0.2,0.1: expected three parts"),
        ({"shares": (1.2, -0.1, -0.1)}, "--shares=1.2,-0.1,-0.1: expected three parts"),
        ({"duration_s": 0.0}, "--duration_s=0: expected seconds from 0.1 to 600"),
        ({"sample_rate_hz": 10}, "--sample_rate_hz=10: expected at least 1000 Hz"),
    ],
)
def test_choices_out_of_range_are_refused(choices, message):
    with pytest.raises(InputError) as error:
        ScenesSpec(**{"num_clips": ONE_EACH, **choices})
    assert str(error.value).startswith(message)
