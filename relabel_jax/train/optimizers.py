"""Optax's optimizers by name, with the constants of the paper or Optax's defaults."""

import functools
from collections.abc import Callable

import optax

OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "adam": functools.partial(optax.adam, eps=1e-7),  # the paper's, with the epsilon of Keras
    "adamw": optax.adamw,  # weight decay 1e-4
    "sgd": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
    "lamb": optax.lamb,
    "lion": optax.lion,
}
"""Functions of the learning rate's schedule, by their names in `config.optimizer`."""
