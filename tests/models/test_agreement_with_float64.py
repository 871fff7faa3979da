"""The paper's network against an independent implementation in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    CLASSES,
    CONVOLUTIONS,
    DENSE,
    NARROW,
    TABLE_II,
    flax_evaluation,
    flax_step,
    random_targets,
    random_variables,
    random_waveforms,
    worst,
)

from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops.formulation import Formulation

pytestmark = pytest.mark.slow


def reference_convolution(x, kernel, stride):
    """The convolution tap by tap, because XLA's float64 convolution takes ten times as long.

    The loop compiles faster and keeps no copy of x for each tap.
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
    """(scores, embeddings, new statistics) of WaveformCNN, layer by layer, in float64."""
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
    """Like `flax_step` and `flax_evaluation`, in float64 without strict promotion."""
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


@pytest.mark.parametrize(
    ("norm_order", "fold_norm", "formulation"),
    # Only the first computes normalization in its loops. `direct` compiles faster.
    [
        ("elu_bn", True, "toom_cook"),
        pytest.param("elu_bn", False, "direct", marks=pytest.mark.release),
        pytest.param("bn_elu", True, "direct", marks=pytest.mark.release),
    ],
)
def test_narrow_network_agrees_with_float64(norm_order, fold_norm, formulation):
    waveforms, (labels, masked) = random_waveforms(), random_targets()
    network = WaveformCNN(
        CLASSES, NARROW, (24, 16), norm_order, fold_norm, formulation=Formulation(formulation)
    )
    variables = random_variables(network, waveforms)
    *expected, evaluation = reference_step(variables, waveforms, labels, masked, norm_order)
    got = flax_step(network, variables, waveforms, labels, masked)
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=1e-5)
    assert worst(got[1], expected[1]) < 2e-6
    # With bn_elu the gradient of a bias before the normalization is only rounding error.
    skipped = [(name, "bias") for name in (*CONVOLUTIONS, *DENSE) if norm_order == "bn_elu"]
    assert worst(got[2], expected[2], skipped) < 1e-4
    for a, b in zip(flax_evaluation(network, variables, waveforms), evaluation, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.release
def test_gradients_of_the_whole_network_are_as_exact_as_plain_float32():
    """The error in the worst array of 8 clips is at most 4e-5, and 4 times that of plain float32.

    With 24 clips it is at most 2e-5. The clips are loud noise. On quiet noise the error of plain
    float32 is 7e-4.
    """
    rng = np.random.default_rng(1)
    batch = 8
    waveforms = (10_000 * rng.normal(size=(batch, 80_000))).clip(-32768, 32767).astype(np.int16)
    labels, masked = rng.random((2, batch, CLASSES)) < 0.3
    plain, folded = (
        WaveformCNN(CLASSES, fold_norm=fold_norm, formulation=formulation)
        for formulation, fold_norm in (
            (Formulation("lax"), False),
            (Formulation("toom_cook", cores_share=False), True),
        )
    )
    variables = jax.device_get(
        jax.jit(functools.partial(plain.init, train=False))(jax.random.key(1), waveforms)
    )
    *_, expected, _ = reference_step(variables, waveforms, labels, masked, "elu_bn")
    errors = [
        worst(flax_step(network, variables, waveforms, labels, masked)[2], expected)
        for network in (plain, folded)
    ]
    # Measured: 1.3e-5 to 2.8e-5, depending on the processor and the version of JAX. For 24 clips,
    # which take a minute, at most 1.5e-5.
    assert errors[1] < 4e-5
    assert errors[1] < 4 * errors[0]
