"""An exponential moving average of the weights."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Unaveraged(NamedTuple):
    """The variables that the optimizer changes. The `opt_state` of a state with averages.

    Attributes:
      params, batch_stats: the variables after the last step, which are not averaged.
      opt_state: the optimizer's state.
    """

    params: Any
    batch_stats: Any
    opt_state: optax.OptState


def moved(averages: Any, values: Any, decay: float, num_steps: jax.Array) -> Any:
    """Returns the averages of arrays over the steps.

    The average after n steps is `sum(decay^(n - i) values_i) / sum(decay^(n - i))` over the steps i
    from 1 to n: that of `optax.ema` with `debias`. The values before the first step have no part.

    Args:
      averages: the averages after the step before; of any finite values before the first step.
      values: the values after this step.
      decay: in 0 to 1, without 1.
      num_steps: int32[], n.
    """

    def sum_of_powers(n: jax.Array) -> jax.Array:  # times 1 - decay; exact also for decays near 1
        return -jnp.expm1(n.astype(jnp.float32) * math.log(decay))

    old = decay * sum_of_powers(num_steps - 1) / sum_of_powers(num_steps)

    def of_one(average: jax.Array, value: jax.Array) -> jax.Array:
        return (old * average + (1 - old) * value).astype(value.dtype)

    return jax.tree.map(of_one, averages, values)
