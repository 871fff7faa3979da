"""How many steps run in one call of a program."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

from relabel_jax.models import backbone
from relabel_jax.models.backbone import Network

# The host checks a chunk and sends the next one while the devices compute. That needs some time.
_SECONDS_A_CALL = 0.1
_LEAST = 8
_MOST_BYTES = 1 << 28  # of the inputs of a call, if they are streamed
# The rate of a step of the paper's network on a TPU v6e, by the compiler's estimates. On slower
# devices a call lasts longer.
_FLOP_PER_S = 1e14


def steps_per_call(
    network: Network, variables: Any, batch: jax.ShapeDtypeStruct, members_a_device: int = 1
) -> int:
    """Returns the number of steps in a call: 8 on a CPU, where a step is long.

    On an accelerator a call lasts 0.1 s or more. The number follows from the arithmetic of the
    network, so it is the same in each start of a run.

    Args:
      network: the network that is trained.
      variables: its variables, or their shapes and dtypes.
      batch: shape and dtype of a batch.
      members_a_device: members that a device computes in a call.
    """
    if jax.default_backend() == "cpu":
        return _LEAST
    step_flop = 3 * members_a_device * forward_flop(network, variables, batch)
    most = _MOST_BYTES // (batch.size * batch.dtype.itemsize)
    steps = math.ceil(_SECONDS_A_CALL * _FLOP_PER_S / max(1, step_flop))
    return max(_LEAST, min(steps, most))


def forward_flop(network: Network, variables: Any, batch: jax.ShapeDtypeStruct) -> int:
    """Counts the multiplications and additions of the matrix products and convolutions.

    Args:
      network, variables, batch: see `steps_per_call`. The network is in evaluation mode.
    """
    plain = backbone.exportable(network)  # other forms have loops, whose turns are not counted
    program = jax.make_jaxpr(lambda *arguments: plain.apply(*arguments, train=False))
    return sum(map(_flop, _equations(program(variables, batch).jaxpr)))


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
