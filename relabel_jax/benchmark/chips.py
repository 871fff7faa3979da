"""Chips that programs are compiled for without a device, and what a compiler needs to know."""

import dataclasses
import math
import re

from relabel_jax.errors import InputError, install_command


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip by its maker's public figures.

    Attributes:
      memory: bytes.
      bandwidth: bytes a second between the memory and the chip.
      flop_per_s: the peak of matrix products, by precision (`models.waveform_cnn.PRECISIONS`).
      source: the page with these figures.
      clock_hz: cycles a second, to turn a compiler's cycles into time; None if it gives none.
      host: the prefix of `TPU_ACCELERATOR_TYPE`; "" for a GPU.
    """

    memory: float
    bandwidth: float
    flop_per_s: dict[str, float]
    source: str
    clock_hz: float | None = None
    host: str = ""


def _tpu(bf16: float) -> dict[str, float]:
    """A TPU multiplies bfloat16; three passes give 16 bits of a factor, six passes 24."""
    return {"bf16": bf16, "tf32": bf16 / 3, "f32": bf16 / 6}


_HOPPER = {"bf16": 989e12, "tf32": 494.7e12, "f32": 66.9e12}  # without sparsity
# v5e's clock follows from 197 TFLOP/s and four units of 128 x 128 products a cycle. The clock of
# v6e is not published, so 1.75 GHz is assumed: compare its times only with each other.
CHIPS = {
    "tpu:v5e": Chip(
        *(16e9, 819e9, _tpu(197e12), "cloud.google.com/tpu/docs/v5e"), 1.5e9, "v5litepod"
    ),
    "tpu:v6e": Chip(*(32e9, 1600e9, _tpu(918e12), "cloud.google.com/tpu/docs/v6e"), 1.75e9, "v6e"),
    "gpu:h100": Chip(80e9, 3.35e12, _HOPPER, "nvidia.com/en-us/data-center/h100 (SXM)"),
    "gpu:h200": Chip(141e9, 4.8e12, _HOPPER, "nvidia.com/en-us/data-center/h200 (SXM)"),
}

# XLA's description of a Hopper GPU, in the format of `xla/backends/gpu/target_config` in
# github.com/openxla/xla. The figures are in NVIDIA's CUDA C++ Programming Guide, table "Technical
# Specifications per Compute Capability", and in the data sheets of the cards.
_HOPPER_CONFIG = """\
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: {bandwidth:.0f}
  device_memory_size: {memory:.0f}
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for.

    Attributes:
      name: such as `tpu:v5e:2x2` or `gpu:h100`.
      chip: the chip.
      topology: the grid of a TPU's chips, such as `2x2`; "" for a GPU.
    """

    name: str
    chip: Chip
    topology: str

    @classmethod
    def parse(cls, name: str) -> "Target":
        """Parses a target of `--compile_for`.

        Raises:
          InputError: there is no such target.
        """
        chip, topology = name, ""
        if name.startswith("tpu:"):
            chip, _, topology = name.rpartition(":")
        if chip not in CHIPS or (topology and not re.fullmatch(r"[1-9]\d?x[1-9]\d?", topology)):
            raise InputError(
                f"--compile_for: {name!r} is not a target; expected tpu:v5e:ROWSxCOLUMNS, "
                "tpu:v6e:ROWSxCOLUMNS, gpu:h100 or gpu:h200, such as tpu:v5e:2x2"
            )
        return cls(name, CHIPS[chip], topology)

    @property
    def is_tpu(self) -> bool:
        """Whether it is a TPU."""
        return bool(self.topology)

    @property
    def default_precision(self) -> str:
        """How JAX rounds the factors of products of float32 arrays by default."""
        return "bf16" if self.is_tpu else "tf32"

    @property
    def topology_name(self) -> str:
        """The grid by the name that JAX knows, such as `v5e:2x2`."""
        return self.name.removeprefix("tpu:")

    @property
    def packages(self) -> tuple[str, ...]:
        """The modules that compile for it."""
        return ("libtpu",) if self.is_tpu else ("jax_cuda12_plugin", "jax_plugins.xla_cuda12")

    @property
    def missing(self) -> str:
        """The line that says what to install if a module is missing."""
        what, extra = (
            ("libtpu", "tpu_check") if self.is_tpu else ("JAX's plugin for CUDA", "gpu_check")
        )
        return f"{self.name}: {what} is not installed; run {install_command(extra)}"

    def num_chips(self) -> int | None:
        """The chips of the topology; None if any number is possible."""
        return math.prod(map(int, self.topology.split("x"))) if self.is_tpu else None

    def environment(self) -> dict[str, str]:
        """The variables of a process that compiles for this target, set before JAX starts."""
        variables = {"JAX_PLATFORMS": "cpu"}
        if self.is_tpu:
            variables |= {
                "TPU_SKIP_MDS_QUERY": "1",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0",
                "TPU_ACCELERATOR_TYPE": f"{self.chip.host}-{self.num_chips()}",
                "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
            }
        return variables

    def gpu_config(self) -> str:
        """XLA's description of the GPU, as text."""
        return _HOPPER_CONFIG.format(
            bandwidth=self.chip.bandwidth,
            memory=self.chip.memory,
            name=f"NVIDIA {self.name.removeprefix('gpu:').upper()}",
        )
