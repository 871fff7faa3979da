"""The paper's network: its sizes, variables, options and buffers."""

import functools

import jax
import numpy as np
import pytest
from networks import (
    CLASSES,
    CONVOLUTIONS,
    DENSE,
    LENGTHS,
    NARROW,
    TABLE_II,
    equations,
    flatten,
    random_variables,
    random_waveforms,
)

from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import InputError
from relabel_jax.models.waveform_cnn import WaveformCNN, convolution_sizes
from relabel_jax.ops.buffers import Buffers
from relabel_jax.ops.formulation import Formulation
from relabel_jax.ops.normalization import NORM_ORDERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_classes", [527, 455])
def test_table_ii_parameter_count(num_classes):
    """The default network has 1.8 M parameters for 527 classes, as the paper says."""
    network = WaveformCNN(num_classes)
    waveforms = jax.ShapeDtypeStruct((2, 80_000), np.int16)
    variables = jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), waveforms
    )
    channels = [1, *(features for _, _, features in TABLE_II), 256, 128, num_classes]
    kernel_sizes = [*(kernel_size for kernel_size, _, _ in TABLE_II), 1, 1, 1]
    weights = sum(
        kernel_size * channels_in * channels_out + channels_out
        for kernel_size, channels_in, channels_out in zip(
            kernel_sizes, channels[:-1], channels[1:], strict=True
        )
    )
    norm = 2 * sum(channels[1:-1])
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in variables.items()}
    assert sizes == {"params": weights + norm, "batch_stats": norm}
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(variables))
    if num_classes == 527:
        assert sizes["params"] == 1_810_575
    outputs = jax.eval_shape(functools.partial(network.apply, train=False), variables, waveforms)
    assert outputs.scores.shape == outputs.logits.shape == (2, num_classes)


def test_table_ii_lengths():
    """The comparison with PyTorch also checks the lengths."""
    sizes = list(convolution_sizes(80_000))
    assert tuple(size[:3] for size in sizes) == TABLE_II
    assert tuple(size.time_out for size in sizes) == LENGTHS


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_variables_have_flax_names_folded_or_not(norm_order):
    """Checkpoints have these names, which are the names of `nn.Dense` and `nn.BatchNorm`."""
    expected = {
        ("params", name, leaf) for name in (*CONVOLUTIONS, *DENSE) for leaf in ("kernel", "bias")
    }
    expected |= {("params", "output", leaf) for leaf in ("kernel", "bias")}
    for i in range(11):
        for collection, names in (("params", ("scale", "bias")), ("batch_stats", ("mean", "var"))):
            expected |= {(collection, f"norms_{i}", "BatchNorm_0", name) for name in names}
    inputs = jax.ShapeDtypeStruct((1, 80_000), np.int16)
    for fold_norm in (True, False):
        network = WaveformCNN(CLASSES, NARROW, norm_order=norm_order, fold_norm=fold_norm)
        init = functools.partial(network.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), inputs)
        paths = jax.tree_util.tree_leaves_with_path(variables)
        assert {tuple(key.key for key in path) for path, _ in paths} == expected


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_evaluation_stores_no_outputs_of_the_first_layer(precision):
    """On a CPU the second layer's loop computes them, 6.8 MB a clip in float32, part by part."""
    network = WaveformCNN(10, precision=precision, formulation=Formulation("toom_cook"))
    waveforms = jax.ShapeDtypeStruct((2, 80_000), np.int16)
    variables = jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), waveforms
    )

    def shapes(train):
        apply = functools.partial(network.apply, train=train, mutable=["batch_stats"])
        program = jax.make_jaxpr(apply)(variables, waveforms)
        return {
            variable.aval.shape
            for equation in equations(program.jaxpr)
            for variable in equation.outvars
        }

    first_layer = (2, LENGTHS[0], 64)
    assert first_layer in shapes(train=True)
    assert first_layer not in shapes(train=False)


def test_initial_weights_are_keras_defaults():
    """Glorot uniform: values up to sqrt(6 / (fan in + fan out)); zero bias."""
    network = WaveformCNN(500, NARROW, (64, 32))
    variables = jax.jit(functools.partial(network.init, train=False))(
        jax.random.key(0), np.zeros((1, 80_000), np.int16)
    )
    for path, leaf in flatten(variables).items():
        if path[-1] == "kernel":
            *window, fan_in, fan_out = leaf.shape
            limit = np.sqrt(6 / (np.prod(window, initial=1) * (fan_in + fan_out)))
            assert 0.97 * limit < np.abs(leaf).max() <= limit, path
            assert abs(leaf.mean()) < 5 * limit / np.sqrt(3 * leaf.size), path
        else:
            assert (leaf == (1 if path[-1] in ("scale", "var") else 0)).all(), path


