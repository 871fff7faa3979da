"""Counts the arithmetic of a network: the multiplications and additions of its products.

The products are matrix products and convolutions by direct sums. All formulations of a network have
the same count, also those that multiply less.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from relabel_jax.models import backbone
from relabel_jax.models.backbone import Network


def forward_flop(network: Network, variables: Any, batch: jax.ShapeDtypeStruct) -> int:
    """Counts the arithmetic of the scores of a batch.

    Args:
      network: the network.
      variables: its variables, or their shapes and dtypes.
      batch: shape and dtype of the batch.
    """
    return _count(_scores(network), variables, batch)


def train_flop(network: Network, variables: Any, batch: jax.ShapeDtypeStruct) -> int:
    """Counts the arithmetic of the scores of a batch and of their gradient by the parameters.

    A product whose factors both depend on parameters counts three times, and one with a single such
    factor twice: the first layer needs no gradient of its inputs.

    Args:
      network, variables, batch: see `forward_flop`.
    """
    scores = _scores(network)

    def derivative(variables, batch):
        # A product has a product in the derivative for each factor that depends on parameters. The
        # gradient transposes these, which does not change their size.
        params = (variables["params"],)
        return jax.jvp(lambda params: scores(variables | {"params": params}, batch), params, params)

    return _count(derivative, variables, batch)


def _scores(network: Network) -> Callable:
    plain = backbone.exportable(network)  # other forms have loops, whose turns are not counted
    return lambda variables, batch: plain.apply(variables, batch, train=False)


def _count(function: Callable, *arguments: Any) -> int:
    return sum(map(_flop, _equations(jax.make_jaxpr(function)(*arguments).jaxpr)))


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)


def _flop(equation: Any) -> int:
    """2 for each product that an output value sums."""
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        summed = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    elif equation.primitive.name == "conv_general_dilated":
        out_axis = equation.params["dimension_numbers"].rhs_spec[0]
        kernel = equation.invars[1].aval.shape
        summed = math.prod(kernel) // kernel[out_axis]
    else:
        return 0
    return 2 * summed * math.prod(equation.outvars[0].aval.shape)
