"""Mixup of a batch whose labels are partly masked.

Zhang et al., "mixup: beyond empirical risk minimization" (2018), mix two clips: the inputs are
`w_1 x_1 + w_2 x_2` and the targets `w_1 y_1 + w_2 y_2`, with weights that sum to 1. They assume
that all labels are known. Let `k_i` be 1 where the label `y_i` is known, and 0 where it is masked.
Two rules follow, which agree where everything is known:

- `strict`: an entry of the mixture is known where it is known in every part with a weight above 0.
  Its target is `sum(w_i y_i)`.
- `known`: an entry is known where it is known in a part with a weight above 0. The known parts
  alone make up the target: `sum(w_i k_i y_i) / sum(w_i k_i)`.

Each has a price. Let a class be masked in a share m of the clips, whatever the partner has, and let
it sound in a share p of the clips in which it is masked.

- `strict` keeps (1 - m)^2 of the entries and `known` keeps 1 - m^2. So `strict` loses 2 m (1 - m)
  more of them.
- `strict` has the target of full knowledge. If part 2 is masked, full knowledge would expect
  `w_1 y_1 + w_2 p`, but `known` has the target `y_1`. In the mean it is wrong by `w_2 (y_1 - p)`.
  The known part nearly always lacks the class. Then `known` teaches that a class is silent which
  sounds with the weight `w_2` in a share p of these mixtures. The labelings mask a class where it
  may well sound, so p is not small.

The default is `strict`. Labels are masked because a wrong target costs more than a missing one.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

RULES = ("strict", "known")


@dataclasses.dataclass(frozen=True)
class Mixup:
    """Mixes each clip of a batch with the clip after it.

    The order of the clips is random, so the partners are too. They are on the same device.

    Attributes:
      alpha: the weights come from Beta(alpha, alpha), one draw for each mixture. Each clip has the
        larger weight in one mixture. 0: no mixup.
      share: the share of the clips that are mixed; the others stay as they are.
      rule: one of `RULES`, see the module.
    """

    alpha: float = 0.0
    share: float = 1.0
    rule: str = "strict"

    def __bool__(self) -> bool:
        return self.alpha > 0

    def __call__(self, key: jax.Array, batch: "Batch") -> "Batch":
        """Returns the mixtures of a batch.

        Args:
          key: the key of this step, device and member.
          batch: at least two clips.
        """
        of_weights, of_share = jax.random.split(key)
        num_clips = len(batch.inputs)
        draw = jax.random.beta(of_weights, self.alpha, self.alpha, (num_clips,), jnp.float32)
        weights = jnp.maximum(draw, 1 - draw)
        if self.share < 1:
            is_mixed = jax.random.bernoulli(of_share, self.share, (num_clips,))
            weights = jnp.where(is_mixed, weights, 1.0)
        return mix(batch, weights, self.rule)


class Batch(NamedTuple):
    """The clips of a step.

    Attributes:
      inputs: [batch, ...].
      labels: bool[batch, classes], or float32 between 0 and 1.
      masked: bool[batch, classes].
      teacher: float32[batch, classes], see `losses.distillation`; None without a teacher.
    """

    inputs: jax.Array
    labels: jax.Array
    masked: jax.Array
    teacher: jax.Array | None = None


def mix(batch: Batch, weights: jax.Array, rule: str) -> Batch:
    """Mixes each clip with the clip after it, and the last with the first.

    Args:
      batch: at least two clips.
      weights: float32[batch] above 0, at most 1: the weight of each clip. The clip after it has the
        rest.
      rule: one of `RULES`, see the module.

    Returns:
      The mixtures. Inputs and labels are float32. The label of a masked entry has no part in them.
    """
    rest = 1 - weights

    def mean(values: jax.Array) -> jax.Array:
        shape = (-1, *(1,) * (values.ndim - 1))
        after = jnp.roll(values, -1, axis=0)
        return weights.reshape(shape) * values + rest.reshape(shape) * after

    labels = jnp.where(batch.masked, 0.0, batch.labels)
    if rule == "strict":
        masked_after = jnp.roll(batch.masked, -1, axis=0) & (rest > 0)[:, None]
        masked = batch.masked | masked_after
        labels = mean(labels)
    else:
        known = mean((~batch.masked).astype(jnp.float32))
        masked = known == 0
        labels = mean(labels) / jnp.where(masked, 1.0, known)
    return Batch(
        mean(batch.inputs.astype(jnp.float32)),
        labels,
        masked,
        None if batch.teacher is None else mean(batch.teacher),
    )
