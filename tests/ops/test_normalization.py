"""ELU and batch normalization, plain and folded into the next layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from relabel_jax.ops.elu_moments import elu_and_moments
from relabel_jax.ops.formulation import Formulation
from relabel_jax.ops.layers import (
    Hidden,
    KernelAndBias,
    conv_elu_norm,
    dense,
    dense_elu_norm,
    elu_norm,
)
from relabel_jax.ops.normalization import Normalization

pytestmark = pytest.mark.slow


def plain_elu_and_moments(outputs, bias):
    values = jax.nn.elu(outputs + bias.reshape((1,) * (outputs.ndim - 1) + (-1,)))
    axes = tuple(range(values.ndim - 1))
    return values, values.mean(axes), (values**2).mean(axes)


@pytest.mark.parametrize(
    "shape", [(3, 7, 5), (2, 1, 4), (6, 3), (1, 257, 2), (2, 1030, 3), (2, 3, 5, 4)]
)
def test_elu_and_moments_agree_with_autodiff(shape):
    rng = np.random.default_rng(0)
    outputs, weights = rng.normal(size=(2, *shape))
    bias, gamma = rng.normal(size=(2, shape[-1]))

    def loss(function, outputs, bias):
        values, mean, mean_square = function(outputs, bias)
        by_channel = (1,) * (len(shape) - 1) + (-1,)
        a = gamma / jnp.sqrt(mean_square - mean**2 + 1e-3)
        return jnp.vdot(a.reshape(by_channel) * (values - mean.reshape(by_channel)), weights)

    with jax.enable_x64(True):
        got, expected = (
            jax.jit(jax.value_and_grad(functools.partial(loss, function), (0, 1)))(outputs, bias)
            for function in (elu_and_moments, plain_elu_and_moments)
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, expected
        )


@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_the_gradient_of_a_bias_is_exact_where_elu_is_nearly_linear(level):
    """float32 against automatic differentiation in float64, for cases such as quiet clips."""
    rng = np.random.default_rng(0)
    outputs = level * rng.normal(size=(8, 1000, 5))
    weights = rng.normal(size=outputs.shape) + 1

    def bias_gradient(function, dtype):
        def loss(bias):
            values, mean, mean_square = function(outputs.astype(dtype), bias)
            a = 1 / jnp.sqrt(mean_square - mean**2 + 1e-3)
            return jnp.vdot(a[None, None] * (values - mean[None, None]), weights.astype(dtype))

        return jax.jit(jax.grad(loss))(jnp.zeros(5, dtype))

    with jax.enable_x64(True):
        expected = np.asarray(bias_gradient(plain_elu_and_moments, jnp.float64))
    error = np.abs(bias_gradient(elu_and_moments, jnp.float32) - expected).max()
    assert error < 1e-5 * np.abs(expected).max()


class OneNorm(nn.Module):
    """ELU and normalization alone."""

    norm_order: str = "elu_bn"

    @nn.compact
    def __call__(self, outputs, bias):
        return elu_norm(outputs, bias, Normalization(self.norm_order), train=True)


def test_nothing_normalized_is_kept():
    """The next layer gets v = ELU(y + b) - ELU(b), a scale and a shift."""
    outputs = np.random.default_rng(0).normal(size=(4, 50, 3)).astype(np.float32)
    bias = jnp.asarray([0.1, -0.2, 0.3], jnp.float32)
    hidden, _ = OneNorm().init_with_output(jax.random.key(0), jnp.asarray(outputs), bias)
    e = jax.nn.elu(outputs + np.asarray(bias).reshape(1, 1, 3))
    v = e - jax.nn.elu(bias).reshape(1, 1, 3)
    np.testing.assert_array_equal(hidden.values, v)
    scale = 1 / np.sqrt(v.var((0, 1)) + 1e-3)
    np.testing.assert_allclose(hidden.scale, scale, rtol=1e-5)
    np.testing.assert_allclose(hidden.shift, -v.mean((0, 1)) * scale, rtol=1e-4, atol=1e-6)


def test_an_unknown_order_is_refused():
    with pytest.raises(ValueError, match="norm_order 'bn' is none of elu_bn, bn_elu"):
        OneNorm("bn").init(jax.random.key(0), jnp.ones((2, 3)), jnp.ones(3))


class ThreeLayers(nn.Module):
    """A convolution, a dense layer and an output layer."""

    fold: bool
    norm_order: str = "elu_bn"
    formulation: Formulation = Formulation()

    @nn.compact
    def __call__(self, x, train):
        hidden = conv_elu_norm(
            Hidden(x),
            KernelAndBias(5, kernel_size=4)(x.shape[-1]),
            Normalization(self.norm_order, self.fold),
            stride=3,
            formulation=self.formulation,
            train=train,
        ).flatten()
        weights = KernelAndBias(6)(hidden.channels)
        norm = Normalization(self.norm_order, self.fold)
        hidden = dense_elu_norm(hidden, weights, norm, train=train)
        return dense(hidden, KernelAndBias(7)(hidden.channels))


def random_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 1.2, leaf.shape), shapes)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", ["lax", "direct"])
def test_folding_changes_neither_outputs_nor_statistics_nor_gradients(name, train):
    """Compares with Flax's batch normalization in float64."""
    with jax.enable_x64(True):
        x, weights = np.random.default_rng(1).normal(size=(2, 8, 6, 3))
        x, weights = x[:, :4], np.resize(weights, (8, 7))
        results = []
        for fold in (False, True):
            network = ThreeLayers(fold, formulation=Formulation(name))
            init = functools.partial(network.init, train=False)
            variables = random_like(jax.eval_shape(init, jax.random.key(0), x))

            def loss(params, network=network, variables=variables):
                outputs, new = network.apply(
                    variables | {"params": params}, x, train, mutable=["batch_stats"]
                )
                return jnp.vdot(outputs, weights), (outputs, new)

            results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9), *results)
