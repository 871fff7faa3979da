"""The network against Table II built anew in PyTorch, weights copied over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relabel_jax.models.waveform_cnn import AudioNetwork, FeatureNetwork
from relabel_jax.ops import toom_cook
from relabel_jax.ops.normalization import NORM_ORDERS
from relabel_jax.train.step import masked_mean_squared_error

# Table II, typed off the paper: taps, stride, filters of the nine convolutions; their lengths.
TABLE_II = (
    *((17, 3, 64), (16, 3, 64), (15, 3, 96), (14, 3, 96), (13, 3, 128)),
    *((12, 3, 128), (9, 3, 192), (9, 3, 192), (9, 1, 256)),
)
LENGTHS = (26662, 8883, 2957, 982, 324, 105, 33, 9, 1)
# Wide enough for Toom-Cook in layers 2 to 6, and fast.
NARROW = (32, 32, 32, 32, 32, 32, 8, 8, 8)
BATCH = 4
CLASSES = 11

CONVOLUTIONS = [f"convolutions_{i}" for i in range(9)]


def torch_network(filters, dense_units, norm_order, num_classes):
    """(network, the position in it of the embedding's layer), of PyTorch's own layers."""
    from torch import nn

    def norm(features):
        pair = [nn.ELU(), nn.BatchNorm1d(features, eps=1e-3, momentum=1 - 0.99)]
        return pair if norm_order == "elu_bn" else pair[::-1]

    layers, channels = [], 1
    for (taps, stride, _), features in zip(TABLE_II, filters, strict=True):
        layers += [nn.Conv1d(channels, features, taps, stride), *norm(features)]
        channels = features
    layers.append(nn.Flatten())
    for features in dense_units:
        layers += [nn.Linear(channels, features), *norm(features)]
        channels = features
    layers += [nn.Linear(channels, num_classes), nn.Sigmoid()]
    return nn.Sequential(*layers), len(layers) - 5


def torch_feature_network(norm_order, num_classes):
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

    def turned(array):  # PyTorch: out, in(, taps)
        return np.transpose(array)

    places = {}
    weighted = [m for m in reference if isinstance(m, (torch.nn.Conv1d, torch.nn.Linear))]
    for name, module in zip(layers, weighted, strict=True):
        places["params", name, "kernel"] = module.weight, turned
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


def flatten(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def random_variables(network, inputs):
    """Glorot uniform weights; for what is 0 or 1 at first, and would hide errors, random values."""
    rng = np.random.default_rng(7)

    def fill(path, leaf):
        low, high = (0.5, 1.5) if path[-1].key in ("scale", "var") else (-0.2, 0.2)
        if path[-1].key == "kernel":
            *taps, fan_in, fan_out = leaf.shape
            high = np.sqrt(6 / (np.prod(taps, initial=1) * (fan_in + fan_out)))
            low = -high
        return rng.uniform(low, high, leaf.shape).astype(np.float32)

    init = functools.partial(network.init, train=False)
    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, jax.random.key(0), inputs))


def random_waveforms():
    """int16[BATCH, 80000] whose clips differ in level and colour."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(BATCH, 80_000))
    noise[::2] = np.cumsum(noise[::2], axis=1) / 30
    noise *= np.geomspace(300, 9000, BATCH)[:, None]
    return np.clip(noise, -32768, 32767).astype(np.int16)


def random_targets():
    rng = np.random.default_rng(5)
    labels = rng.random((BATCH, CLASSES)) < 0.3
    masked = rng.random((BATCH, CLASSES)) < 0.4
    masked[:, 2] = True
    masked[:, 3] = False
    return labels, masked


@functools.partial(jax.jit, static_argnums=0)
def flax_evaluation(network, variables, inputs):
    """(scores, embeddings) in evaluation mode; a feature network's embeddings are its inputs."""
    embeddings = inputs
    if isinstance(network, AudioNetwork):
        embeddings = network.apply(variables, inputs, method="embed")
    return network.apply(variables, inputs, train=False), embeddings


@functools.partial(jax.jit, static_argnums=0)
def flax_step(network, variables, inputs, labels, masked):
    """(scores, new running statistics, gradients) in train mode."""

    def loss(params):
        scores, new = network.apply(
            variables | {"params": params}, inputs, train=True, mutable=["batch_stats"]
        )
        return masked_mean_squared_error(scores, labels, masked), (scores, new)

    gradients, (scores, new) = jax.grad(loss, has_aux=True)(variables["params"])
    return scores, new, gradients


def compare(network, inputs, reference, embedding_layer, layers, norms):
    """Holds a network to the reference in evaluation mode and in one train step."""
    import torch

    torch_inputs = torch.from_numpy(inputs).float()
    if isinstance(network, AudioNetwork):
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
    assert np.ptp(expected, axis=0).min() > 1e-3  # the clips can be told apart
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    if isinstance(network, AudioNetwork):
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
            # The normalization behind it takes any bias out: all that is left is rounding.
            scale = np.abs(want[(*path[:-1], "kernel")]).max()
        assert scale > 1e-8, path
        assert np.abs(array - want[path]).max() / scale < 1e-3, path
    # What every clip has masked: nothing at all.
    assert not got["params", layers[-1], "kernel"][:, 2].any()
    assert not got["params", layers[-1], "bias"][2]
    assert got["params", layers[-1], "kernel"][:, 3].all()
    again = flax_step(network, variables, inputs, labels ^ masked, masked)
    jax.tree.map(np.testing.assert_array_equal, again, (scores, new, gradients))


def compare_audio_network(filters, dense_units, norm_order, formulation):
    torch = pytest.importorskip("torch")
    network = AudioNetwork(CLASSES, formulation, filters, dense_units, norm_order)
    waveforms = random_waveforms()
    reference, embedding_layer = torch_network(filters, dense_units, norm_order, CLASSES)
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
    # Toom-Cook with elu_bn compiles longest, and the whole network below is of it.
    [("elu_bn", "lax"), ("elu_bn", "direct"), ("bn_elu", "lax"), ("bn_elu", "toom_cook")],
)
def test_agrees_with_pytorch(norm_order, formulation):
    shape = (BATCH, LENGTHS[0], NARROW[0])
    assert toom_cook.pay(shape, (16, NARROW[0], NARROW[1]), 3)
    compare_audio_network(NARROW, (24, 16), norm_order, formulation)


