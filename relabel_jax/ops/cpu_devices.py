"""The devices of this machine's cores."""

import os

import jax

# A device has work of its own in each step, about as much as two clips are (2 cores).
_CLIPS_A_DEVICE = 12


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_share() -> bool:
    """Whether several cores work on what a CPU device computes; else each is its own device."""
    return num_cores() > jax.local_device_count()


def use_cores(batch_size: int) -> None:
    """Divides a CPU's cores among devices that share a batch; before anything else that JAX does.

    Two devices fill the gaps between each other's operations. A GPU or TPU is used as it would be
    without, and so is a CPU whose devices the user has set (JAX_NUM_CPU_DEVICES, or XLA_FLAGS).
    """
    by_user = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_user or jax.config.jax_num_cpu_devices != -1:
        return
    most = min(num_cores(), batch_size // _CLIPS_A_DEVICE)
    divisors = [number for number in range(1, most + 1) if batch_size % number == 0]
    jax.config.update("jax_num_cpu_devices", max(divisors, default=1))
