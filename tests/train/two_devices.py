"""Checks that need two devices, and so run in a process of their own.

python two_devices.py FOLDER CHECK...

step_of_head, step_of_network, mixup, embeddings: the same as on one device.
populations: some members are behind the others.
"""

import dataclasses
import pathlib
import shutil
import sys

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tiny_training import EPOCHS, member, states, training

from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.pretrained import Pretrained
from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.models.logmel_cnn import LogMelCNN
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops.formulation import Formulation
from relabel_jax.train.loop import train
from relabel_jax.train.mixup import Batch, Mixup
from relabel_jax.train.population import Layout, split_members, stack_members, train_population
from relabel_jax.train.step import Recipe, init_state, train_step

CLASSES, BATCH = 3, 4
RECIPE = Recipe(0.001, 0.9, 4)
FILTERS = (32, 32, *(8,) * 7)


def waveforms():
    """int16[BATCH, 80000] whose clips differ in loudness."""
    noise = np.random.default_rng(0).standard_normal((BATCH, 80_000))
    loudness = np.geomspace(100, 10_000, BATCH)[:, None]
    return (loudness * noise).clip(-32768, 32767).astype(np.int16)


def features():
    """float32[BATCH, 6]."""
    return np.random.default_rng(0).standard_normal((BATCH, 6), np.float32)


# With Flax's own normalization.
HEAD = (EmbeddingClassifier(CLASSES, norm_order="bn_elu"), features())
# With loops over blocks and folded normalization.
NETWORK = (
    WaveformCNN(CLASSES, FILTERS, (8, 8), formulation=Formulation.resolve("toom_cook")),
    waveforms(),
)


def step(network, inputs, num_devices):
    """(states, the program's text) of one step from the same weights, on a batch whose
    clips differ in how many labels are masked. Twice, to the same bits."""
    devices = np.array(jax.devices()[:num_devices]).reshape(1, -1)
    layout = Layout(Mesh(devices, ("member", "data")), "map")
    rng = np.random.default_rng(0)
    labels = rng.random((1, 1, BATCH, CLASSES)) < 0.5
    masked = (np.arange(BATCH * CLASSES) < 4).reshape(1, 1, BATCH, CLASSES)
    init = jax.jit(network.init, static_argnames="train")
    variables = init(jax.random.key(0), inputs[:1], train=False)
    start = stack_members([jax.device_get(init_state(variables, RECIPE))])
    arguments = layout.put_chunk(inputs[None], labels, masked)
    lowered = train_population.lower(
        network, RECIPE, layout, layout.put(start, "member"), *arguments
    )
    program = lowered.compile()
    states, again = (
        jax.device_get(program(layout.put(start, "member"), *arguments)[0]) for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, states, again)
    return states, program.as_text()


def assert_close(got, expected):
    """The loss, the moments, and Adam's first mean, which is a tenth of the gradient."""

    def of_one(path, got, expected):
        error, size = np.abs(got - expected).max(), np.abs(expected).max()
        assert error <= 3e-5 * max(size, 0.01), f"{jax.tree_util.keystr(path)}: {error} of {size}"

    got, expected = (
        (state.loss_sum, state.batch_stats, state.opt_state) for state in (got, expected)
    )
    jax.tree_util.tree_map_with_path(of_one, got, expected)


def check_step(network, inputs):
    (expected, _), (got, text) = step(network, inputs, 1), step(network, inputs, 2)
    assert_close(got, expected)
    # What a device needs of the others is sums; the clips of others it never sees.
    assert "all-reduce(" in text
    assert "all-gather" not in text


def check_mixup(network, inputs):
    """Each device mixes its own clips. The step is that of one device on these mixtures."""
    recipe = dataclasses.replace(RECIPE, loss="bce", mixup=Mixup(0.5))
    layout = Layout(Mesh(np.array(jax.devices()).reshape(1, -1), ("member", "data")), "map")
    labels, masked = np.random.default_rng(0).random((2, BATCH, CLASSES)) < 0.4
    init = jax.jit(network.init, static_argnames="train")
    variables = jax.device_get(init(jax.random.key(0), inputs[:1], train=False))
    start = jax.device_get(init_state(variables, recipe))
    states, _ = train_population(
        network,
        recipe,
        layout,
        layout.put(stack_members([start]), "member"),
        *layout.put_chunk(inputs[None], labels[None, None], masked[None, None]),
    )
    mixtures = []
    for device, part in enumerate((slice(0, 2), slice(2, 4))):
        key = jax.random.key(0)
        for number in (0, device, 0):  # the step, the device, the stream
            key = jax.random.fold_in(key, number)
        mixtures.append(recipe.mixup(key, Batch(inputs[part], labels[part], masked[part]))[:3])
    mixed = map(np.concatenate, zip(*mixtures, strict=True))
    plain = dataclasses.replace(RECIPE, loss="bce")
    one_step = jax.jit(train_step, static_argnums=(0, 1))
    expected, _ = one_step(network, plain, init_state(variables, plain), *mixed)
    assert_close(*map(jax.device_get, (split_members(layout, states)[0], expected)))


def check_embeddings(network):
    """Of nine windows, one more than a batch."""
    windows = np.random.default_rng(0).integers(-9999, 9999, (9, 80_000), np.int16)
    init = jax.jit(network.init, static_argnames="train")
    variables = jax.device_get(init(jax.random.key(0), windows[:1], train=False))
    chunks = Embedder(Pretrained(network, variables, None, {})).embed_windows(iter(windows))
    got, scores = map(np.concatenate, zip(*chunks, strict=True))
    apply = jax.jit(network.apply, static_argnames=("train", "method"))
    expected = apply(variables, windows, method="embed")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    expected = apply(variables, windows, train=False).scores
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def check_populations(folder):
    """Each member has its device, and the one that is behind keeps it; or both share each batch."""
    for size in (2, 3):
        check_population(folder / str(size), size)


def check_population(folder, size):
    """Killed between two saves, it ends with the bits that it would have had."""
    names = [str(i) for i in range(size)]

    def population(of):
        return [member(folder / of / name, int(name), int(name)) for name in names]

    train(training(population("undisturbed")))
    train(training(population("killed"), num_epochs=1))
    behind = names[1:]
    for name in behind:
        shutil.copytree(folder / "killed" / name, folder / "before" / name)
    train(training(population("killed"), num_epochs=2))
    for name in behind:
        shutil.rmtree(folder / "killed" / name)
        (folder / "before" / name).rename(folder / "killed" / name)
    train(training(population("killed")))
    for name in names:
        got, expected = (states(folder / of / name, EPOCHS) for of in ("killed", "undisturbed"))
        jax.tree.map(np.testing.assert_array_equal, got, expected)


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    logging.set_verbosity(logging.ERROR)  # Orbax's chatter
    assert len(jax.devices()) == 2
    folder, *names = sys.argv[1:]
    checks = {
        "step_of_head": lambda: check_step(*HEAD),
        "step_of_network": lambda: check_step(*NETWORK),
        "mixup": lambda: check_mixup(*HEAD),
        "embeddings": lambda: check_embeddings(
            LogMelCNN(CLASSES, hop_s=0.1, num_mels=8, features=(4, 4), embedding_size=6)
        ),
        "populations": lambda: check_populations(pathlib.Path(folder)),
    }
    for name in names:
        checks[name]()
        print(name)
