"""Simulated raters, who label the miniature's clips with the two habits of AudioSet's raters.

For each event they name the precise class or, with probability `general_only`, any one of its
ancestors instead. Then, for each class that they named, they also name each parent, unless they
leave it out. Each edge of the ontology has its own rate for leaving out the parent. They repeat
this for the parents that they named. They never name an abstract or blacklisted class, and never a
wrong one: their labels are a subset of the truth.
"""

from collections.abc import Sequence

import numpy as np
import scipy.special

from data_prep.miniature_spec import Draw, MiniatureSpec, ontology
from data_prep.rater_habits import Habits
from data_prep.raters import rate
from data_prep.synthetic_labels import label_matrix
from relabel_jax.labels.ontology import Ontology


def is_offered() -> np.ndarray:
    """bool[classes]: the classes that raters may choose, neither abstract nor blacklisted."""
    return ~(ontology().is_abstract | ontology().is_blacklisted)


def left_out_rates(spec: MiniatureSpec) -> np.ndarray:
    """float64[classes, classes]: at [p, c] the rate at which p is left out beside its child c.

    The rates are Beta quantiles, spread evenly over the edges in random order. So some parents are
    nearly always left out and some hardly ever, as in AudioSet (Rain without Water 99%, Electric
    guitar without Guitar 15%), and the mean is exact. Elsewhere the rates are zero.
    """
    is_parent = ontology().is_parent
    num_edges = int(is_parent.sum())
    mean = spec.parent_left_out
    if 0 < mean < 1:
        quantiles = (spec.generator(Draw.RATES).permutation(num_edges) + 0.5) / num_edges
        edge_rates = scipy.special.betaincinv(2 * mean, 2 * (1 - mean), quantiles)
    else:
        edge_rates = np.full(num_edges, mean)
    rates = np.zeros(is_parent.shape)
    rates[is_parent] = edge_rates
    return rates


def rate_clip(
    spec: MiniatureSpec, number: int, events: Sequence[int], rates: np.ndarray
) -> set[int]:
    """The labels that the raters choose for one clip.

    Args:
      spec: gives `seed` and `general_only`.
      number: the clip's number.
      events: class numbers of the events, the precise truth.
      rates: the result of `left_out_rates`.

    Returns:
      The class numbers chosen; at least one for each event.
    """
    rng = spec.generator(Draw.RATERS, number)
    offered = is_offered()
    chosen: set[int] = set()
    for event in events:
        general = np.flatnonzero(ontology().ancestors(event) & offered)
        only_general = rng.random() < spec.general_only or not offered[event]
        named = [int(rng.choice(general)) if only_general and len(general) else event]
        while named:
            child = named.pop()
            chosen.add(child)
            for parent in np.flatnonzero(ontology().is_parent[:, child] & offered).tolist():
                if rng.random() >= rates[parent, child]:
                    named.append(parent)
    return chosen


def audioset_labels(
    clip_ids: Sequence[str], truth: Sequence[set[int]], seed: int
) -> list[set[int]]:
    """The labels that raters with AudioSet's habits choose (`data_prep.raters`).

    Args:
      clip_ids: the ids of the clips.
      truth: the true classes of AudioSet's ontology, with all ancestors.
      seed: seed of the random numbers.
    """
    audioset = Ontology.audioset()
    habits = Habits.read(None, audioset)
    chosen = rate(label_matrix(truth, audioset), clip_ids, audioset, habits, seed)
    return [set(np.flatnonzero(row).tolist()) for row in chosen]


def true_labels(events: Sequence[int], of: Ontology | None = None) -> set[int]:
    """The events' classes and all of their ancestors.

    Args:
      events: class numbers.
      of: their ontology; None for the miniature's own.
    """
    ancestor_sets = (of or ontology()).ancestor_sets
    return set(events).union(*(ancestor_sets[event] for event in events))


def parents_chosen(labels: Sequence[set[int]], of: Ontology | None = None) -> float:
    """The share of labels with an offered parent that have such a parent beside them.

    For AudioSet's raters the same count gives 0.52. NaN if no label has an offered parent.
    """
    classes = of or ontology()
    offered_parents = classes.is_parent & ~(classes.is_abstract | classes.is_blacklisted)[:, None]
    answered = [
        bool(chosen & set(parents.tolist()))
        for chosen in labels
        for label in chosen
        if len(parents := np.flatnonzero(offered_parents[:, label]))
    ]
    return float(np.mean(answered)) if answered else float("nan")
