"""A CPU's cores as JAX devices."""

import os

import jax

# Each device has a fixed cost in a step, about as much as two clips (2 cores).
_CLIPS_A_DEVICE = 12
# Seconds that a device waits for the others before XLA prints an alarm, and seconds from the alarm
# until XLA aborts. XLA's defaults are 20 and 40, which is too short on a busy machine.
_XLA_FLAGS = {
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 600,
    "xla_cpu_collective_call_terminate_timeout_seconds": 7200,
}
# XLA aborts on a flag that it does not know, so later versions get none.
_KNOWS_XLA_FLAGS = (0, 10) <= jax.__version_info__[:2] < (0, 14)


def num_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_share() -> bool:
    """Whether several cores share one CPU device. Otherwise each core is a device."""
    return num_cores() > jax.local_device_count()


def use_cores(batch_size: int) -> None:
    """Divides a CPU's cores among devices that share a batch. Must run before JAX does anything.

    Two devices fill the gaps between each other's operations. This has no effect on a GPU or TPU,
    or if the user has set the number of CPU devices (JAX_NUM_CPU_DEVICES, or XLA_FLAGS).
    """
    _wait_long()
    by_user = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_user or jax.config.jax_num_cpu_devices != -1:
        return
    most = min(num_cores(), batch_size // _CLIPS_A_DEVICE)
    divisors = [number for number in range(1, most + 1) if batch_size % number == 0]
    jax.config.update("jax_num_cpu_devices", max(divisors, default=1))


def _wait_long() -> None:
    """Lets CPU devices wait long for each other, unless XLA_FLAGS says how long."""
    by_user = os.environ.get("XLA_FLAGS", "")
    flags = [f"--{name}={value}" for name, value in _XLA_FLAGS.items() if name not in by_user]
    if _KNOWS_XLA_FLAGS and flags:
        os.environ["XLA_FLAGS"] = " ".join([by_user, *flags]).strip()
