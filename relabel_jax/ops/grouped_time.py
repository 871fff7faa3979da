"""Grouped time: consecutive rows of activations side by side, as channels of one row.

An accelerator stores rows in lanes and multiplies in a square unit; both have 128 or 256 places.
The first layers of Table II have 64 and 96 channels, so half of the memory and of the unit would
be empty. If rows hold g steps of time each, X[m, p C + c] = x[g m + p, c], the places are filled.
A convolution of stride s from groups of g to groups of h is again a convolution, of stride s h / g:

    Y[m, q F + f] = sum over j, p, c of X[m s h / g + j, p C + c] W'[j, p C + c, q F + f],
    W'[j, p C + c, q F + f] = W[g j + p - s q, c, f], or 0 outside the kernel's taps.

It is the same function of the same weights, and JAX's gradient of W' gives that of W. The zeros are
multiplied too, but on a unit that would otherwise be half empty.

If h does not divide a layer's length, its last row ends with surplus steps. No step of the next
layer's length reads them. Moments and gradients leave them out (`without_surplus`).
"""

import math
from collections.abc import Sequence

import flax
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from relabel_jax.ops import space_to_depth
from relabel_jax.ops.formulation import Formulation


@flax.struct.dataclass
class Grouped:
    """Activations [batch, length, channels] in groups of consecutive steps.

    Attributes:
      array: float[batch, ceil(length / group), group * channels]. The values of surplus steps are
        finite.
      group: the steps in a row.
      length: the number of steps, without surplus steps.
    """

    array: jax.Array
    group: int = flax.struct.field(pytree_node=False)
    length: int = flax.struct.field(pytree_node=False)

    @classmethod
    def of(cls, x: jax.Array, group: int) -> "Grouped":
        """Groups an array [batch, length, channels]."""
        length = x.shape[1]
        padded = space_to_depth.pad_time(x, 0, -length % group)
        return cls(space_to_depth.to_grid(padded, group), group, length)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, length, channels)."""
        return self.array.shape[0], self.length, self.array.shape[2] // self.group

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the activations."""
        return self.array.dtype

    def steps(self) -> jax.Array:
        """The activations as an array [batch, length, channels]."""
        return space_to_depth.from_grid(self.array, self.group)[:, : self.length]


def group(
    input_shape: Sequence[int], kernel_shape: Sequence[int], stride: int, formulation: Formulation
) -> int:
    """The number of steps in a row of the outputs; 1 if the plain convolution is faster."""
    if formulation.name != "grouped_time":
        return 1
    tuning = formulation.tuning
    kernel_size, _, features = kernel_shape
    if space_to_depth.time_out(input_shape[1], kernel_size, stride) < tuning.group_length:
        return 1
    whole_lanes = math.lcm(features, tuning.group_lanes)
    width = whole_lanes * -(-tuning.group_width // whole_lanes)
    steps = width // features
    return steps if steps <= tuning.group_most else 1


def convolve(
    inputs: jax.Array | Grouped, kernel: jax.Array, stride: int, group_out: int
) -> Grouped:
    """The convolution with outputs in groups.

    Args:
      inputs, kernel, stride: see `convolution.convolution`; the inputs may be in groups.
      group_out: the number of steps in a row of the outputs.
    """
    if isinstance(inputs, Grouped) and stride * group_out % inputs.group:
        inputs = inputs.steps()
    if not isinstance(inputs, Grouped):
        inputs = Grouped.of(_in_rows(inputs), group_out)
    length = space_to_depth.time_out(inputs.length, len(kernel), stride)
    taps = _taps(kernel, stride, inputs.group, group_out)
    step, rows = stride * group_out // inputs.group, -(-length // group_out)
    missing = (rows - 1) * step + len(taps) - inputs.array.shape[1]
    outputs = lax.conv_general_dilated(
        inputs.array,
        taps,
        (step,),
        [(0, missing)],
        dimension_numbers=space_to_depth.LAYOUT,
    )
    return Grouped(outputs, group_out, length)


def _in_rows(x: jax.Array) -> jax.Array:
    """The same array. If it has one channel, a clip is contiguous in memory.

    The convolution needs the clips of a batch beside each other. XLA would put them there before it
    converts them from int16, and 24 clips fill a fifth of the lanes.
    """
    if x.shape[2] > 1:
        return x
    return with_layout_constraint(lax.squeeze(x, (2,)), Layout((0, 1)))[:, :, None]


def _taps(kernel: jax.Array, stride: int, group_in: int, group_out: int) -> jax.Array:
    """W', float[taps, group_in * channels_in, group_out * channels_out]."""
    span = len(kernel) + stride * (group_out - 1)
    span += -span % group_in

    def for_output(q):
        before = stride * q
        padding = ((before, span - before - len(kernel)), (0, 0), (0, 0))
        return jnp.pad(kernel, padding).reshape(span // group_in, -1, kernel.shape[2])

    return jnp.concatenate([for_output(q) for q in range(group_out)], axis=2)


def without_surplus(x: jax.Array, channels: int, length: int) -> jax.Array:
    """Sets surplus steps to zero.

    Args:
      x: [batch, rows, group * channels].
      channels: the channels of a step.
      length: the number of steps that are not surplus.
    """
    if x.shape[1] * x.shape[2] == length * channels:
        return x
    row, lane = (lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:]), axis) for axis in (1, 2))
    return jnp.where(row * x.shape[2] + lane < length * channels, x, jnp.zeros((), x.dtype))
