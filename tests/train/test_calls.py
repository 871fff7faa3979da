"""How many steps a call has, from the arithmetic of a network."""

import jax
import numpy as np
import pytest

from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.models.logmel_cnn import LogMelCNN
from relabel_jax.models.variables import shapes
from relabel_jax.models.waveform_cnn import FEATURES, KERNEL_SIZES, WaveformCNN
from relabel_jax.ops.formulation import Formulation
from relabel_jax.train.calls import forward_flop, steps_per_call

TIME_OUT = (26662, 8883, 2957, 982, 324, 105, 33, 9, 1)  # Table II
WAVEFORMS = jax.ShapeDtypeStruct((24, 80_000), np.int16)


@pytest.mark.parametrize("formulation", ["lax", "toom_cook"])
def test_the_products_of_the_paper(formulation):
    """Also where loops compute them."""
    network = WaveformCNN(527, formulation=Formulation(formulation))
    products = sum(
        rows * taps * channels * features
        for rows, taps, channels, features in zip(
            TIME_OUT, KERNEL_SIZES, (1, *FEATURES), FEATURES, strict=False
        )
    )
    products += 256 * 256 + 256 * 128 + 128 * 527
    assert forward_flop(network, shapes(network), WAVEFORMS) == 2 * 24 * products


def test_a_call_lasts_a_tenth_of_a_second(monkeypatch):
    network = WaveformCNN(527)
    assert steps_per_call(network, shapes(network), WAVEFORMS) == 8  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert 60 <= steps_per_call(network, shapes(network), WAVEFORMS) <= 70
    assert 30 <= steps_per_call(network, shapes(network), WAVEFORMS, 2) <= 35
    assert steps_per_call(network, shapes(network), WAVEFORMS, 9) == 8
    logmel = LogMelCNN(527)  # 256 MiB of waveforms
    assert steps_per_call(logmel, shapes(logmel), WAVEFORMS) == 2**28 // (24 * 160_000)
    classifier = EmbeddingClassifier(60)
    batch = jax.ShapeDtypeStruct((24, 128), np.float32)
    variables = jax.eval_shape(lambda x: classifier.init(jax.random.key(0), x, train=False), batch)
    assert steps_per_call(classifier, variables, batch) > 1000
