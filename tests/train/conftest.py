"""Lone runs, which populations are compared with."""

import pytest
from tiny_training import MEMBERS, population, training

from relabel_jax.train.loop import train

collect_ignore = ["conftest.py"]  # it has no doctest, and shares its name with others


@pytest.fixture(scope="session")
def alone(made_once):
    """The folder of lone runs of all `MEMBERS`."""

    def make(folder):
        for of_member in population(folder, MEMBERS):
            train(training([of_member]))

    return made_once("alone", make)
