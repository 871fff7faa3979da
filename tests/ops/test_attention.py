"""Attention in blocks against its formula in float64."""

import jax
import numpy as np
import pytest

from relabel_jax.ops.attention import attention

BATCH, HEADS, CHANNELS = 2, 3, 4


def inputs(tokens, scale=1.0):
    """Queries, keys, values, and the gradient of the outputs."""
    rng = np.random.default_rng(tokens)
    arrays = rng.normal(size=(4, BATCH, tokens, HEADS, CHANNELS))
    arrays[:2] *= scale
    return arrays.astype(np.float32)


def expected(queries, keys, values, gradient):
    """The outputs and the three gradients."""
    queries, keys, values, gradient = (
        x.astype(np.float64) for x in (queries, keys, values, gradient)
    )
    logits = np.einsum("bqhc,bkhc->bhqk", queries, keys)
    softmax = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax /= softmax.sum(axis=-1, keepdims=True)
    d_softmax = np.einsum("bqhc,bkhc->bhqk", gradient, values)
    d_logits = softmax * (d_softmax - (softmax * d_softmax).sum(axis=-1, keepdims=True))
    return (
        np.einsum("bhqk,bkhc->bqhc", softmax, values),
        np.einsum("bhqk,bkhc->bqhc", d_logits, keys),
        np.einsum("bhqk,bqhc->bkhc", d_logits, queries),
        np.einsum("bhqk,bqhc->bkhc", softmax, gradient),
    )


@jax.jit
def found(*arrays):
    *factors, gradient = arrays
    outputs, pull_back = jax.vjp(attention, *factors)
    return outputs, *pull_back(gradient)


# Less than a block, a whole one, one row more, and blocks of which the last is not whole.
@pytest.mark.parametrize("tokens", [1, 7, 160, 161, 325])
def test_outputs_and_gradients(tokens):
    arrays = inputs(tokens)
    for got, want in zip(found(*arrays), expected(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tokens", [7, 161])
def test_logits_beyond_the_range_of_exp(tokens):
    arrays = inputs(tokens, scale=8.0)
    assert np.einsum("bqhc,bkhc->bhqk", *arrays[:2]).min() < -200
    for got, want in zip(found(*arrays), expected(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1, np.abs(want).max()))


def test_no_logit_is_near_zero():
    """The blocks' rows of zeros, whose logits are 0, add nothing."""
    arrays = inputs(161)
    arrays[0], arrays[1] = 12 + arrays[0], -12 + arrays[1]
    assert np.einsum("bqhc,bkhc->bhqk", *arrays[:2]).max() < -200
    for got, want in zip(found(*arrays), expected(*arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1, np.abs(want).max()))


def test_what_is_not_finite_stays_so():
    arrays = inputs(7)
    arrays[1, 0, 3, 1] = np.nan
    outputs, *gradients = found(*arrays)
    assert np.isnan(outputs[0, :, 1]).all()
    assert np.isfinite(outputs[1]).all()
    assert all(np.isnan(gradient[0, :, 1]).any() for gradient in gradients)


def test_members_of_a_population():
    arrays = np.stack([inputs(7), 2 * inputs(7)], axis=1)
    together = jax.jit(jax.vmap(found))(*arrays)
    for i in range(2):
        for got, want in zip(together, found(*arrays[:, i]), strict=True):
            np.testing.assert_allclose(got[i], want, rtol=0, atol=1e-6)
