"""Convolutions that are fast on a CPU, against XLA's."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from relabel_jax.ops.same_convolution import convolve


@pytest.mark.parametrize(
    ("size", "channels", "features"), [(3, 4, 8), (5, 1, 8), (5, 3, 8), (1, 3, 8), (3, 512, 512)]
)
def test_outputs_and_gradients(size, channels, features):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 6, channels)).astype(np.float32)
    gradient = rng.normal(size=(2, 7, 6, features)).astype(np.float32)
    found = []
    for form in (convolve, None):
        layer = nn.Conv(features, (size, size), padding=size // 2, conv_general_dilated=form)
        variables = layer.init(jax.random.key(0), x)
        outputs, pull_back = jax.vjp(layer.apply, variables, x)
        found.append((outputs, *jax.tree.leaves(pull_back(gradient))))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-5)
