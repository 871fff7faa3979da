"""Optimizers by name, Optax's, with the constants of the paper or of their authors."""

import functools
from collections.abc import Callable

import optax

OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "adam": functools.partial(optax.adam, eps=1e-7),  # the paper's: Keras's epsilon of that time
    "adamw": optax.adamw,  # weight decay 1e-4
    "sgd": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
    "lamb": optax.lamb,
    "lion": optax.lion,
}
"""By the name that `config.optimizer` has, a function of the learning rate's schedule."""
