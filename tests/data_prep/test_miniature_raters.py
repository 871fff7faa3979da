"""The simulated raters against their rules, on many clips without audio."""

import numpy as np
import pytest

from data_prep import synthesis
from data_prep.miniature_clips import draw_events
from data_prep.miniature_raters import left_out_rates, parents_chosen, rate_clip, true_labels
from data_prep.miniature_spec import MiniatureSpec
from data_prep.miniature_spec import ontology as miniature_ontology
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import side_columns

ROOTS = ("Human sounds", "Sounds of things", "Source-ambiguous sounds", "Natural sounds")
# The tolerance for sums of Bernoulli draws is 4.5 standard deviations: 1 false alarm in 150,000.
SIGMAS = 4.5


@pytest.fixture
def ontology() -> Ontology:
    return miniature_ontology()


def closed_under_ancestors(events, ontology) -> set[int]:
    """Follows parents one by one, as a reference for the matrix algebra."""
    reached, waiting = set(), list(events)
    while waiting:
        node = waiting.pop()
        reached.add(node)
        waiting += np.flatnonzero(ontology.is_parent[:, node]).tolist()
    return reached


def drawn(spec: MiniatureSpec, num_clips: int) -> tuple[list[tuple[int, ...]], list[set[int]]]:
    """Events and the raters' labels of many clips, without their audio."""
    rates = left_out_rates(spec)
    events = [
        draw_events(spec, number, np.random.default_rng(number)) for number in range(num_clips)
    ]
    return events, [rate_clip(spec, i, e, rates) for i, e in enumerate(events)]


def test_true_labels_are_the_events_and_all_above(ontology):
    events, _ = drawn(MiniatureSpec(), 200)
    for clip in events:
        assert true_labels(clip) == closed_under_ancestors(clip, ontology)


def test_no_rate_means_that_raters_name_everything_they_may(ontology):
    events, labels = drawn(MiniatureSpec(parent_left_out=0, general_only=0), 200)
    offered = np.flatnonzero(~(ontology.is_abstract | ontology.is_blacklisted)).tolist()
    for clip, chosen in zip(events, labels, strict=True):
        assert chosen == closed_under_ancestors(clip, ontology) & set(offered)
    assert parents_chosen(labels) == 1


def test_full_rate_leaves_every_parent_out(ontology):
    knocking, engine = ontology.find("Engine knocking"), ontology.find("Engine")
    events, labels = drawn(MiniatureSpec(parent_left_out=1, general_only=0), 200)
    assert any(knocking in clip for clip in events)
    for clip, chosen in zip(events, labels, strict=True):
        assert chosen == {engine if event == knocking else event for event in clip}


def test_full_general_only_never_names_a_class_with_something_above_it(ontology):
    spec = MiniatureSpec(parent_left_out=1, general_only=1)
    rates = left_out_rates(spec)
    offered = ~(ontology.is_abstract | ontology.is_blacklisted)
    for number, name in enumerate(synthesis.SOUNDS):
        event = ontology.find(name)
        (label,) = rate_clip(spec, number, [event], rates)
        above = (closed_under_ancestors([event], ontology) - {event}) & set(np.flatnonzero(offered))
        assert label in (above or {event})


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_general_labels_come_at_the_rate_asked_for(ontology, rate):
    spec = MiniatureSpec(parent_left_out=1, general_only=rate)
    rates = left_out_rates(spec)
    event = ontology.find("Acoustic guitar")
    above = ["Guitar", "Plucked string instrument", "Musical instrument", "Music"]
    num_clips = 3000
    labels = [rate_clip(spec, i, [event], rates) for i in range(num_clips)]
    for name, expected in {"Acoustic guitar": 1 - rate, **dict.fromkeys(above, rate / 4)}.items():
        share = np.mean([chosen == {ontology.find(name)} for chosen in labels])
        assert abs(share - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / num_clips)


def test_rates_of_the_edges_have_the_mean_asked_for_and_spread(ontology):
    for mean in (0.1, 0.5, 0.6, 0.9):
        rates = left_out_rates(MiniatureSpec(parent_left_out=mean))
        assert not rates[~ontology.is_parent].any()
        edges = rates[ontology.is_parent]
        assert edges.mean() == pytest.approx(mean, abs=0.01)
        assert edges.min() < mean / 2
        assert edges.max() > (1 + mean) / 2
    other_seed = left_out_rates(MiniatureSpec(seed=1, parent_left_out=0.9))
    assert (other_seed != rates).any()


def test_each_parent_is_left_out_at_the_rate_of_its_edge(ontology):
    spec = MiniatureSpec(parent_left_out=0.5, general_only=0)
    rates = left_out_rates(spec)
    offered = ~(ontology.is_abstract | ontology.is_blacklisted)
    num_clips, num_edges = 400, 0
    for child in map(ontology.find, synthesis.SOUNDS):
        parents = np.flatnonzero(ontology.is_parent[:, child] & offered)
        if not offered[child] or not len(parents):
            continue
        labels = [rate_clip(spec, i, [child], rates) for i in range(num_clips)]
        for parent in parents:
            num_edges += 1
            rate = rates[parent, child]
            left_out = np.mean([parent not in chosen for chosen in labels])
            tolerance = SIGMAS * np.sqrt(rate * (1 - rate) / num_clips) + 1 / num_clips
            assert abs(left_out - rate) < tolerance
    assert num_edges > 25


def test_default_raters_choose_as_many_parents_as_audiosets(ontology):
    """0.5194 of AudioSet's labels with a used parent have such a parent beside them."""
    _, labels = drawn(MiniatureSpec(), 3000)
    barred = ontology.is_abstract | ontology.is_blacklisted
    answered = []
    for chosen in labels:
        for label in chosen:
            parents = {p for p in range(len(ontology)) if ontology.is_parent[p, label]}
            parents = {p for p in parents if not barred[p]}
            if parents:
                answered.append(bool(parents & chosen))
    assert np.mean(answered) == pytest.approx(0.5194, abs=0.03)
    assert parents_chosen(labels) == np.mean(answered)


def test_every_class_and_every_side_gets_its_share(ontology):
    num_clips = 600
    events, labels = drawn(MiniatureSpec(), num_clips)
    chosen = np.zeros((num_clips, len(ontology)), bool)
    for row, clip in enumerate(labels):
        chosen[row, list(clip)] = True
    counts = np.bincount(np.concatenate(events), minlength=len(ontology))
    assert counts[[ontology.find(name) for name in synthesis.SOUNDS]].min() >= 20
    assert {len(set(clip)) for clip in events} == {2, 3}
    for root in ROOTS:
        is_target = chosen[:, side_columns(ontology, ontology.find(root), "target")].any(axis=1)
        assert 0.25 < is_target.mean() < 0.5, root
