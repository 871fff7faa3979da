"""How convolutions are computed, as a static argument of the functions that compute them."""

import dataclasses

import jax

from relabel_jax.ops import cpu_devices

FORMULATIONS = ("lax", "direct", "toom_cook", "grouped_time")

_TPU_WIDTHS = {"TPU v6 lite": 256, "TPU7x": 256}
"""The least number of values in a row of a group, by `device_kind`: the matrix unit's side."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """Sizes that decide which form of a convolution is used. They change speed, not results.

    The defaults were measured with benchmarks/convolution.py on 2 cores with 2 MiB of L2 cache
    each. Lengths are those of a layer's outputs.

    Attributes:
      toom_cook_length: the length from which Toom-Cook pays.
      toom_cook_channels: the number of channels, of inputs on the grid and of outputs, from which
        Toom-Cook pays.
      im2col_length: the length from which im2col pays.
      im2col_width: the least number of values in a row of the grid for im2col. If a row has fewer,
        several rows are joined.
      im2col_dtypes: the dtypes for which im2col replaces the other forms.
      long: the length from which the direct form computes gradients clip by clip or part by part.
      part: the rows of such a part. Values from 512 to 2048 are equally fast.
      block_bytes: the size of a block's largest arrays; None for the default of
        `Formulation.block_bytes`.
      group_length: the length from which grouped time pays.
      group_lanes: a row of a group has a multiple of this number of values.
      group_width: the least number of values in a row of a group.
      group_most: the most steps in a row. Layers that would need more are not grouped.
    """

    toom_cook_length: int = 100
    toom_cook_channels: int = 32
    im2col_length: int = 100
    im2col_width: int = 48
    im2col_dtypes: tuple[str, ...] = ("bfloat16",)
    long: int = 300
    part: int = 2048
    block_bytes: int | None = None
    group_length: int = 900
    group_lanes: int = 128
    group_width: int = 128
    group_most: int = 8


@dataclasses.dataclass(frozen=True)
class Formulation:
    """How convolutions are computed. The result is the same up to rounding.

    Attributes:
      name: one of `FORMULATIONS`.
      cores_share: whether several cores work on what one CPU device computes. Otherwise each core
        is a device. Only `direct` and `toom_cook` depend on it.
      tuning: sizes that decide on details.

    Raises:
      ValueError: the name is unknown.
    """

    name: str = "lax"
    cores_share: bool = True
    tuning: Tuning = Tuning()

    def __post_init__(self):
        if self.name not in FORMULATIONS:
            raise ValueError(f"formulation {self.name!r} is none of {', '.join(FORMULATIONS)}")

    @classmethod
    def resolve(cls, name: str = "auto", device: jax.Device | None = None) -> "Formulation":
        """The formulation for a device, with the sizes that suit it.

        Args:
          name: one of `FORMULATIONS`, or "auto" for the fastest on the device.
          device: the kind of device to compute on; None for JAX's default backend.

        Raises:
          ValueError: the name is unknown.
        """
        platform = jax.default_backend() if device is None else device.platform
        if name == "auto":
            name = {"cpu": "toom_cook", "tpu": "grouped_time"}.get(platform, "lax")
        tuning = Tuning()
        if platform == "tpu":
            kind = (device or jax.local_devices()[0]).device_kind
            tuning = Tuning(group_width=_TPU_WIDTHS.get(kind, tuning.group_width))
        return cls(name, cpu_devices.cores_share(), tuning)

    @property
    def uses_lax(self) -> bool:
        """Whether a convolution is one operation of XLA, with JAX's gradient."""
        return self.name in ("lax", "grouped_time")

    @property
    def unroll(self) -> int:
        """Blocks that a loop computes in one turn.

        If cores share a device, part of a block's work runs on one core only. A second block in the
        same turn keeps the other cores busy.
        """
        return 2 if self.cores_share else 1

    @property
    def block_bytes(self) -> int:
        """Bytes that a block's largest arrays may take.

        If cores share a device, blocks must be large enough to be worth dividing. If each core is
        a device, arrays that fit into its cache are faster. With one device of 2 cores, blocks of 1
        and 2 MiB are 13% and 5% slower than blocks of 4 MiB. With two devices, blocks of 1 MiB are
        7% faster in bfloat16 and equally fast in float32.
        """
        if self.tuning.block_bytes is not None:
            return self.tuning.block_bytes
        return (4 if self.cores_share else 1) << 20
