"""SpecAugment: masks over frames and bands of a spectrogram in training.

Park et al., "SpecAugment: a simple data augmentation method for automatic speech recognition"
(2019), without its time warping. Each clip has its own masks. The width of a mask is a random whole
number below its limit, as in torchaudio and in PANNs' code, and its place is random.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from relabel_jax.errors import InputError

STREAM = "specaugment"
"""The name of the random stream that a network with masks needs."""


def check_masks(masks: Sequence[int]) -> None:
    """Raises InputError if `masks` is neither empty nor as `spec_augment` expects it."""
    is_right = not masks or (
        len(masks) == 4 and all(type(number) is int and number >= 0 for number in masks)
    )
    if not is_right:
        raise InputError(
            "config.model.spec_augment: expected nothing, or four numbers of 0 or more (masks over "
            "frames, their width; masks over bands, their width), such as (2,64,2,8), got "
            f"{masks!r}"
        )


def random_streams(masks: Sequence[int]) -> tuple[str, ...]:
    """The random streams that the masks need."""
    return (STREAM,) if masks else ()


def spec_augment(
    spectrograms: jax.Array, key: jax.Array, masks: Sequence[int], fill: float = 0.0
) -> jax.Array:
    """Masks frames and bands.

    Args:
      spectrograms: float32[batch, frames, bands].
      key: the key of the stream `STREAM`.
      masks: the number of masks over frames, the limit of their width in frames, and the same two
        of the masks over bands.
      fill: the value under a mask.

    Returns:
      The spectrograms, with `fill` under the masks.
    """
    of_frames, of_bands = jax.random.split(key)
    num_clips, num_frames, num_bands = spectrograms.shape
    is_masked = (
        _stripes(of_frames, num_clips, num_frames, *masks[:2])[:, :, None]
        | _stripes(of_bands, num_clips, num_bands, *masks[2:])[:, None, :]
    )
    return jnp.where(is_masked, fill, spectrograms)


def _stripes(key: jax.Array, num_clips: int, size: int, number: int, limit: int) -> jax.Array:
    """bool[num_clips, size]: True under one of `number` masks narrower than `limit`."""
    of_widths, of_places = jax.random.split(key)
    shape = (num_clips, number)
    widths = jax.random.randint(of_widths, shape, 0, max(1, min(limit, size)))
    begins = jax.random.randint(of_places, shape, 0, size - widths + 1)
    positions = jnp.arange(size)[None, None, :]
    is_inside = positions >= begins[..., None]
    is_inside &= positions < (begins + widths)[..., None]
    return is_inside.any(axis=1)
