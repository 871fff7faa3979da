"""Folded normalization and precision against the formulas in float64, written out once more."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_network import (
    BATCH,
    CLASSES,
    CONVOLUTIONS,
    NARROW,
    TABLE_II,
    flatten,
    flax_evaluation,
    flax_step,
    random_targets,
    random_variables,
    random_waveforms,
)

from relabel_jax.models.waveform_cnn import PRECISIONS, AudioNetwork, FeatureNetwork
from relabel_jax.ops import direct
from relabel_jax.ops.normalization import NORM_ORDERS, ActivationAndNorm, Linear, elu_and_moments

DENSE = ("dense_0", "dense_1")


def reference_convolution(x, kernel, stride):
    """Tap by tap: XLA's own float64 convolution takes ten times as long.

    In a loop, which compiles sooner, and keeps no copy of x for each tap.
    """
    span = (x.shape[1] - len(kernel)) // stride + 1

    @jax.checkpoint
    def add_tap(y, tap_and_weights):
        tap, weights = tap_and_weights
        rows = jax.lax.dynamic_slice_in_dim(x, tap, (span - 1) * stride + 1, 1)[:, ::stride]
        return y + rows @ weights, None

    y = jnp.zeros((len(x), span, kernel.shape[2]), x.dtype)
    return jax.lax.scan(add_tap, y, (jnp.arange(len(kernel)), kernel))[0]


def reference_network(params, stats, waveforms, norm_order, train):
    """(scores, embeddings, new statistics) of AudioNetwork, layer by layer, in float64."""
    new = {}

    def activation_and_norm(name, y):
        norm, old = params[name]["BatchNorm_0"], stats[name]["BatchNorm_0"]
        x = jax.nn.elu(y) if norm_order == "elu_bn" else y
        mean, var = old["mean"], old["var"]
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, var = x.mean(axes), x.var(axes)
            new[name] = {
                "BatchNorm_0": {
                    "mean": 0.99 * old["mean"] + 0.01 * mean,
                    "var": 0.99 * old["var"] + 0.01 * var,
                }
            }
        x = norm["scale"] * (x - mean) / jnp.sqrt(var + 1e-3) + norm["bias"]
        return x if norm_order == "elu_bn" else jax.nn.elu(x)

    x = waveforms.astype(jnp.float64)[:, :, None] / 32768
    for i, (name, (_, stride, _)) in enumerate(zip(CONVOLUTIONS, TABLE_II, strict=True)):
        y = reference_convolution(x, params[name]["kernel"], stride)
        x = activation_and_norm(f"norms_{i}", y + params[name]["bias"])
    x = x.reshape(len(waveforms), -1)
    for i, name in enumerate(DENSE):
        embeddings = x @ params[name]["kernel"] + params[name]["bias"]
        x = activation_and_norm(f"norms_{9 + i}", embeddings)
    scores = jax.nn.sigmoid(x @ params["output"]["kernel"] + params["output"]["bias"])
    return scores, embeddings, new


def reference_step(variables, waveforms, labels, masked, norm_order):
    """As `flax_step` and `flax_evaluation` together, in float64 without strict promotion."""
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        params, stats = (
            jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables[name])
            for name in ("params", "batch_stats")
        )

        return jax.device_get(_reference_step(params, stats, waveforms, labels, masked, norm_order))


@functools.partial(jax.jit, static_argnames="norm_order")
def _reference_step(params, stats, waveforms, labels, masked, norm_order):
    def loss(params):
        scores, _, new = reference_network(params, stats, waveforms, norm_order, True)
        errors = jnp.where(masked, 0, scores - labels)
        return (errors**2).sum() / (~masked).sum(), (scores, new)

    gradients, (scores, new) = jax.grad(loss, has_aux=True)(params)
    evaluation = reference_network(params, stats, waveforms, norm_order, False)[:2]
    return scores, {"batch_stats": new}, gradients, evaluation


def worst(got, expected, skipped=()):
    """The largest error of any tensor, relative to that tensor's largest entry."""
    got, expected = flatten(got), flatten(expected)
    assert got.keys() == expected.keys()
    return max(
        np.abs(got[path] - expected[path]).max() / np.abs(expected[path]).max()
        for path in expected
        if path not in skipped
    )


