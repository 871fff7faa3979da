"""Sizes, random variables and batches for the paper's network, and one step of it."""

import functools

import jax
import numpy as np

from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.train.losses import masked_mean_squared_error

# Table II, copied from the paper: kernel size, stride and features of the nine convolutions; the
# lengths of their outputs.
TABLE_II = (
    *((17, 3, 64), (16, 3, 64), (15, 3, 96), (14, 3, 96), (13, 3, 128)),
    *((12, 3, 128), (9, 3, 192), (9, 3, 192), (9, 1, 256)),
)
LENGTHS = (26662, 8883, 2957, 982, 324, 105, 33, 9, 1)
# Fast, and wide enough for Toom-Cook in layers 2 to 6.
NARROW = (32, 32, 32, 32, 32, 32, 8, 8, 8)
BATCH = 4
CLASSES = 11

CONVOLUTIONS = [f"convolutions_{i}" for i in range(9)]
DENSE = ["dense_0", "dense_1"]


def flatten(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def random_variables(network, inputs):
    """Glorot uniform kernels, and random values for the variables that are initially 0 or 1."""
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
    """(scores, embeddings) in evaluation mode. The classifier's embeddings are its inputs."""
    embeddings = inputs
    if isinstance(network, WaveformCNN):
        embeddings = network.apply(variables, inputs, method="embed")
    return network.apply(variables, inputs, train=False).scores, embeddings


@functools.partial(jax.jit, static_argnums=0)
def flax_step(network, variables, inputs, labels, masked):
    """(scores, new running statistics, gradients) in train mode."""

    def loss(params):
        outputs, new = network.apply(
            variables | {"params": params}, inputs, train=True, mutable=["batch_stats"]
        )
        return masked_mean_squared_error(outputs, labels, masked), (outputs.scores, new)

    gradients, (scores, new) = jax.grad(loss, has_aux=True)(variables["params"])
    return scores, new, gradients


def worst(got, expected, skipped=()):
    """The largest error of any array, relative to the array's largest entry."""
    got, expected = flatten(got), flatten(expected)
    assert got.keys() == expected.keys()
    return max(
        np.abs(got[path] - expected[path]).max() / np.abs(expected[path]).max()
        for path in expected
        if path not in skipped
    )


def equations(jaxpr):
    """All equations of a jaxpr and of the jaxprs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for parameter in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            inner = getattr(parameter, "jaxpr", parameter)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
