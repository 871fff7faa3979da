"""The arithmetic of networks, counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from relabel_jax.models.backbone import Outputs
from relabel_jax.models.flop import forward_flop, train_flop
from relabel_jax.models.variables import shapes
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops.formulation import Formulation

WAVEFORMS = jax.ShapeDtypeStruct((24, 80_000), np.int16)


@pytest.mark.parametrize("formulation", ["lax", "toom_cook"])
def test_the_products_of_the_paper(formulation):
    """1.09 GMAC a clip forward and 6.50 GFLOP a training step, from Table II. Loops count too."""
    products = [
        taps * channels * filters * length
        for taps, channels, filters, length in (
            *((17, 1, 64, 26662), (16, 64, 64, 8883), (15, 64, 96, 2957), (14, 96, 96, 982)),
            *((13, 96, 128, 324), (12, 128, 128, 105), (9, 128, 192, 33), (9, 192, 192, 9)),
            *((9, 192, 256, 1), (1, 256, 256, 1), (1, 256, 128, 1), (1, 128, 527, 1)),
        )
    ]
    network = WaveformCNN(527, formulation=Formulation(formulation))
    forward = forward_flop(network, shapes(network), WAVEFORMS)
    train = train_flop(network, shapes(network), WAVEFORMS)
    assert forward == 24 * 2 * sum(products)
    assert train == 24 * 2 * (3 * sum(products) - products[0])
    assert forward / 24 == pytest.approx(2 * 1.09e9, rel=0.01)
    assert train / 24 == pytest.approx(6.50e9, rel=0.01)


class OneOfEachKind(nn.Module):
    """A product with a constant, one with a kernel, and one of two results."""

    @nn.compact
    def __call__(self, x, train):
        x = x @ jnp.ones((5, 7))
        x = nn.Dense(11, use_bias=False)(x)
        return Outputs(x @ x.T)


def test_products_without_parameters_have_no_gradient():
    network, batch = OneOfEachKind(), jax.ShapeDtypeStruct((3, 5), np.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), batch)
    constant, kernel, both = 2 * 3 * 5 * 7, 2 * 3 * 7 * 11, 2 * 3 * 11 * 3
    assert forward_flop(network, variables, batch) == constant + kernel + both
    assert train_flop(network, variables, batch) == constant + 2 * kernel + 3 * both
