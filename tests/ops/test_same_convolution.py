"""Convolutions with their own kernel's gradient, against XLA's."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from relabel_jax.ops.same_convolution import convolve


@pytest.mark.parametrize(("size", "channels"), [(3, 4), (5, 1), (5, 3)])
def test_outputs_and_gradients(size, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 6, channels)).astype(np.float32)
    gradient = rng.normal(size=(2, 7, 6, 8)).astype(np.float32)
    found = []
    for form in (convolve, None):
        layer = nn.Conv(8, (size, size), padding=size // 2, conv_general_dilated=form)
        variables = layer.init(jax.random.key(0), x)
        outputs, pull_back = jax.vjp(layer.apply, variables, x)
        found.append((outputs, *jax.tree.leaves(pull_back(gradient))))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-5)
