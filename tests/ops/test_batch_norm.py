"""Batch normalization against Flax's, also with several devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel_jax.ops.batch_norm import BatchNorm


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    shape=st.sampled_from([(2, 5), (3, 4, 1), (2, 3, 4, 5), (1, 6, 2, 16)]),
    center=st.sampled_from([0.0, -60.0]),
)
def test_values_statistics_and_gradients_are_those_of_flax(seed, shape, center):
    rng = np.random.default_rng(seed)
    x = (center + rng.normal(0, 3, shape)).astype(np.float32)
    weights = rng.normal(0, 1, shape).astype(np.float32)
    options = {"momentum": 0.9, "epsilon": 1e-3}
    written_out = BatchNorm(**options)
    flax = nn.BatchNorm(**options, use_fast_variance=False)
    variables = written_out.init(jax.random.key(0), x, use_running_average=False)
    assert jax.tree.structure(variables) == jax.tree.structure(
        flax.init(jax.random.key(0), x, use_running_average=False)
    )
    variables = jax.tree.map(lambda each: each + rng.random(each.shape, np.float32), variables)
    x = jnp.asarray(x)

    def result(layer, params, x, average):
        out, updates = layer.apply(
            {**variables, "params": params}, x, use_running_average=average, mutable="batch_stats"
        )
        return (out * weights).sum(), (out, updates)

    for average in (False, True):
        got, expected = (
            jax.value_and_grad(result, argnums=(1, 2), has_aux=True)(
                layer, variables["params"], x, average
            )
            for layer in (written_out, flax)
        )
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * abs(weights).sum())


ON_DEVICES = """
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from relabel_jax.ops.batch_axis import on_each_device, total
from relabel_jax.ops.batch_norm import BatchNorm

x, weights = np.random.default_rng(0).normal(2, 3, (2, 6, 4, 5)).astype(np.float32)

def gradients(axis_name, x, weights):
    layer = BatchNorm(axis_name=axis_name)
    variables = layer.init(jax.random.key(0), x, use_running_average=False)

    def loss(params, x):
        out, updates = layer.apply(
            {**variables, "params": params}, x, use_running_average=False, mutable="batch_stats"
        )
        return (out**2 * weights).sum(), updates

    (by_params, by_x), updates = jax.grad(loss, argnums=(0, 1), has_aux=True)(
        variables["params"], x
    )
    return total(by_params, axis_name), by_x, updates

mesh = jax.make_mesh((3,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
parts, shared = PartitionSpec("data"), PartitionSpec()
divided = on_each_device(
    lambda x, weights: gradients("data", x, weights),
    mesh, (parts, parts), (shared, parts, shared),
)
got, expected = jax.jit(divided)(x, weights), gradients(None, x, weights)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)
print("equal on", jax.device_count())
"""


@pytest.mark.slow
def test_devices_that_share_a_batch():
    run = subprocess.run(
        [sys.executable, "-c", ON_DEVICES],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "3", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "equal on 3", run.stderr
