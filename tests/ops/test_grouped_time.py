"""Grouped time against the plain convolution, in networks of three layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolution_reference import arrays, tiny, worst_error
from flax import linen as nn

from relabel_jax.ops import grouped_time
from relabel_jax.ops.convolution_elu import activations, computed
from relabel_jax.ops.deferred import Deferred
from relabel_jax.ops.formulation import Formulation
from relabel_jax.ops.layers import Hidden, KernelAndBias, conv_elu_norm
from relabel_jax.ops.normalization import Normalization

pytestmark = pytest.mark.slow

# Groups of 3, 2 and 2 steps. The second convolution takes its inputs in groups of 3, and the third
# takes them in groups of 2.
GROUPED = tiny("grouped_time")
FEATURES = (4, 6, 8)


class ThreeConvolutions(nn.Module):
    """Three layers, and their normalized outputs as an array."""

    formulation: Formulation = Formulation()
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        hidden = Hidden(x)
        for features, kernel_size in zip(FEATURES, (17, 6, 5), strict=True):
            hidden = conv_elu_norm(
                hidden,
                KernelAndBias(features, kernel_size)(hidden.channels),
                Normalization(axis_name=self.axis_name),
                stride=3,
                formulation=self.formulation,
                train=train,
            )
        return computed(hidden.values) * hidden.scale[None, None] + hidden.shift[None, None]


def variables(x):
    shapes = jax.eval_shape(
        functools.partial(ThreeConvolutions().init, train=False), jax.random.key(0), x
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(-0.2, 1, leaf.shape) + 0.3, shapes)


def value_and_gradients(network, train, state, x, dz):
    """(loss, (outputs, new statistics)), and the gradients by parameters and inputs."""

    def loss(params, x):
        outputs, new = network.apply(state | {"params": params}, x, train, mutable=["batch_stats"])
        return jnp.vdot(outputs, dz), (outputs, new)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(state["params"], x)


def inputs(time, batch=4):
    x, _, _ = arrays(batch, time, 1, 1, 1, 1, np.float64)
    length = functools.reduce(lambda t, size: (t - size) // 3 + 1, (17, 6, 5), time)
    return x, np.random.default_rng(1).normal(size=(batch, length, FEATURES[-1]))


@pytest.mark.parametrize(
    ("time", "train"),
    [
        *(pytest.param(time, True, marks=pytest.mark.release) for time in (1001, 1012)),
        (1027, True),
        (1027, False),
    ],
)
def test_a_network_agrees_with_the_plain_one(time, train):
    """Outputs, statistics and all gradients, in float64, with 0, 1 or 2 surplus steps."""
    with jax.enable_x64(True):
        x, dz = inputs(time)
        assert grouped_time.group(x.shape, (17, 1, 4), 3, GROUPED) == 3
        state = variables(x)
        expected, got = (
            jax.jit(value_and_gradients, static_argnums=(0, 1))(
                ThreeConvolutions(formulation), train, state, x, dz
            )
            for formulation in (Formulation("lax"), GROUPED)
        )
        assert worst_error(jax.tree.leaves(got), jax.tree.leaves(expected)) < 1e-11


def test_a_divided_batch_and_members_one_after_another():
    """Devices that share a batch stand along an axis of `vmap`; members are mapped over."""
    with jax.enable_x64(True):
        x, dz = inputs(1012)
        state = variables(x)
        members = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), state)

        def one(state):
            on_device = functools.partial(
                value_and_gradients, ThreeConvolutions(GROUPED, "data"), True, state
            )
            parts = (a.reshape(2, 2, *a.shape[1:]) for a in (x, dz))
            (_, (outputs, new)), (by_params, by_x) = jax.vmap(on_device, axis_name="data")(*parts)
            return outputs.reshape(dz.shape), new, by_params, by_x.reshape(x.shape)

        outputs, new, by_params, by_x = jax.jit(lambda members: jax.lax.map(one, members))(members)
        got = (
            outputs,
            jax.tree.map(lambda leaf: leaf[:, 0], new),
            jax.tree.map(lambda leaf: leaf.sum(1), by_params),
            by_x,
        )

        def plain(state):
            (_, (y, statistics)), (dp, dx) = value_and_gradients(
                ThreeConvolutions(), True, state, x, dz
            )
            return y, statistics, dp, dx

        expected = jax.jit(lambda members: jax.lax.map(plain, members))(members)
        assert worst_error(jax.tree.leaves(got), jax.tree.leaves(expected)) < 1e-11


def test_a_grouped_layer_takes_a_deferred_one():
    """A first layer that would need too large groups is deferred."""

    def two_layers(formulation):
        first = activations(x, k1, jnp.zeros(4), 3, formulation)
        return first, activations(first, k2, jnp.zeros(6), 3, formulation)

    x, k1, _ = arrays(2, 160, 1, 4, 17, 3)
    _, k2, _ = arrays(2, 48, 4, 6, 16, 3)
    _, expected = two_layers(Formulation("lax"))
    first, got = two_layers(tiny("grouped_time", group_most=2))
    assert isinstance(first, Deferred)
    assert isinstance(got, grouped_time.Grouped)
    assert worst_error([computed(got)], [computed(expected)]) < 1e-5
