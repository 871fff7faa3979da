"""All formulations of the convolution against its definition."""

import functools

import hypothesis
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
    arrays,
    brute_force,
    check,
    tiny,
    value_and_gradients,
    worst_error,
)
from hypothesis import strategies as st
from jax import lax

from relabel_jax.ops import toom_cook
from relabel_jax.ops.convolution import convolution
from relabel_jax.ops.formulation import FORMULATIONS, Formulation, Tuning

pytestmark = pytest.mark.slow

ANY_SHAPE = hypothesis.given(
    batch=st.integers(1, 5),
    time=st.integers(1, 120),
    channels_in=st.integers(1, 4),
    channels_out=st.integers(1, 4),
    kernel_size=st.integers(1, 20),
    stride=st.integers(1, 5),
)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(("direct", layer) for layer in range(9)),
        *(("toom_cook", layer) for layer in range(7)),
        *(("lax", 1), ("lax", 8), ("grouped_time", 0), ("grouped_time", 1)),
    ],
)
def test_layers_of_table_2_at_reduced_size(name, layer):
    # The length leaves the same remainder as the real one: in four layers the zero-padded kernel
    # sticks out.
    kernel_size, stride = KERNEL_SIZES[layer], STRIDES[layer]
    remainder = (LENGTHS[layer] - kernel_size) % stride
    time = min(LENGTHS[layer], kernel_size + 41 * stride + remainder)
    check(tiny(name), 3, time, 1 if layer == 0 else 6, 7, kernel_size, stride)


@pytest.mark.parametrize("layer", [1, 5])  # the longest, and the shortest that it pays for
def test_real_layers_with_toom_cook(layer):
    shape = (2, LENGTHS[layer], FEATURES[layer - 1])
    kernel_shape = (KERNEL_SIZES[layer], FEATURES[layer - 1], FEATURES[layer])
    assert toom_cook.pays(shape, kernel_shape, 3, Tuning())
    check(Formulation("toom_cook"), *shape, FEATURES[layer], KERNEL_SIZES[layer], 3)


@pytest.mark.parametrize("layer", [0, 6, 8])
def test_real_layers_in_direct_form(layer):
    channels_in = FEATURES[layer - 1] if layer else 1
    shape, kernel_shape = (2, LENGTHS[layer], channels_in), (KERNEL_SIZES[layer], channels_in, 8)
    assert not toom_cook.pays(shape, kernel_shape, STRIDES[layer], Tuning())
    check(Formulation("toom_cook"), *shape, 8, KERNEL_SIZES[layer], STRIDES[layer])


@pytest.mark.parametrize("name", FORMULATIONS)
@pytest.mark.parametrize(
    ("time", "kernel_size", "stride"),
    [(4, 5, 3), (5, 5, 3), (1, 1, 1), (50, 2, 5), (47, 1, 3), (44, 7, 1), (0, 3, 2)],
)
def test_edges(name, time, kernel_size, stride):
    check(tiny(name), 2, time, 3, 2, kernel_size, stride)


@pytest.mark.parametrize(
    "formulation",
    [tiny("direct"), tiny("toom_cook"), IM2COL],
    ids=["direct", "toom_cook", "im2col"],
)
@hypothesis.settings(max_examples=4)
@ANY_SHAPE
def test_any_shape(formulation, batch, time, channels_in, channels_out, kernel_size, stride):
    check(formulation, batch, time, channels_in, channels_out, kernel_size, stride)


@pytest.mark.parametrize("cores_share", [True, False])
@pytest.mark.parametrize("name", ["direct", "toom_cook"])
def test_float64_agrees_with_lax_autodiff_to_rounding(name, cores_share):
    with jax.enable_x64(True):
        x, w, dy = arrays(3, 139, 5, 4, 16, 3, np.float64)
        expected = value_and_gradients(x, w, dy, 3, Formulation("lax"))
        got = value_and_gradients(x, w, dy, 3, tiny(name, cores_share))
        assert all(array.dtype == np.float64 for array in got)
        assert worst_error(got, expected) < 1e-13


@pytest.mark.parametrize("name", ["direct", "toom_cook"])
def test_a_population_in_scan_map_and_loops(name):
    x, w, dy = arrays(4, 139, 5, 4, 16, 3)
    members = jnp.stack([w, 0.5 * w])

    def step(formulation, w, x):
        gradient = jax.grad(lambda w: jnp.vdot(convolution(x, w, 3, formulation), dy[:2]))(w)
        return w - 1e-3 * gradient

    @functools.partial(jax.jit, static_argnums=0)
    def train(formulation, members, x):
        one = functools.partial(step, formulation)
        vmapped, _ = lax.scan(
            lambda ws, x: (jax.vmap(one, (0, None))(ws, x), None), members, x.reshape(2, 2, 139, 5)
        )
        mapped = lax.fori_loop(0, 2, lambda _, ws: lax.map(lambda w: one(w, x[:2]), ws), members)
        return vmapped, mapped

    got, expected = train(tiny(name), members, x), train(Formulation("lax"), members, x)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMULATIONS)
def test_bfloat16(name):
    arrays_ = [jnp.asarray(array, jnp.bfloat16) for array in arrays(3, 139, 5, 4, 16, 3)]
    got = value_and_gradients(*arrays_, 3, tiny(name))
    assert all(array.dtype == jnp.bfloat16 for array in got)
    assert worst_error(got, brute_force(*arrays_, 3)) < 2e-2


@pytest.mark.parametrize(
    ("shape", "features", "in_tiles"),
    [((4, 400, 1), 4, False), ((4, 400, 4), 4, False), ((3, 400, 64), 32, True)],
)
def test_an_unused_input_gradient_is_not_computed(shape, features, in_tiles):
    """XLA removes the unused gradient, also from the loop that computes both gradients."""
    formulation = Formulation("toom_cook", tuning=Tuning(long=10, block_bytes=4096))
    x, w, dy = arrays(*shape, features, 16, 3)
    assert toom_cook.pays(x.shape, w.shape, 3, formulation.tuning) == in_tiles

    def flops(argnums):
        def loss(x, w):
            return jnp.vdot(convolution(x, w, 3, formulation), dy)

        program = jax.jit(jax.grad(loss, argnums)).lower(x, w).compile()
        return program.cost_analysis()["flops"]

    assert flops(1) < 0.9 * flops((0, 1))


@pytest.mark.parametrize(
    ("x", "w", "stride", "message"),
    [
        ((1, 9, 2), (3, 1, 1), 1, "are not"),
        ((9, 2), (3, 2, 1), 1, "are not"),
        ((1, 9, 2), (3, 2, 1), 0, "at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(x, w, stride, message):
    for name in FORMULATIONS:
        with pytest.raises(ValueError, match=message):
            convolution(jnp.zeros(x), jnp.zeros(w), stride, Formulation(name))


def test_mixed_dtypes_are_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        convolution(jnp.zeros((1, 9, 2), jnp.bfloat16), jnp.zeros((3, 2, 1)), 1, Formulation())
