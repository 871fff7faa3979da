"""The networks against PyTorch implementations of Table II with the same weights."""

import jax
import numpy as np
import pytest
from networks import (
    BATCH,
    CLASSES,
    CONVOLUTIONS,
    LENGTHS,
    NARROW,
    TABLE_II,
    flatten,
    flax_evaluation,
    flax_step,
    random_targets,
    random_variables,
    random_waveforms,
)

from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops import toom_cook
from relabel_jax.ops.formulation import Formulation, Tuning
from relabel_jax.ops.normalization import NORM_ORDERS

pytestmark = [pytest.mark.slow, pytest.mark.extra]


def torch_network(features, dense_units, norm_order, num_classes):
    """(network, index of the layer whose outputs are the embeddings), from PyTorch's layers."""
    from torch import nn

    def norm(channels):
        pair = [nn.ELU(), nn.BatchNorm1d(channels, eps=1e-3, momentum=1 - 0.99)]
        return pair if norm_order == "elu_bn" else pair[::-1]

    layers, channels = [], 1
    for (kernel_size, stride, _), channels_out in zip(TABLE_II, features, strict=True):
        layers += [nn.Conv1d(channels, channels_out, kernel_size, stride), *norm(channels_out)]
        channels = channels_out
    layers.append(nn.Flatten())
    for units in dense_units:
        layers += [nn.Linear(channels, units), *norm(units)]
        channels = units
    layers += [nn.Linear(channels, num_classes), nn.Sigmoid()]
    return nn.Sequential(*layers), len(layers) - 5


def torch_classifier(norm_order, num_classes):
    from torch import nn

    pair = [nn.ELU(), nn.BatchNorm1d(256, eps=1e-3, momentum=1 - 0.99)]
    pair = pair if norm_order == "elu_bn" else pair[::-1]
    layers = [nn.Linear(128, 256), *pair, nn.Linear(256, num_classes), nn.Sigmoid()]
    return nn.Sequential(*layers)


def copy_weights(variables, reference, layers, norms):
    """Fills `reference` with Flax's variables.

    Returns:
      {Flax's path: PyTorch's tensor, a function from its layout to Flax's}.
    """
    import torch

    def same(array):
        return array

    def transposed(array):  # PyTorch: out, in(, kernel_size)
        return np.transpose(array)

    places = {}
    weighted = [m for m in reference if isinstance(m, (torch.nn.Conv1d, torch.nn.Linear))]
    for name, module in zip(layers, weighted, strict=True):
        places["params", name, "kernel"] = module.weight, transposed
        places["params", name, "bias"] = module.bias, same
    normed = [m for m in reference if isinstance(m, torch.nn.BatchNorm1d)]
    for name, module in zip(norms, normed, strict=True):
        places["params", name, "BatchNorm_0", "scale"] = module.weight, same
        places["params", name, "BatchNorm_0", "bias"] = module.bias, same
        places["batch_stats", name, "BatchNorm_0", "mean"] = module.running_mean, same
        places["batch_stats", name, "BatchNorm_0", "var"] = module.running_var, same
    flat = flatten(variables)
    assert flat.keys() == places.keys()
    for path, (tensor, layout) in places.items():
        array = torch.from_numpy(layout(flat[path]).copy())
        assert tensor.shape == array.shape, path
        with torch.no_grad():
            tensor.copy_(array)
    return places