def test_the_head_scores_embeddings():
    """The head of the embeddings gives the scores of the waveforms."""
    network = WaveformCNN(CLASSES, (4,) * 9, (8, 6))
    waveforms = random_waveforms()
    variables = random_variables(network, waveforms)
    apply = jax.jit(network.apply, static_argnames=("train", "method"))
    embeddings = apply(variables, waveforms, method="embed")
    assert embeddings.shape == (len(waveforms), network.embedding_size) == (4, 6)
    expected = apply(variables, waveforms, train=False)
    got = apply(variables, embeddings, method="head")
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.scores, 1 / (1 + np.exp(-got.logits)), rtol=1e-6)


def test_buffers_of_the_layers_that_are_computed_in_a_loop():
    fields = {"features": (32, 32, *(8,) * 7), "dense_units": (8, 8)}
    waveforms = np.zeros((2, 80_000), np.int16)
    first, second = ((2, 26662, 32), None), ((2, 8883, 32), (2, 26662, 32))
    for cores_share, expected in ((True, [None, second]), (False, [first, second])):
        formulation = Formulation("toom_cook", cores_share)
        buffers = WaveformCNN(CLASSES, **fields, formulation=formulation).buffers(waveforms)
        expected = tuple(shapes and Buffers(*shapes) for shapes in expected) + (None,) * 7
        shapes = jax.tree.map(np.shape, buffers)
        assert shapes == {"convolutions": expected}


@pytest.mark.parametrize(
    "fields",
    [{"norm_order": "bn_elu"}, {"fold_norm": False}, {"formulation": Formulation("lax")}],
)
def test_networks_without_these_loops_have_no_buffers(fields):
    network = WaveformCNN(CLASSES, **({"formulation": Formulation("toom_cook")} | fields))
    assert network.buffers(np.zeros((2, 80_000), np.int16)) == {}


def test_a_config_becomes_a_network():
    network = WaveformCNN.from_config(7, features=[4] * 9, dense_units=[8, 6], precision="bf16")
    assert network == WaveformCNN(
        7, (4,) * 9, (8, 6), precision="bf16", formulation=Formulation.resolve()
    )
    assert WaveformCNN.from_config(7).precision == "f32"  # tests run on a CPU
    assert network.waveform_format == PAPER_FORMAT
    assert network.for_export() == network.clone(formulation=Formulation("lax"))
    assert network.export_facts() == {
        "taps": [17, 16, 15, 14, 13, 12, 9, 9, 9],
        "strides": [3, 3, 3, 3, 3, 3, 3, 3, 1],
        "filters": [4] * 9,
        "dense_units": [8, 6],
        "norm_order": "elu_bn",
        "batch_norm_epsilon": 1e-3,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_order": "bn"}, "norm_order: 'bn' is none of elu_bn, bn_elu"),
        ({"formulation": "fft"}, "formulation: 'fft' is none of auto, lax, direct, toom_cook"),
        ({"precision": "f16"}, "precision: 'f16' is none of auto, f32, tf32, bf16"),
        ({"features": (4,) * 8}, "features: expected 9 numbers, one a convolution, got"),
        ({"features": (4, 0) + (4,) * 7}, "features: expected positive numbers, got"),
        ({"dense_units": ()}, "dense_units: expected at least one layer, the embedding"),
        ({"dense_units": (8, -1)}, "dense_units: expected positive numbers, got"),
    ],
)
def test_an_option_without_such_a_value_is_refused(options, message):
    with pytest.raises(InputError) as caught:
        WaveformCNN.from_config(7, **options)
    assert str(caught.value).startswith(f"config.model.{message}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "f16"}, "precision 'f16' is none of f32, tf32, bf16"),
        ({"norm_order": "bn"}, "norm_order 'bn' is none of elu_bn, bn_elu"),
    ],
)
def test_an_unknown_name_is_refused(fields, message):
    init = functools.partial(WaveformCNN(3, **fields).init, train=False)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init, jax.random.key(0), random_waveforms())
