"""How many steps a call has, from the arithmetic of a network."""

import jax
import numpy as np

from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.models.logmel_cnn import LogMelCNN
from relabel_jax.models.variables import shapes
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.train.calls import steps_per_call

WAVEFORMS = jax.ShapeDtypeStruct((24, 80_000), np.int16)


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
