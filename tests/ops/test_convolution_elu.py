"""ELU in the convolution's loops: for training with buffers, and for evaluation with deferred
layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolution_reference import (
    activated_and_gradients,
    arrays,
    brute_force,
    tiny,
    worst_error,
)

from relabel_jax.ops.buffers import Buffers
from relabel_jax.ops.convolution_elu import (
    activations,
    activations_and_moments,
    computed,
    make_buffers,
)
from relabel_jax.ops.deferred import Deferred
from relabel_jax.ops.elementwise import elu
from relabel_jax.ops.formulation import FORMULATIONS, Formulation
from relabel_jax.ops.grouped_time import Grouped

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "batch", "kernel_size"),
    [
        *(("direct", 1, 16), ("direct", 6, 2), ("direct", 6, 17)),
        *(("toom_cook", 1, 16), ("toom_cook", 6, 9), ("toom_cook", 6, 17)),
        *(pytest.param("toom_cook", 6, size, marks=pytest.mark.release) for size in (12, 14)),
    ],
)
def test_activation_in_the_loops_agrees_with_the_whole(name, kernel_size, batch):
    """Kernels that fill whole rows of the grid, padded ones, and one with a tail."""
    with jax.enable_x64(True):
        x, w, dz = arrays(batch, 151, 4, 5, kernel_size, 3, np.float64)
        bias = np.random.default_rng(0).normal(size=5)
        expected = activated_and_gradients(x, w, bias, dz, 3, Formulation("lax"))
        got = activated_and_gradients(x, w, bias, dz, 3, tiny(name))
        assert worst_error(got, expected) < 1e-11


def test_elu():
    smallest = 16 * np.finfo(np.float32).smallest_normal  # below this x / 16 may become 0
    negative = np.concatenate([-np.geomspace(smallest, 100, 200_001), np.linspace(-20, 0, 200_001)])
    x = np.concatenate([negative, -negative, [-np.inf, np.inf]]).astype(np.float32)
    expected = np.where(x > 0, x, np.expm1(x.astype(np.float64)))
    one_core = functools.partial(elu, cores_share=False)
    got = jax.jit(one_core)(x)
    assert got.dtype == np.float32
    error = np.abs(got - expected)[np.isfinite(x)]
    assert np.all(error <= 4 * np.spacing(np.abs(expected[np.isfinite(x)]).astype(np.float32)))
    assert got[-2] == -1
    assert got[-1] == np.inf
    assert np.isnan(one_core(jnp.float32(np.nan)))


def with_and_without_buffers(x, w, dz, formulation):
    """The results and gradients of `activations_and_moments` with buffers of NaN, and without."""
    given = make_buffers(x, w, 3, formulation)

    def compute(x, w, dz, arrays):
        def activated(x, w, bias, arrays):
            return activations_and_moments(x, w, bias, 3, formulation, buffers=arrays)

        result, pull = jax.vjp(activated, x, w, jnp.zeros(5), arrays)
        *gradients, following = pull((dz, jnp.ones(5), jnp.ones(5)))
        return (result, gradients), following

    nans = jax.tree.map(lambda array: array * jnp.nan, given)
    got, following = jax.jit(compute)(x, w, dz, nans)
    (result, *_), (input_gradient, *_) = got
    handed_on = Buffers(result, None if given.input_gradient is None else input_gradient)
    jax.tree.map(np.testing.assert_array_equal, following, handed_on)
    return got, jax.jit(compute)(x, w, dz, None)[0]


@pytest.mark.parametrize(
    ("channels_in", "cores_share", "dtype"), [(1, True, jnp.bfloat16), (4, False, jnp.float32)]
)
def test_buffers_are_written_never_read_and_handed_on(dtype, channels_in, cores_share):
    formulation = tiny("toom_cook", cores_share)
    x, w, dz = (jnp.asarray(a, dtype) for a in arrays(3, 151, channels_in, 5, 16, 3))
    assert (make_buffers(x, w, 3, formulation).input_gradient is None) == (channels_in == 1)
    assert make_buffers(x, w, 3, tiny("lax")) is None
    jax.tree.map(np.testing.assert_array_equal, *with_and_without_buffers(x, w, dz, formulation))


def test_a_layer_in_parts_agrees_with_the_whole():
    formulation = tiny("toom_cook", cores_share=False, toom_cook_channels=32)  # not in tiles
    got, expected = with_and_without_buffers(*arrays(3, 151, 1, 5, 16, 3), formulation)
    assert worst_error(jax.tree.leaves(got), jax.tree.leaves(expected)) < 1e-5


@pytest.mark.parametrize(
    ("channels_in", "formulation"),
    [
        (1, tiny("toom_cook", cores_share=False, toom_cook_channels=32)),  # in parts, not in tiles
        (4, tiny("toom_cook", cores_share=False)),
        (4, tiny("toom_cook", cores_share=True)),
    ],
    ids=["in parts", "in tiles", "in tiles on shared cores"],
)
def test_buffers_are_not_copied(channels_in, formulation):
    x, w, _ = arrays(8, 4000, channels_in, 5, 16, 3)
    given = make_buffers(x, w, 3, formulation)

    def forward(values, x, w):
        buffers = given._replace(activations=values)
        return activations_and_moments(x, w, jnp.zeros(5), 3, formulation, buffers=buffers)

    program = jax.jit(forward, donate_argnums=0).lower(given.activations, x, w).compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == given.activations.nbytes
    assert memory.temp_size_in_bytes < given.activations.nbytes / 2


def two_layers_by_definition(x, k1, b1, k2, b2, dz):
    """The activations ELU(y + b) - ELU(b) of two layers of stride 3 and their gradients.

    ELU(b) is a constant for the gradients. The reference is `brute_force`.
    """

    def layer(x, kernel, bias, dz):
        y, _, _ = brute_force(x, kernel, np.zeros(dz.shape), 3)
        z = y + bias
        dy = dz * np.where(z > 0, 1, np.exp(z))
        _, dx, dw = brute_force(x, kernel, dy, 3)
        e, elu_of_bias = (np.where(a > 0, a, np.expm1(a)) for a in (z, bias))
        return e - elu_of_bias, (dx, dw, dy.sum((0, 1)))

    e1, _ = layer(x, k1, b1, np.zeros((len(x), (x.shape[1] - len(k1)) // 3 + 1, k1.shape[2])))
    e2, (de1, *second) = layer(e1, k2, b2, dz)
    _, first = layer(x, k1, b1, de1)
    return e2, *first, *second


@pytest.mark.parametrize(
    ("name", "batch", "time", "cores_share"),
    [
        *(("lax", 1, 479, True), ("grouped_time", 6, 160, True)),  # which cores do not change
        *(("direct", 1, 479, False), ("direct", 6, 160, True)),
        *(("toom_cook", 1, 479, True), ("toom_cook", 6, 160, False)),
    ],
)
def test_a_deferred_layer_is_computed_when_the_next_layer_takes_it(name, batch, time, cores_share):
    """One clip in several blocks, and several clips in a block."""
    formulation = tiny(name, cores_share)
    rng = np.random.default_rng(0)
    k1, b1, k2, b2 = (rng.normal(size=size) for size in ((17, 1, 4), 4, (16, 4, 5), 5))
    x = rng.normal(size=(batch, time, 1))
    dz = rng.normal(size=(batch, ((time - 17) // 3 + 1 - 16) // 3 + 1, 5))

    def two_layers(x, k1, b1, k2, b2):
        first = activations(x, k1, b1, 3, formulation)
        assert isinstance(first, Grouped if name == "grouped_time" else Deferred)
        return computed(activations(first, k2, b2, 3, formulation))

    def compute(dz, *arguments):
        e, pull = jax.vjp(two_layers, *arguments)
        return e, *pull(dz)

    with jax.enable_x64(True):
        expected = two_layers_by_definition(x, k1, b1, k2, b2, dz)
        assert worst_error(jax.jit(compute)(dz, x, k1, b1, k2, b2), expected) < 1e-11


@pytest.mark.parametrize("name", FORMULATIONS)
def test_deferred_activations_know_their_shape_and_may_be_empty(name):
    """With no row and with one row, the next layer has no rows."""
    formulation = Formulation(name)
    for time in (16, 19):
        kernel = jnp.ones((17, 1, 4))
        first = activations(jnp.ones((2, time, 1)), kernel, jnp.zeros(4), 3, formulation)
        assert first.shape == computed(first).shape == (2, time // 19, 4)
        assert first.dtype == computed(first).dtype
        second = activations(first, jnp.ones((16, 4, 5)), jnp.zeros(5), 3, formulation)
        assert computed(second).shape == (2, 0, 5)
