"""Convolutions as sums of shifted arrays, against XLA's own."""

import jax
import numpy as np
import pytest

from relabel_jax.ops.depthwise import depthwise


def reference(x, kernel, stride):
    margin = (kernel.shape[0] // 2,) * 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (margin, margin),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("channels", [6, 1])
@pytest.mark.parametrize(
    ("size", "stride", "height", "width"),
    [(3, 1, 4, 7), (3, 2, 8, 9), (5, 1, 6, 5), (5, 2, 7, 12), (3, 2, 1, 2), (5, 2, 10, 13)],
)
def test_outputs_and_gradients(size, stride, height, width, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 1, 6)).astype(np.float32)
    got, expected = (
        jax.jit(lambda x, k, form=form: jax.vjp(lambda x, k: form(x, k, stride), x, k)[0])(
            x, kernel
        )
        for form in (depthwise, reference)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    gradient = rng.normal(size=expected.shape).astype(np.float32)
    found, wanted = (
        jax.jit(lambda x, k, g, form=form: jax.vjp(lambda x, k: form(x, k, stride), x, k)[1](g))(
            x, kernel, gradient
        )
        for form in (depthwise, reference)
    )
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
