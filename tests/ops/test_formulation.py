"""The choice of a formulation, and its blocks."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolution_reference import (
    FEATURES,
    IM2COL,
    KERNEL_SIZES,
    LENGTHS,
    STRIDES,
    activated_and_gradients,
    arrays,
    worst_error,
)

from relabel_jax.ops import cpu_devices, grouped_time, im2col, toom_cook, toom_cook_matrices
from relabel_jax.ops.formulation import FORMULATIONS, Formulation, Tuning

pytestmark = pytest.mark.slow


def test_auto_follows_the_backend(monkeypatch):
    assert Formulation.resolve().name == "toom_cook"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert Formulation.resolve().name == "lax"


@pytest.mark.parametrize(
    ("kind", "groups"),
    [("TPU v5 lite", [2, 2, 4, 4]), ("TPU v6 lite", [4, 4, 4, 4]), ("TPU v99", [2, 2, 4, 4])],
)
def test_a_tpu_groups_the_steps_of_its_long_layers(kind, groups):
    """A row has a multiple of 128 values, and at least as many as the matrix unit has rows."""
    device = types.SimpleNamespace(platform="tpu", device_kind=kind)
    formulation = Formulation.resolve("auto", device)
    found = [
        grouped_time.group(
            (24, LENGTHS[layer], FEATURES[layer - 1] if layer else 1),
            (KERNEL_SIZES[layer], FEATURES[layer - 1] if layer else 1, FEATURES[layer]),
            STRIDES[layer],
            formulation,
        )
        for layer in range(9)
    ]
    assert found == [*groups, *[1] * 5]


@pytest.mark.parametrize("cores_share", [True, False])
def test_resolving_a_name_notes_whether_cores_share(cores_share, monkeypatch):
    monkeypatch.setattr(cpu_devices, "cores_share", lambda: cores_share)
    for name in FORMULATIONS:
        assert Formulation.resolve(name) == Formulation(name, cores_share)


def test_an_unknown_name_is_refused():
    for create in (Formulation, Formulation.resolve):
        with pytest.raises(ValueError, match="'fft' is none of lax, direct, toom_cook, group"):
            create("fft")


def test_a_trace_reads_no_global_of_the_process(monkeypatch):
    """The program depends only on the formulation, in both directions."""

    def refuse():
        raise AssertionError("read while a program is traced")

    for name in ("cores_share", "num_cores"):
        monkeypatch.setattr(cpu_devices, name, refuse)
    x, w, dz = arrays(2, 139, 1, 4, 16, 3)
    for name in FORMULATIONS:
        for cores_share in (True, False):
            formulation = Formulation(name, cores_share)
            jax.eval_shape(
                lambda *arrays, formulation=formulation: activated_and_gradients(
                    *arrays, 3, formulation
                ),
                *(x, w, np.zeros(4, np.float32), dz),
            )


@pytest.mark.parametrize("taps", range(2, 8))
def test_the_bilinear_identity_is_exact(taps):
    outputs = 9 - taps
    a, g, bt = toom_cook_matrices.matrices(outputs, taps)
    for i in range(outputs):
        for j in range(taps):
            for k in range(8):
                total = sum(a[p][i] * g[p][j] * bt[p][k] for p in range(8))
                assert total == (k == i + j)


def test_fewer_points_are_exact_and_more_are_refused():
    a, g, bt = toom_cook_matrices.matrices(2, 2)
    for i, j, k in np.ndindex(2, 2, 3):
        assert sum(a[p][i] * g[p][j] * bt[p][k] for p in range(3)) == (k == i + j)
    with pytest.raises(ValueError, match=r"F\(4, 6\)"):
        toom_cook_matrices.matrices(4, 6)


def test_a_kernel_that_fills_no_row_of_the_grid_is_padded_or_has_a_tail():
    def tail(kernel_size):
        return len(toom_cook.ToomCook.of(jnp.zeros((kernel_size, 2, 1)), 3).tail) // 2

    assert [tail(kernel_size) for kernel_size in (12, 13, 14, 15, 16)] == [0, 0, 0, 0, 1]


def test_bfloat16_uses_im2col_where_clips_are_long():
    """Layers 1 to 6, so that a CPU's units for bfloat16 are used (`im2col.py`)."""
    for layer in range(9):
        channels_in = FEATURES[layer - 1] if layer else 1
        shape = (24, LENGTHS[layer], channels_in)
        kernel_shape = (KERNEL_SIZES[layer], channels_in, FEATURES[layer])
        assert im2col.pays(shape, kernel_shape, STRIDES[layer], Tuning()) == (layer < 6)


@pytest.mark.parametrize(("channels_in", "kernel_size"), [(1, 17), (4, 4), (9, 12)])
def test_im2col_agrees_with_lax(kernel_size, channels_in):
    """im2col joins seven, two or one row of the grid."""
    with jax.enable_x64(True):
        x, w, dz = arrays(2, 151, channels_in, 5, kernel_size, 3, np.float64)
        form = im2col.Im2Col.of(jnp.asarray(w), 3, IM2COL.tuning)
        assert (form.tile, form.narrow) == {1: (7, True), 4: (2, False), 9: (1, False)}[channels_in]
        bias = np.random.default_rng(0).normal(size=5)
        expected = activated_and_gradients(x, w, bias, dz, 3, Formulation("lax"))
        got = activated_and_gradients(x, w, bias, dz, 3, IM2COL)
        assert worst_error(got, expected) < 1e-11