@pytest.mark.parametrize(
    ("norm_order", "fold_norm", "formulation"),
    # But for the first no loop knows of it, and this form compiles sooner.
    [("elu_bn", True, "toom_cook"), ("elu_bn", False, "direct"), ("bn_elu", True, "direct")],
)
def test_narrow_network_agrees_with_float64(norm_order, fold_norm, formulation):
    waveforms, (labels, masked) = random_waveforms(), random_targets()
    network = AudioNetwork(CLASSES, formulation, NARROW, (24, 16), norm_order, fold_norm=fold_norm)
    variables = random_variables(network, waveforms)
    *expected, evaluation = reference_step(variables, waveforms, labels, masked, norm_order)
    got = flax_step(network, variables, waveforms, labels, masked)
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=1e-5)
    assert worst(got[1], expected[1]) < 2e-6
    # With bn_elu a bias before the normalization has no gradient but rounding.
    skipped = [(name, "bias") for name in (*CONVOLUTIONS, *DENSE) if norm_order == "bn_elu"]
    assert worst(got[2], expected[2], skipped) < 1e-4
    for a, b in zip(flax_evaluation(network, variables, waveforms), evaluation, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_gradients_of_the_whole_network_are_as_exact_as_plain_float32(each_core_a_device):
    """The bar: 2e-5 of float64 in the worst tensor of 24 clips, here of 8 twice that; and 4 times
    plain float32's own error.

    On loud noise; on quiet noise plain float32 itself is 7e-4 off (README).
    """
    rng = np.random.default_rng(1)
    batch = 8
    waveforms = (10_000 * rng.normal(size=(batch, 80_000))).clip(-32768, 32767).astype(np.int16)
    labels, masked = rng.random((2, batch, CLASSES)) < 0.3
    plain, folded = (
        AudioNetwork(CLASSES, formulation, fold_norm=fold_norm)
        for formulation, fold_norm in (("lax", False), ("toom_cook", True))
    )
    variables = jax.device_get(
        jax.jit(functools.partial(plain.init, train=False))(jax.random.key(1), waveforms)
    )
    *_, expected, _ = reference_step(variables, waveforms, labels, masked, "elu_bn")
    errors = [
        worst(flax_step(network, variables, waveforms, labels, masked)[2], expected)
        for network in (plain, folded)
    ]
    # 1.3e-5 to 2.8e-5, by processor and version of jax; for 24 clips, which take a minute, at most
    # 1.5e-5.
    assert errors[1] < 4e-5
    assert errors[1] < 4 * errors[0]


@pytest.mark.parametrize("norm_order", NORM_ORDERS)
def test_variables_have_flax_names_folded_or_not(norm_order):
    """The names that checkpoints have had from the first: `nn.Dense`, `nn.BatchNorm`."""
    expected = {
        ("params", name, of) for name in (*CONVOLUTIONS, *DENSE) for of in ("kernel", "bias")
    }
    expected |= {("params", "output", of) for of in ("kernel", "bias")}
    for i in range(11):
        for collection, names in (("params", ("scale", "bias")), ("batch_stats", ("mean", "var"))):
            expected |= {(collection, f"norms_{i}", "BatchNorm_0", name) for name in names}
    inputs = jax.ShapeDtypeStruct((1, 80_000), np.int16)
    for fold_norm in (True, False):
        network = AudioNetwork(CLASSES, "lax", NARROW, norm_order=norm_order, fold_norm=fold_norm)
        init = functools.partial(network.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), inputs)
        paths = jax.tree_util.tree_leaves_with_path(variables)
        assert {tuple(key.key for key in path) for path, _ in paths} == expected


def plain_elu_and_moments(outputs, bias):
    values = jax.nn.elu(outputs + bias.reshape((1,) * (outputs.ndim - 1) + (-1,)))
    axes = tuple(range(values.ndim - 1))
    return values, values.mean(axes), (values**2).mean(axes)


