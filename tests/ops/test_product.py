"""The product and its gradients against NumPy in float64."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from relabel_jax.ops.product import dot_general, product


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 4, 7)])
def test_outputs_and_gradients(shape):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in (shape, (7, 6)))
    gradient = rng.normal(size=(*shape[:-1], 6)).astype(np.float32)
    got, pull_back = jax.vjp(jax.jit(product), x, kernel)
    rows, of_rows = x.reshape(-1, 7).astype(float), gradient.reshape(-1, 6).astype(float)
    expected = (rows @ kernel, of_rows @ kernel.T, rows.T @ of_rows)
    for found, want in zip((got, *pull_back(gradient)), expected, strict=True):
        np.testing.assert_allclose(found.reshape(want.shape), want, rtol=0, atol=1e-5)
    assert got.shape == gradient.shape


def test_a_dense_layer():
    x = np.random.default_rng(0).normal(size=(2, 3, 7)).astype(np.float32)
    plain, by_product = (nn.Dense(6, dot_general=form) for form in (None, dot_general))
    variables = plain.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        by_product.apply(variables, x), plain.apply(variables, x), rtol=0, atol=1e-6
    )