def compare(network, inputs, reference, embedding_layer, layers, norms):
    """Compares a network with the reference in evaluation mode and in one train step."""
    import torch

    torch_inputs = torch.from_numpy(inputs).float()
    if isinstance(network, WaveformCNN):
        torch_inputs = torch_inputs[:, None] / 32768
    variables = random_variables(network, inputs)
    places = copy_weights(variables, reference, layers, norms)
    labels, masked = random_targets()

    reference.eval()
    with torch.no_grad():
        expected_embeddings = reference[: embedding_layer + 1](torch_inputs)
        expected = reference[embedding_layer + 1 :](expected_embeddings).numpy()
    scores, embeddings = flax_evaluation(network, variables, inputs)
    assert scores.dtype == embeddings.dtype == np.float32
    assert np.ptp(expected, axis=0).min() > 1e-3  # the clips differ
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    if isinstance(network, WaveformCNN):
        assert isinstance(reference[embedding_layer], torch.nn.Linear)
        assert reference[embedding_layer].out_features == network.dense_units[-1]
        np.testing.assert_allclose(embeddings, expected_embeddings.numpy(), rtol=0, atol=1e-4)

    # PyTorch keeps the unbiased variance, Keras and Flax the biased one: n - 1 of n.
    values_per_channel = {}

    def note(module, args):
        values_per_channel[module.running_var] = args[0].numel() // args[0].shape[1]

    for module in reference:
        if isinstance(module, torch.nn.BatchNorm1d):
            module.register_forward_pre_hook(note)
    reference.train()
    expected = reference(torch_inputs)
    kept = torch.from_numpy(~masked)
    (((expected - torch.from_numpy(labels).float()) ** 2)[kept].sum() / kept.sum()).backward()
    scores, new, gradients = flax_step(network, variables, inputs, labels, masked)
    np.testing.assert_allclose(scores, expected.detach().numpy(), rtol=0, atol=1e-4)

    old = flatten(variables)
    for path, array in flatten(new).items():
        want = places[path][0].numpy()
        if path[-1] == "var":
            n = values_per_channel[places[path][0]]
            want = 0.99 * old[path] + (want - 0.99 * old[path]) * (n - 1) / n
        np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-6, err_msg=str(path))

    got = flatten({"params": gradients})
    want = {
        path: layout(tensor.grad.numpy())
        for path, (tensor, layout) in places.items()
        if path[0] == "params"
    }
    for path, array in got.items():
        scale = np.abs(want[path]).max()
        if network.norm_order == "bn_elu" and path[1] in layers[:-1] and path[2] == "bias":
            # The normalization after it removes any bias, so the gradient is only rounding error.
            scale = np.abs(want[(*path[:-1], "kernel")]).max()
        assert scale > 1e-8, path
        assert np.abs(array - want[path]).max() / scale < 1e-3, path
    # A class that every clip has masked has exactly no gradient.
    assert not got["params", layers[-1], "kernel"][:, 2].any()
    assert not got["params", layers[-1], "bias"][2]
    assert got["params", layers[-1], "kernel"][:, 3].all()
    again = flax_step(network, variables, inputs, labels ^ masked, masked)
    jax.tree.map(np.testing.assert_array_equal, again, (scores, new, gradients))


def compare_waveform_cnn(features, dense_units, norm_order, formulation):
    torch = pytest.importorskip("torch")
    network = WaveformCNN(
        CLASSES, features, dense_units, norm_order, formulation=Formulation(formulation)
    )
    waveforms = random_waveforms()
    reference, embedding_layer = torch_network(features, dense_units, norm_order, CLASSES)
    lengths = []
    for module in reference:
        if isinstance(module, torch.nn.Conv1d):
            module.register_forward_hook(lambda _, args, out: lengths.append(out.shape[2]))
    layers = [*CONVOLUTIONS, *(f"dense_{i}" for i in range(len(dense_units))), "output"]
    norms = [f"norms_{i}" for i in range(9 + len(dense_units))]
    compare(network, waveforms, reference, embedding_layer, layers, norms)
    assert tuple(lengths[:9]) == LENGTHS


@pytest.mark.parametrize(
    ("norm_order", "formulation"),
    # The test of the whole network below covers Toom-Cook with elu_bn.
    [("elu_bn", "lax"), ("bn_elu", "toom_cook")],
)
def test_agrees_with_pytorch(norm_order, formulation):
    shape = (BATCH, LENGTHS[0], NARROW[0])
    assert toom_cook.pays(shape, (16, NARROW[0], NARROW[1]), 3, Tuning())
    compare_waveform_cnn(NARROW, (24, 16), norm_order, formulation)


def test_the_whole_network_agrees_with_pytorch():
    features = tuple(features for _, _, features in TABLE_II)
    compare_waveform_cnn(features, (256, 128), "elu_bn", "toom_cook")


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_embedding_classifier_agrees_with_pytorch(norm_order):
    pytest.importorskip("torch")
    network = EmbeddingClassifier(CLASSES, norm_order=norm_order)
    embeddings = np.random.default_rng(1).normal(size=(BATCH, 128)).astype(np.float32)
    reference = torch_classifier(norm_order, CLASSES)
    compare(network, embeddings, reference, 0, ["Dense_0", "output"], ["ActivationAndNorm_0"])