@pytest.mark.parametrize(
    "shape", [(3, 7, 5), (2, 1, 4), (6, 3), (1, 257, 2), (2, 1030, 3), (2, 3, 5, 4)]
)
def test_elu_and_moments_agree_with_autodiff(shape):
    rng = np.random.default_rng(0)
    outputs, weights = rng.normal(size=(2, *shape))
    bias, gamma = rng.normal(size=(2, shape[-1]))

    def loss(of, outputs, bias):
        values, mean, mean_square = of(outputs, bias)
        by_channel = (1,) * (len(shape) - 1) + (-1,)
        a = gamma / jnp.sqrt(mean_square - mean**2 + 1e-3)
        return jnp.vdot(a.reshape(by_channel) * (values - mean.reshape(by_channel)), weights)

    with jax.enable_x64(True):
        got, expected = (
            jax.value_and_grad(functools.partial(loss, of), (0, 1))(outputs, bias)
            for of in (elu_and_moments, plain_elu_and_moments)
        )
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12), got, expected
        )


@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_the_gradient_of_a_bias_is_exact_where_elu_is_nearly_linear(level):
    """As on quiet clips. In float32, against autodiff's in float64."""
    rng = np.random.default_rng(0)
    outputs = level * rng.normal(size=(8, 1000, 5))
    weights = rng.normal(size=outputs.shape) + 1

    def of_bias(elu, dtype):
        def loss(bias):
            values, mean, mean_square = elu(outputs.astype(dtype), bias)
            a = 1 / jnp.sqrt(mean_square - mean**2 + 1e-3)
            return jnp.vdot(a[None, None] * (values - mean[None, None]), weights.astype(dtype))

        return jax.grad(loss)(jnp.zeros(5, dtype))

    with jax.enable_x64(True):
        expected = np.asarray(of_bias(plain_elu_and_moments, jnp.float64))
    error = np.abs(of_bias(elu_and_moments, jnp.float32) - expected).max()
    assert error < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("fold_norm", [True, False])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(fold_norm):
    waveforms, (labels, masked) = random_waveforms(), random_targets()
    exact, rough = (
        AudioNetwork(CLASSES, "direct", NARROW, (24, 16), precision=precision, fold_norm=folded)
        for precision, folded in (("f32", False), ("bf16", fold_norm))
    )
    variables = random_variables(exact, waveforms)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype),
            jax.eval_shape(
                functools.partial(rough.init, train=False), jax.random.key(0), waveforms
            ),
            variables,
        )
    )
    expected = flax_step(exact, variables, waveforms, labels, masked)
    got = flax_step(rough, variables, waveforms, labels, masked)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(got))
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=0.05)
    assert np.abs(got[0] - expected[0]).max() > 1e-5
    assert worst(got[1], expected[1]) < 0.05
    # Of all gradients together: single tensors of so narrow a network are at times hardly more
    # than rounding. Here 0.09 plain and 0.05 folded.
    got_all, expected_all = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step[2])])
        for step in (got, expected)
    )
    bound = 0.1 if fold_norm else 0.15
    assert np.linalg.norm(got_all - expected_all) < bound * np.linalg.norm(expected_all)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("rounded", ["tf32", "bf16"])
def test_rounding_leaves_what_quiet_clips_differ_in(monkeypatch, rounded, train):
    """Though biases are not 0 any more; of the embeddings' differences between clips of noise."""
    waveforms = np.random.default_rng(0).normal(0, 98, (6, 80_000)).astype(np.int16)  # 0.3%
    network = AudioNetwork(CLASSES, "lax", NARROW, (24, 16))
    variables = random_variables(network, waveforms)
    for name in CONVOLUTIONS:
        bias = variables["params"][name]["bias"]
        variables["params"][name]["bias"] = jnp.where(jnp.arange(len(bias)) % 2, 0.2, -0.2)

    def differences(network):
        embeddings, _ = network.apply(
            variables, waveforms, train, method="embed", mutable=["batch_stats"]
        )
        return embeddings - embeddings.mean(0, keepdims=True)

    expected = differences(network)
    if rounded == "bf16":
        network = network.clone(precision="bf16")
    else:  # what the products of a device that has TF32 take
        exact = direct.convolve
        monkeypatch.setattr(
            direct,
            "convolve",
            lambda inputs, kernel, stride: exact(
                *(jax.lax.reduce_precision(of, 8, 10) for of in (inputs, kernel)), stride
            ),
        )
    error = np.linalg.norm(differences(network) - expected) / np.linalg.norm(expected)
    # 0.0016 and 0.016 at most; where ELU(b) is not taken out 0.09 and 1.0 at least.
    assert 1e-5 < error < {"tf32": 0.005, "bf16": 0.05}[rounded]


