"""What is done elementwise after a convolution and before its gradients, and summed by channel.

On a CPU memory is slow: a pass over the activations of a long layer costs a tenth of its
convolution. So the convolution's loops take these along, block by block, while a block is in cache.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Addends = tuple[jax.Array, ...]


class After(NamedTuple):
    """What follows a convolution.

    Attributes:
      values: outputs [clips, rows, channels] -> what to store, of that shape.
      addends: what is stored -> arrays of its shape to sum.
    """

    values: Callable[[jax.Array], jax.Array]
    addends: Callable[[jax.Array], Addends]


Before = Callable[..., tuple[jax.Array, Addends]]
"""Arrays [clips, rows, channels] -> the cotangent of the outputs, and arrays to sum."""


def row_sums(addends: Sequence[jax.Array]) -> Addends:
    """Sums over all axes but the last."""
    return tuple(addend.sum(range(addend.ndim - 1)) for addend in addends)


def add_sums(sums: Sequence[jax.Array], addends: Sequence[jax.Array]) -> Addends:
    """`sums` and `row_sums(addends)`."""
    return tuple(map(jnp.add, sums, row_sums(addends)))


def no_sums(addends: Callable[..., Addends], *arrays: jax.Array) -> Addends:
    """Zeros for the sums of `addends(*arrays)`."""
    return tuple(jnp.zeros(a.shape[-1], a.dtype) for a in jax.eval_shape(addends, *arrays))


def unwritten(shape: Sequence[int], like: jax.Array) -> jax.Array:
    """An array to be written, of the dtype of `like`, which must not be a constant.

    XLA's CPU compiler has no array without values: this one is filled first, which for the large
    arrays takes 6% of a training step. Where many steps run, one step's are the next one's
    (`convolution.Buffers`).

    Not zeros: XLA would make these once for all steps of a program, and copy them in each.
    """
    return jnp.broadcast_to(lax.slice_in_dim(like.ravel(), 0, 1), shape)
