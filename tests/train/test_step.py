"""The train step against NumPy: the loss, Adam with Keras's constants, and chunks of steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from relabel_jax.models.backbone import Outputs
from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops.buffers import Buffers
from relabel_jax.ops.formulation import Formulation
from relabel_jax.train.predict import predict
from relabel_jax.train.step import Recipe, init_state, predict_chunk, train_chunk, train_step

CLASSES = 5
NETWORK = EmbeddingClassifier(CLASSES, hidden_units=6)
RECIPE = Recipe(0.01, 0.9, 3)


def tiny(chunk, batch, features=3, seed=0):
    """(variables, inputs, labels, masked) for NETWORK."""
    rng = np.random.default_rng([chunk, batch, seed])
    inputs = rng.normal(size=(chunk, batch, features)).astype(np.float32)
    labels, masked = (rng.random((chunk, batch, CLASSES)) < p for p in (0.4, 0.3))
    init = jax.jit(functools.partial(NETWORK.init, train=False))
    return jax.device_get(init(jax.random.key(seed), inputs[0])), inputs, labels, masked


def assert_close(got, expected, rtol=0.0, atol=0.0):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, expected)


def test_a_first_step_on_a_batch_that_is_all_masked_changes_no_parameter():
    variables, inputs, labels, masked = tiny(1, 8)
    recipe = Recipe(0.1, 0.5, 1)
    step = jax.jit(train_step, static_argnums=(0, 1))
    state, _ = step(
        NETWORK, recipe, init_state(variables, recipe), inputs[0], labels[0], masked[0] | True
    )
    assert_close(state.params, variables["params"])
    assert float(state.loss_sum) == 0


def test_learning_rate_is_constant_in_an_epoch_and_times_0_987_after_it():
    recipe = Recipe(0.001, 0.987, 7)
    rates = [float(recipe.schedule(step)) for step in range(7 * 100)]
    expected = [0.001 * 0.987**epoch for epoch in range(100) for _ in range(7)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    for epoch in range(100):
        assert len(set(rates[7 * epoch : 7 * epoch + 7])) == 1
    # And within a program, where XLA multiplies by a reciprocal: 1 / 41 and 1 / 61 are too small.
    for steps_per_epoch in (7, 41, 61, 109):
        schedule = Recipe(0.001, 0.987, steps_per_epoch).schedule
        rates = jax.jit(lambda schedule=schedule: jax.lax.map(schedule, jnp.arange(2_000)))()
        np.testing.assert_allclose(
            rates, 0.001 * 0.987 ** (np.arange(2_000) // steps_per_epoch), rtol=1e-5
        )
    # Also where the steps of 100 epochs of all of AudioSet are counted: 2,084,320 / 24 an epoch.
    large = Recipe(0.001, 0.987, 86_846)
    for step in (86_846 * 99 - 1, 86_846 * 99, 86_846 * 100 - 1):
        assert float(large.schedule(jnp.int32(step))) == pytest.approx(
            0.001 * 0.987 ** (step // 86_846), rel=1e-5
        )


class Linear(nn.Module):
    """One sigmoid layer whose gradient is written by hand below; a statistic to carry along."""

    @nn.compact
    def __call__(self, inputs, train):
        calls = self.variable("batch_stats", "calls", lambda: jnp.zeros(()))
        if train:
            calls.value += 1
        return Outputs.of_logits(nn.Dense(CLASSES)(inputs))


def test_adam_with_keras_constants():
    """Adam as Kingma and Ba have it (algorithm 1), epsilon 1e-7, the rate by epochs of 2 steps."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(7, 4, 3)).astype(np.float32)
    labels, masked = (rng.random((7, 4, CLASSES)) < p for p in (0.4, 0.3))
    masked[:, :, 1] = True  # its gradient is 0, and 0 / (0 + epsilon) moves nothing
    inputs[:, :, 2] *= 1e-6  # small gradients: here epsilon decides
    variables = Linear().init(jax.random.key(1), inputs[0], train=False)
    recipe = Recipe(0.01, 0.9, 2)
    state = init_state(variables, recipe)
    step = jax.jit(train_step, static_argnums=(0, 1))

    dense = variables["params"]["Dense_0"]
    params = [np.asarray(dense[name], np.float64) for name in ("kernel", "bias")]
    first = [np.zeros_like(p) for p in params]
    second = [np.zeros_like(p) for p in params]
    loss_sum = 0.0
    for t in range(7):
        x, kept = inputs[t].astype(np.float64), ~masked[t]
        scores = 1 / (1 + np.exp(-(x @ params[0] + params[1])))
        errors = np.where(kept, scores - labels[t], 0)
        loss_sum += (errors**2).sum() / kept.sum()
        slope = 2 * errors / kept.sum() * scores * (1 - scores)
        for i, gradient in enumerate((x.T @ slope, slope.sum(axis=0))):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            corrected = np.sqrt(second[i] / (1 - 0.999 ** (t + 1)))
            rate = 0.01 * 0.9 ** (t // 2)
            params[i] -= rate * first[i] / (1 - 0.9 ** (t + 1)) / (corrected + 1e-7)
        state, _ = step(Linear(), recipe, state, inputs[t], labels[t], masked[t])
        got = state.params["Dense_0"]
        np.testing.assert_allclose(got["kernel"], params[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got["bias"], params[1], rtol=1e-4, atol=1e-6)
    assert int(state.step) == 7
    assert float(state.batch_stats["calls"]) == 7
    assert float(state.loss_sum) == pytest.approx(loss_sum, rel=1e-5)
    # The test would see another epsilon: with 1e-8 the third input's weights move further.
    moved = np.abs(params[0][2] - np.asarray(dense["kernel"][2]))[[0, 2, 3, 4]]
    assert (moved < 0.5 * np.abs(params[0][0] - np.asarray(dense["kernel"][0]))[[0, 2, 3, 4]]).all()


@pytest.mark.slow
@pytest.mark.release
def test_buffers_go_from_step_to_step():
    """Layer 2 has buffers, as Toom-Cook computes it in a loop. Their values are never read."""
    formulation = Formulation("toom_cook", cores_share=True)  # otherwise layer 1 has some too
    network = WaveformCNN(CLASSES, (32, 32, *(8,) * 7), (8, 8), formulation=formulation)
    recipe = RECIPE
    rng = np.random.default_rng(0)
    waveforms = rng.integers(-9999, 9999, (2, 80_000), np.int16)
    batch = waveforms, *(rng.random((2, 2, CLASSES)) < 0.5)
    variables = jax.jit(network.init, static_argnames="train")(
        jax.random.key(0), waveforms, train=False
    )
    assert set(variables) == {"params", "batch_stats"}
    state = init_state(variables, recipe)
    buffers = network.buffers(waveforms)
    assert jax.tree.map(jnp.shape, buffers) == {
        "convolutions": (None, Buffers((2, 8883, 32), (2, 26662, 32)), *(None,) * 7)
    }
    step = jax.jit(train_step, static_argnums=(0, 1))
    expected, nothing = step(network, recipe, state, *batch)
    assert nothing == {}
    unread = jax.tree.map(lambda array: array + jnp.nan, buffers)
    got, buffers = step(network, recipe, state, *batch, buffers=unread)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(buffers))


@pytest.mark.slow
def test_a_chunk_is_its_steps_one_after_another_and_compiles_once():
    variables, inputs, labels, masked = tiny(5, 8)
    recipe = RECIPE
    step = jax.jit(train_step, static_argnums=(0, 1))
    one_by_one = [init_state(variables, recipe)]
    for i in range(5):
        state, _ = step(NETWORK, recipe, one_by_one[-1], inputs[i], labels[i], masked[i])
        one_by_one.append(state)

    train_chunk.clear_cache()
    for num_steps in (5, 0, 1, 3):
        # A chunk takes its state's buffers: each gets its own.
        state = jax.tree.map(jnp.array, init_state(variables, recipe))
        got, loss_sums = train_chunk(
            NETWORK, recipe, state, None, inputs, labels, masked, num_steps
        )
        assert int(got.step) == num_steps
        assert_close(got, one_by_one[num_steps], rtol=1e-5, atol=1e-6)
        expected = [state.loss_sum for state in one_by_one[1 : num_steps + 1]]
        np.testing.assert_allclose(loss_sums[:num_steps], expected, rtol=1e-5)
        assert (np.asarray(loss_sums[num_steps:]) == 0).all()
    assert train_chunk._cache_size() == 1


@pytest.mark.slow
def test_how_steps_are_cut_into_chunks_changes_no_bit():
    variables, inputs, labels, masked = tiny(6, 8)
    recipe = RECIPE

    def train(*sizes):
        state, at = jax.tree.map(jnp.array, init_state(variables, recipe)), 0
        for size in sizes:
            rows = [np.roll(array, -at, axis=0) for array in (inputs, labels, masked)]
            state, _ = train_chunk(NETWORK, recipe, state, None, *rows, size)
            at += size
        return state

    assert_close(train(6), train(1, 3, 2))


@pytest.mark.slow
def test_the_steps_after_num_steps_see_nothing():
    variables, inputs, labels, masked = tiny(4, 8)
    recipe = RECIPE

    def train(inputs):
        state = jax.tree.map(jnp.array, init_state(variables, recipe))
        return train_chunk(NETWORK, recipe, state, None, inputs, labels, masked, 2)[0]

    other = inputs.copy()
    other[2:] = np.nan
    assert_close(train(inputs), train(other))


@pytest.mark.slow
def test_predict_chunk_computes_the_first_batches_alone():
    variables, inputs, _, _ = tiny(4, 8)
    inputs[2:] = np.nan
    expected = np.stack(
        [NETWORK.apply(variables, batch, train=False).scores for batch in inputs[:2]]
    )
    predict_chunk.clear_cache()
    for num_batches in (2, 1, 0):
        scores = predict_chunk(NETWORK, "scores", variables, None, inputs, num_batches)
        assert scores.shape == (4, 8, CLASSES)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores[:num_batches], expected[:num_batches], atol=1e-6)
        assert (np.asarray(scores[num_batches:]) == 0).all()
    assert predict_chunk._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("num_clips", [1, 7, 8, 9, 23, 24, 25, 60])
def test_predict_gives_every_clip_once_in_order(num_clips):
    """Batches of 8, chunks of 3 of them: the last batch and the last chunk may be partial."""
    variables, inputs, _, _ = tiny(1, 60)
    rows = inputs[0, :num_clips]
    (scores,) = predict(
        NETWORK, [variables], lambda clips: rows[clips], num_clips, batch_size=8, batches_per_call=3
    )
    assert scores.shape == (num_clips, CLASSES)
    assert scores.dtype == np.float32
    expected = NETWORK.apply(variables, rows, train=False).scores
    np.testing.assert_allclose(scores, expected, atol=1e-6)