def products(jaxpr):
    """(primitive, dtype of the operands, precision) of all convolutions and matrix products."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            precision = equation.params["precision"]
            precision = precision[0] if isinstance(precision, tuple) else precision
            name = "DEFAULT" if precision is None else precision.name
            yield equation.primitive.name, equation.invars[0].aval.dtype.name, name
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("formulation", ["lax", "direct", "toom_cook"])
@pytest.mark.parametrize(
    ("precision", "dtype", "name"),
    [("f32", "float32", "HIGHEST"), ("tf32", "float32", "HIGH"), ("bf16", "bfloat16", "DEFAULT")],
)
def test_forward_and_backward_have_the_precision(precision, dtype, name, formulation):
    """As of the program: a CPU multiplies float32 exactly whatever is asked."""
    network = AudioNetwork(CLASSES, formulation, NARROW, (24, 16), precision=precision)
    variables = random_variables(network, random_waveforms())
    step = functools.partial(flax_step.__wrapped__, network)
    jaxpr = jax.make_jaxpr(step)(variables, random_waveforms(), *random_targets())
    found = set(products(jaxpr.jaxpr))
    assert {each for primitive, _, each in found if primitive == "conv_general_dilated"} == {name}
    of_products = {each for primitive, _, each in found if primitive == "dot_general"}
    # The dense layers', which are float32 always; a convolution may be made of products too.
    assert of_products == ({"HIGHEST"} if formulation == "lax" else {name, "HIGHEST"})
    assert ("dot_general", "float32", "HIGHEST") in found
    # Toom-Cook's transforms are in float32, whatever the arrays.
    allowed = {dtype, "float32"} if formulation == "toom_cook" else {dtype}
    assert dtype in {each for primitive, each, _ in found if primitive == "conv_general_dilated"}
    assert {each for primitive, each, _ in found if primitive == "conv_general_dilated"} <= allowed
    assert len(list(products(jaxpr.jaxpr))) >= 3 * (9 + 3) - 1


def test_what_is_unknown_is_refused():
    waveforms = random_waveforms()
    for network, message in (
        (AudioNetwork(3, "lax", precision="f16"), "precision 'f16' is none of f32, tf32, bf16"),
        (AudioNetwork(3, "lax", norm_order="bn"), "norm_order 'bn' is none of elu_bn, bn_elu"),
        (FeatureNetwork(3, precision="f16"), "precision 'f16' is none of f32, tf32, bf16"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(
                functools.partial(network.init, train=False), jax.random.key(0), waveforms
            )


def test_nothing_normalized_is_kept():
    """What the next layer gets are ELU's outputs, less what they are for 0, and what is to fold."""
    outputs = np.random.default_rng(0).normal(size=(BATCH, 50, 3)).astype(np.float32)
    bias = jnp.asarray([0.1, -0.2, 0.3], jnp.float32)
    norm = ActivationAndNorm("elu_bn")
    layer = Linear(jnp.asarray(outputs), bias)
    activations, _ = norm.init_with_output(jax.random.key(0), layer, True)
    e = jax.nn.elu(outputs + np.asarray(bias).reshape(1, 1, 3))
    v = e - jax.nn.elu(bias).reshape(1, 1, 3)
    np.testing.assert_array_equal(activations.values, v)
    a = 1 / np.sqrt(v.var((0, 1)) + 1e-3)
    np.testing.assert_allclose(activations.scale, a, rtol=1e-5)
    np.testing.assert_allclose(activations.shift, -v.mean((0, 1)) * a, rtol=1e-4, atol=1e-6)
    assert PRECISIONS["f32"] == (jnp.float32, "highest")
