"""How many steps run in one call of a program."""

import math
from typing import Any

import jax

from relabel_jax.models.backbone import Network
from relabel_jax.models.flop import train_flop

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
    step_flop = members_a_device * train_flop(network, variables, batch)
    most = _MOST_BYTES // (batch.size * batch.dtype.itemsize)
    steps = math.ceil(_SECONDS_A_CALL * _FLOP_PER_S / max(1, step_flop))
    return max(_LEAST, min(steps, most))
