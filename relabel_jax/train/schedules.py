"""How the learning rate rises and falls over a training."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

DECAYS = ("exponential", "linear", "cosine")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The shape of the learning rate.

    The number of epochs of the training has no part in it, so that a training can be prolonged.

    Attributes:
      decay: one of `DECAYS`. `exponential` multiplies the rate by a factor after each epoch, the
        others change it in each step.
      warmup_steps, warmup_epochs: steps or epochs in which the rate rises linearly from 0; at most
        one of them is not 0.
      hold_epochs: whole epochs before the decay begins. A linear or cosine decay does not begin
        before the end of the warm-up either.
      decay_epochs: epochs of a linear or cosine decay.
      final: the share of the rate that remains after a linear or cosine decay.
    """

    decay: str = "exponential"
    warmup_steps: int = 0
    warmup_epochs: float = 0.0
    hold_epochs: int = 0
    decay_epochs: int = 0
    final: float = 0.0

    def rate(
        self, step: jax.Array | int, highest: float, factor: float, steps_per_epoch: int
    ) -> jax.Array:
        """Returns the learning rate at a step.

        Args:
          step: int32[]; 0 is the first.
          highest: the learning rate after the warm-up.
          factor: the factor after each epoch of an exponential decay.
          steps_per_epoch: the number of steps of an epoch.
        """
        warmup = self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)
        begin = max(self.hold_epochs * steps_per_epoch, warmup)
        num_steps = self.decay_epochs * steps_per_epoch
        if self.decay == "linear":
            rate = optax.linear_schedule(highest, highest * self.final, num_steps, begin)(step)
        elif self.decay == "cosine":
            after = jnp.maximum(step - begin, 0)
            rate = optax.cosine_decay_schedule(highest, num_steps, self.final)(after)
        else:
            # Optax would divide the steps in float32, which XLA computes with the reciprocal. For
            # one in eight values of `steps_per_epoch`, many epochs would begin a step late. So the
            # epochs are counted here in integers.
            epochs_done = step // steps_per_epoch
            rate = optax.exponential_decay(highest, 1, factor, self.hold_epochs)(epochs_done)
        return rate * optax.linear_schedule(0.0, 1.0, warmup)(step + 1) if warmup else rate
