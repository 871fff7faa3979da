"""What is done elementwise after a convolution and before its gradients, and summed by channel.

On a CPU memory is slow: a pass over the activations of a long layer costs a tenth of its
convolution. So the convolution's loops take these along, block by block, while a block is in cache.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from relabel_jax.ops import cpu_devices

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


# For ELU(x): x is halved so often, and terms of the series at so small an argument are enough.
_HALVINGS = 4
_TERMS = 10
_MINUS_ONE = -17.5  # where expm1 is -1 in float32


def elu(x: jax.Array) -> jax.Array:
    """ELU for a loop's blocks, in float32 within 4 units in the last place; without a gradient.

    Where each core is a device, XLA's expm1 would be a twentieth of a training step. This takes 0.6
    of its time: the series at z = x / 16, and four times expm1(2 z) = expm1(z) (expm1(z) + 2).
    (With x = n ln 2 + r and 2^n it is no faster, and one value in ten million was wrong: LLVM
    computed n twice, once with a fused multiply-add.) Where cores share, XLA's is faster, as XLA
    divides among them what it takes for long.
    """
    if x.dtype != jnp.float32 or cpu_devices.cores_share():
        return nn.elu(x)
    z = jnp.clip(x, _MINUS_ONE, 0) * 0.5**_HALVINGS
    series: Any = 1 / math.factorial(_TERMS)
    for n in range(_TERMS - 1, 1, -1):
        series = series * z + 1 / math.factorial(n)
    expm1 = series * (z * z) + z
    for _ in range(_HALVINGS):
        expm1 = expm1 * expm1 + (expm1 + expm1)
    return jnp.where(x > 0, x, expm1)


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
