"""Arithmetic in bfloat16 and TF32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    CLASSES,
    CONVOLUTIONS,
    NARROW,
    equations,
    flax_step,
    random_targets,
    random_variables,
    random_waveforms,
    worst,
)

from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops import direct
from relabel_jax.ops.formulation import Formulation

pytestmark = pytest.mark.slow


@pytest.mark.release
@pytest.mark.parametrize("fold_norm", [True, False])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(fold_norm):
    waveforms, (labels, masked) = random_waveforms(), random_targets()
    exact, rough = (
        WaveformCNN(
            CLASSES,
            NARROW,
            (24, 16),
            "elu_bn",
            folded,
            precision,
            formulation=Formulation("direct"),
        )
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
    # All gradients are compared together, because single arrays of such a narrow network can be
    # mostly rounding error. Measured: 0.09 plain and 0.05 folded.
    got_all, expected_all = (
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step[2])])
        for step in (got, expected)
    )
    bound = 0.1 if fold_norm else 0.15
    assert np.linalg.norm(got_all - expected_all) < bound * np.linalg.norm(expected_all)


@pytest.mark.parametrize(("rounded", "train"), [("tf32", False), ("bf16", True)])
def test_rounding_leaves_what_quiet_clips_differ_in(monkeypatch, rounded, train):
    """With nonzero biases, the differences between clips of noise survive rounding."""
    waveforms = np.random.default_rng(0).normal(0, 98, (6, 80_000)).astype(np.int16)  # 0.3%
    network = WaveformCNN(CLASSES, NARROW, (24, 16))
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
    else:  # rounds like the products of a device with TF32
        exact = direct.convolve
        monkeypatch.setattr(
            direct,
            "convolve",
            lambda inputs, kernel, stride: exact(
                *(jax.lax.reduce_precision(x, 8, 10) for x in (inputs, kernel)), stride
            ),
        )
    error = np.linalg.norm(differences(network) - expected) / np.linalg.norm(expected)
    # Measured: at most 0.0016 and 0.016; without the subtraction of ELU(b), at least 0.09 and 1.0.
    assert 1e-5 < error < {"tf32": 0.005, "bf16": 0.05}[rounded]


def products(jaxpr):
    """(primitive, dtype of the operands, precision) of all convolutions and matrix products."""
    for equation in equations(jaxpr):
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            precision = equation.params["precision"]
            precision = precision[0] if isinstance(precision, tuple) else precision
            name = "DEFAULT" if precision is None else precision.name
            yield equation.primitive.name, equation.invars[0].aval.dtype.name, name


@pytest.mark.parametrize("formulation", ["lax", "direct", "toom_cook"])
@pytest.mark.parametrize(
    ("precision", "dtype", "name"),
    [("f32", "float32", "HIGHEST"), ("tf32", "float32", "HIGH"), ("bf16", "bfloat16", "DEFAULT")],
)
def test_forward_and_backward_have_the_precision(precision, dtype, name, formulation):
    """This checks the program, because a CPU multiplies float32 exactly at any precision."""
    network = WaveformCNN(
        CLASSES, NARROW, (24, 16), precision=precision, formulation=Formulation(formulation)
    )
    variables = random_variables(network, random_waveforms())
    step = functools.partial(flax_step.__wrapped__, network)
    jaxpr = jax.make_jaxpr(step)(variables, random_waveforms(), *random_targets())
    found = set(products(jaxpr.jaxpr))
    assert {each for primitive, _, each in found if primitive == "conv_general_dilated"} == {name}
    of_products = {each for primitive, _, each in found if primitive == "dot_general"}
    # The dense layers are always float32. A convolution may consist of matrix products too.
    assert of_products == ({"HIGHEST"} if formulation == "lax" else {name, "HIGHEST"})
    assert ("dot_general", "float32", "HIGHEST") in found
    # Toom-Cook's transforms are in float32 for all dtypes.
    allowed = {dtype, "float32"} if formulation == "toom_cook" else {dtype}
    assert dtype in {each for primitive, each, _ in found if primitive == "conv_general_dilated"}
    assert {each for primitive, each, _ in found if primitive == "conv_general_dilated"} <= allowed
    assert len(list(products(jaxpr.jaxpr))) >= 3 * (9 + 3) - 1
