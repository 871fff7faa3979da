"""How often AudioSet has each class, for synthetic clips that are to have its long tail."""

import numpy as np

from data_prep.rater_habits import Habits
from relabel_jax.labels.ontology import Ontology


def event_rates(ontology: Ontology, available: np.ndarray | None = None) -> np.ndarray:
    """How often each class is the most precise class of an event, by AudioSet's counts.

    A clip counts for each class that the raters named with nothing below it. A clip that they named
    only in general has one of the kinds all the same. So the count of a class is divided among its
    children, in proportion to the counts at or below them, and so on downwards. If the class itself
    is available, it counts as one more child with the mean of the others.

    Args:
      ontology: the ontology.
      available: bool[classes], the classes that can be drawn. One that the raters never named gets
        the rate of the rarest one that they named. None stands for the classes that they named and
        that have none of these below.

    Returns:
      float64[classes]; they sum to 1.

    Raises:
      InputError: the ontology has no class of AudioSet.
    """
    habits = Habits.read(None, ontology)
    has_children = ontology.is_parent.any(axis=1)
    counts = np.where(has_children, habits.alone, habits.clips)
    if available is not None:
        counts *= available | (ontology.is_ancestor & available).any(axis=1)
    at_or_below = counts.copy()
    for number in reversed(ontology.parents_first):
        at_or_below[number] += at_or_below[ontology.is_parent[number]].sum()
    for number in ontology.parents_first:
        shares = np.where(ontology.is_parent[number], at_or_below, 0.0)
        if shares.any():
            if available is not None and available[number]:
                shares[number] = shares[shares > 0].mean()
            divided, counts[number] = counts[number], 0.0
            counts += divided * shares / shares.sum()
    if available is not None:
        counts *= available
        if counts.any():
            counts = np.where(available, np.maximum(counts, counts[counts > 0].min()), 0.0)
        else:
            counts = available.astype(np.float64)
    return counts / counts.sum()