def test_the_whole_network_agrees_with_pytorch():
    filters = tuple(filters for _, _, filters in TABLE_II)
    compare_audio_network(filters, (256, 128), "elu_bn", "toom_cook")


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_feature_network_agrees_with_pytorch(norm_order):
    pytest.importorskip("torch")
    network = FeatureNetwork(CLASSES, norm_order)
    embeddings = np.random.default_rng(1).normal(size=(BATCH, 128)).astype(np.float32)
    reference = torch_feature_network(norm_order, CLASSES)
    compare(network, embeddings, reference, 0, ["Dense_0", "output"], ["ActivationAndNorm_0"])


@pytest.mark.parametrize("num_classes", [527, 455])
def test_table_ii_lengths_and_parameter_count(num_classes):
    """With the defaults alone. 527 classes: 1.8 M parameters, as the paper has it."""
    network = AudioNetwork(num_classes, "lax")
    waveforms = jax.ShapeDtypeStruct((2, 80_000), np.int16)
    variables = jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), waveforms
    )
    channels = [1, *(filters for _, _, filters in TABLE_II), 256, 128, num_classes]
    taps = [*(taps for taps, _, _ in TABLE_II), 1, 1, 1]
    weights = sum(t * i * o + o for t, i, o in zip(taps, channels[:-1], channels[1:], strict=True))
    norm = 2 * sum(channels[1:-1])
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in variables.items()}
    assert sizes == {"params": weights + norm, "batch_stats": norm}
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))
    if num_classes == 527:
        assert sizes["params"] == 1_810_575

    def apply(variables, waveforms):
        return network.apply(
            variables, waveforms, train=False, capture_intermediates=True, mutable="intermediates"
        )

    scores, seen = jax.eval_shape(apply, variables, waveforms)
    assert scores.shape == (2, num_classes)
    assert (
        tuple(seen["intermediates"][f"norms_{i}"]["__call__"][0].values.shape[1] for i in range(9))
        == LENGTHS
    )


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_evaluation_stores_no_outputs_of_the_first_layer(precision):
    """On a CPU: 6.8 MB a clip in float32, which the second layer's loop computes part by part."""
    network = AudioNetwork(10, "toom_cook", precision=precision)
    waveforms = jax.ShapeDtypeStruct((2, 80_000), np.int16)
    variables = jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), waveforms
    )

    def program(train):
        apply = functools.partial(network.apply, train=train, mutable=["batch_stats"])
        return str(jax.make_jaxpr(apply)(variables, waveforms))

    outputs = f"[2,{LENGTHS[0]},64]"
    assert outputs in program(train=True)
    assert outputs not in program(train=False)


def test_initial_weights_are_keras_defaults():
    """Glorot uniform: within sqrt(6 / (fan in + fan out)), and up to it; zero bias."""
    network = AudioNetwork(500, "lax", NARROW, (64, 32))
    variables = jax.jit(functools.partial(network.init, train=False))(
        jax.random.key(0), np.zeros((1, 80_000), np.int16)
    )
    for path, leaf in flatten(variables).items():
        if path[-1] == "kernel":
            *taps, fan_in, fan_out = leaf.shape
            limit = np.sqrt(6 / (np.prod(taps, initial=1) * (fan_in + fan_out)))
            assert 0.97 * limit < np.abs(leaf).max() <= limit, path
            assert abs(leaf.mean()) < 5 * limit / np.sqrt(3 * leaf.size), path
        else:
            assert (leaf == (1 if path[-1] in ("scale", "var") else 0)).all(), path


def test_masked_scores_have_exactly_zero_gradient():
    labels, masked = random_targets()
    scores = jnp.asarray(np.random.default_rng(0).random(labels.shape), jnp.float32)
    gradient = np.asarray(jax.grad(masked_mean_squared_error)(scores, labels, masked))
    assert (gradient[masked] == 0).all()
    expected = 2 * (np.asarray(scores) - labels) / (~masked).sum()
    np.testing.assert_allclose(gradient[~masked], expected[~masked], rtol=1e-6)
