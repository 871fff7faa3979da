"""Optax's optimizers by name, with the constants of the paper or Optax's defaults."""

import functools
from collections.abc import Callable

import optax

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": functools.partial(optax.adam, eps=1e-7),  # the paper's, with the epsilon of Keras
    "adamw": optax.adamw,  # weight decay 1e-4
    "amsgrad": optax.amsgrad,
    "sgd": functools.partial(optax.sgd, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop,
    "lamb": optax.lamb,
    "lion": optax.lion,
}
"""Functions of the learning rate's schedule, by their names in `config.optimizer`."""

_DECOUPLED = ("adamw", "lamb", "lion")
_WITHOUT_BETA1 = ("rmsprop",)


def has_beta1(name: str) -> bool:
    """Whether an optimizer has a mean of gradients."""
    return name not in _WITHOUT_BETA1


def optimizer(
    name: str,
    schedule: optax.Schedule,
    weight_decay: float | None = None,
    beta1: float | None = None,
) -> optax.GradientTransformation:
    """Returns an optimizer.

    Args:
      name: one of `OPTIMIZERS`.
      schedule: gives the learning rate at a step.
      weight_decay: `adamw`, `lamb` and `lion` subtract this share of the weights, times the rate.
        The others add this share of the weights to the gradient, as in PyTorch. None: the default
        of the optimizer.
      beta1: decay of the mean of the gradients; the momentum of `sgd`. None: the default.
    """
    options: dict[str, float] = {}
    if beta1 is not None:
        options["momentum" if name == "sgd" else "b1"] = beta1
    if weight_decay is not None and name in _DECOUPLED:
        options["weight_decay"] = weight_decay
    chosen = OPTIMIZERS[name](schedule, **options)
    if weight_decay and name not in _DECOUPLED:
        return optax.chain(optax.add_decayed_weights(weight_decay), chosen)
    return chosen
