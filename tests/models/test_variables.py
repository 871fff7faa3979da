"""The number of classes is enough to find the output layer of any network."""

import jax
import numpy as np
import pytest

from relabel_jax.models import variables as network_variables
from relabel_jax.models.logmel_cnn import LogMelCNN
from relabel_jax.models.waveform_cnn import WaveformCNN

pytestmark = pytest.mark.slow

NETWORKS = (
    WaveformCNN(5, (4,) * 9, (8, 6)),
    LogMelCNN(5, duration_s=0.5, num_mels=8, features=(4, 4), embedding_size=6),
)
OUTPUT = {"params.output.kernel", "params.output.bias"}


@pytest.fixture(params=NETWORKS, ids=lambda network: type(network).__name__)
def network(request):
    return request.param


def variables_of(network, seed=0):
    batch = network_variables.waveform_batch(network)
    return network_variables.random_variables(network, batch, seed)


def flat(tree):
    return {
        ".".join(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def test_shapes_are_those_of_the_variables(network):
    variables = variables_of(network)
    assert network_variables.same_shapes(network, variables)
    assert network_variables.same_shapes(network, network_variables.zeros(network))
    assert not network_variables.same_shapes(network.clone(num_classes=4), variables)
    assert network_variables.num_outputs(network.clone(num_classes=0), variables) == 5
    assert network_variables.num_outputs(network, {"params": {}}) == 0


def test_an_embedding_depends_on_all_but_the_output_layer(network):
    variables = variables_of(network)
    names = network_variables.without_outputs(network, variables).keys()
    assert names == flat(variables).keys() - OUTPUT


def test_selected_outputs_give_the_same_scores(network):
    variables = variables_of(network)
    kept = np.array([3, 0])
    selected = network_variables.select_outputs(network, variables, kept)
    embeddings = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    some = network.clone(num_classes=2)
    got = some.apply(selected, embeddings, method="head").scores
    expected = network.apply(variables, embeddings, method="head").scores
    np.testing.assert_allclose(got, expected[:, kept], rtol=1e-6)


def test_finetuning_keeps_all_but_the_output_layer(network):
    base, other = variables_of(network), network.clone(num_classes=3)
    start = variables_of(other, seed=1)
    tuned = flat(network_variables.replace_outputs(other, base, start))
    for name, value in flat(base).items():
        source = flat(start)[name] if name in OUTPUT else value
        np.testing.assert_array_equal(tuned[name], source)
