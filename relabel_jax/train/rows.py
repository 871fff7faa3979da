"""The inputs of all clips as arrays on a device, in a form that every backend gathers fast."""

import math
from collections.abc import Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

# A TPU stores the last two axes of an array in tiles of 32 bytes x 128 values.
_LANES = 128
_TILE_BYTES = 32 * _LANES


@flax.struct.dataclass
class Rows:
    """Clips that stay on the devices.

    Each clip fills whole tiles of a TPU's memory. In a block [clips, 80000] clips share tiles, and
    a gather copies the whole block in every step.

    Attributes:
      blocks: arrays [clips, *tiled_shape], or their shapes and dtypes. Each has fewer than 2^31
        elements, so an index into it fits into 32 bits.
      shape: the shape of a clip.
    """

    blocks: tuple[Any, ...]
    shape: tuple[int, ...] = flax.struct.field(pytree_node=False)


def tiled_shape(shape: Sequence[int], dtype: np.dtype) -> tuple[int, ...]:
    """Returns the shape of a clip in a block: whole tiles, or one axis if it fills no tile.

    Args:
      shape, dtype: of a clip.
    """
    size, tile = math.prod(shape), _TILE_BYTES // dtype.itemsize
    return (size,) if size < tile else (-(-size // tile) * tile // _LANES, _LANES)


def to_block(clips: np.ndarray, block: np.ndarray) -> None:
    """Writes clips [n, ...] to the first values of a block's rows [n, *tiled_shape]."""
    flat = block.reshape(len(clips), -1)
    flat[:, : math.prod(clips.shape[1:])] = clips.reshape(len(clips), -1)


def gather(resident: Rows | None, inputs: jax.Array) -> jax.Array:
    """Looks up the inputs of clips; returns `inputs` if there are no resident clips.

    Args:
      resident: the clips on the device; None if inputs are streamed.
      inputs: int32[...], the numbers of the clips; or the inputs themselves.

    Returns:
      The inputs, [..., *clip shape].
    """
    if resident is None:
        return inputs
    first, *others = resident.blocks
    rows = jnp.take(first, inputs, axis=0, mode="clip")
    start = len(first)
    for block in others:
        is_here = (inputs >= start).reshape(inputs.shape + (1,) * (block.ndim - 1))
        rows = jnp.where(is_here, jnp.take(block, inputs - start, axis=0, mode="clip"), rows)
        start += len(block)
    flat = rows.reshape(*inputs.shape, -1)[..., : math.prod(resident.shape)]
    return flat.reshape(*inputs.shape, *resident.shape)
