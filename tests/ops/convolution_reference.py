"""The convolution's definition in NumPy, random arrays, and small sizes for blocks."""

import dataclasses

import jax
import numpy as np

from relabel_jax.ops.convolution import convolution
from relabel_jax.ops.convolution_elu import activations_and_moments, computed
from relabel_jax.ops.formulation import Formulation, Tuning

# Table II.
KERNEL_SIZES = (17, 16, 15, 14, 13, 12, 9, 9, 9)
STRIDES = (3,) * 8 + (1,)
FEATURES = (64, 64, 96, 96, 128, 128, 192, 192, 256)
LENGTHS = (80000, 26662, 8883, 2957, 982, 324, 105, 33, 9, 1)

WORST_ERROR = 2e-5  # Relative to the largest value; the real layers reach 4e-6 at batch 2.

# Tiny blocks, parts of a clip and groups, from the smallest shapes that they can have.
TINY = Tuning(
    toom_cook_length=10,
    toom_cook_channels=1,
    im2col_length=10,
    long=10,
    part=7,
    block_bytes=4096,
    group_length=10,
    group_lanes=1,
    group_width=12,
)


def tiny(name, cores_share=True, **tuning):
    """A formulation that divides even small arrays into blocks."""
    return Formulation(name, cores_share, dataclasses.replace(TINY, **tuning))


# im2col instead of Toom-Cook, in all dtypes and not only in bfloat16.
IM2COL = tiny("toom_cook", im2col_dtypes=("float32", "float64"), im2col_width=20)


def brute_force(x, w, dy, stride):
    """The definition and its gradients in float64: (y, dx, dw)."""
    x, w, dy = (np.asarray(array, np.float64) for array in (x, w, dy))
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for tap in range(w.shape[0]):
        rows = np.s_[:, tap : tap + (dy.shape[1] - 1) * stride + 1 : stride]
        if dy.shape[1]:
            y += x[rows] @ w[tap]
            dx[rows] += dy @ w[tap].T
            dw[tap] = np.einsum("btc,btf->cf", x[rows], dy)
    return y, dx, dw


def arrays(batch, time, channels_in, channels_out, kernel_size, stride, dtype=np.float32):
    """Random (inputs, kernel, cotangent of the outputs)."""
    rng = np.random.default_rng([batch, time, channels_in, channels_out, kernel_size, stride])
    time_out = max(0, (time - kernel_size) // stride + 1)
    return (
        rng.normal(size=(batch, time, channels_in)).astype(dtype),
        rng.normal(size=(kernel_size, channels_in, channels_out)).astype(dtype),
        rng.normal(size=(batch, time_out, channels_out)).astype(dtype),
    )


def value_and_gradients(x, w, dy, stride, formulation):
    """The convolution and its gradients: (y, dx, dw)."""

    def compute(x, w, dy):
        y, pull = jax.vjp(lambda x, w: convolution(x, w, stride, formulation), x, w)
        return y, *pull(dy)

    return jax.jit(compute)(x, w, dy)


def activated_and_gradients(x, w, bias, dz, stride, formulation):
    """Batch-normalized ELU of the convolution, and its gradients."""

    def normalized(x, w, bias):
        v, *moments = activations_and_moments(x, w, bias, stride, formulation)
        mean, mean_square = (moment.reshape(1, 1, -1) for moment in moments)
        return (computed(v) - mean) / jax.numpy.sqrt(mean_square - mean**2 + 1e-3)

    def compute(x, w, bias, dz):
        z, pull = jax.vjp(normalized, x, w, bias)
        return z, *pull(dz)

    return jax.jit(compute)(x, w, bias, dz)


def worst_error(got, expected):
    """The largest error of all arrays, each relative to the array's largest value."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        b = np.asarray(b, np.float64)
        if b.size:
            error = np.abs(np.asarray(a, np.float64) - b).max()
            worst = max(worst, error / max(np.abs(b).max(), 1e-30))
    return worst


def check(formulation, batch, time, channels_in, channels_out, kernel_size, stride):
    """Compares a formulation with the definition."""
    x, w, dy = arrays(batch, time, channels_in, channels_out, kernel_size, stride)
    got = value_and_gradients(x, w, dy, stride, formulation)
    assert worst_error(got, brute_force(x, w, dy, stride)) < WORST_ERROR
