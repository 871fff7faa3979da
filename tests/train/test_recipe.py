"""Averages of weights, balanced sampling, mixup and a teacher in trainings of seconds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import CLASSES, EPOCHS, NETWORK, NUM_CLIPS, inputs, member, states, training

from relabel_jax.data.pipeline import balanced_order, balanced_weights
from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Outputs
from relabel_jax.train import averages
from relabel_jax.train.loop import train
from relabel_jax.train.losses import LOSSES, distillation
from relabel_jax.train.mixup import Mixup
from relabel_jax.train.optimizers import optimizer
from relabel_jax.train.population import train_population
from relabel_jax.train.step import Recipe, init_state, train_step

WHOLE = {"ema_decay": 0.9, "mixup": Mixup(1.0), "teacher_weight": 0.3}
"""The parts of the recipe that the step does."""


def teacher(clips):
    scores = np.random.default_rng(5).random((NUM_CLIPS["train"], CLASSES)).astype(np.float32)
    scores[:, 2] = np.nan
    return scores[clips]


def whole(members, **fields):
    """A training with everything."""
    values = {"further": WHOLE, "sampling": "balanced", "epoch_clips": 70, "teacher": teacher}
    return training(members, **values | fields)


def test_averages_are_those_of_optax():
    rng = np.random.default_rng(0)
    ema = optax.ema(0.97)
    average = jnp.full(3, 7.0)  # of the start; it has no part
    state = ema.init(average)
    for step in range(1, 60):
        values = jnp.asarray(rng.normal(size=3), jnp.float32)
        expected, state = ema.update(values, state)
        average = averages.moved(average, values, 0.97, jnp.int32(step))
        np.testing.assert_allclose(average, expected, rtol=1e-4, atol=1e-6)


def test_a_step_with_averages_trains_the_same_weights():
    (of_member,) = [member_of_clips()]
    plain, averaged = Recipe(0.1, 1.0, 9), Recipe(0.1, 1.0, 9, ema_decay=0.8)
    step = jax.jit(train_step, static_argnums=(0, 1))
    one, other = (init_state(of_member[0], recipe) for recipe in (plain, averaged))
    seen = []
    for _ in range(5):
        one, _ = step(NETWORK, plain, one, *of_member[1:])
        other, _ = step(NETWORK, averaged, other, *of_member[1:])
        seen.append(one.variables)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        {"params": other.opt_state.params, "batch_stats": other.opt_state.batch_stats},
        one.variables,
    )
    weights = 0.8 ** np.arange(4, -1, -1)
    expected = jax.tree.map(
        lambda *values: np.tensordot(weights / weights.sum(), np.stack(values), 1), *seen
    )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        other.variables,
        expected,
    )


def member_of_clips():
    """(variables, inputs, labels, masked) of a batch."""
    rng = np.random.default_rng(1)
    clips = np.arange(8)
    variables = NETWORK.init(jax.random.key(0), inputs("train", clips), train=False)
    return (variables, inputs("train", clips), *(rng.random((2, 8, CLASSES)) < 0.4))


def test_weight_decay_and_beta1():
    """By hand: SGD adds the decay to the gradient; AdamW moves the weights by it alone."""
    params, gradients = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.25])

    def step(name, gradients, **options):
        chosen = optimizer(name, lambda step: 0.1, **options)
        return chosen.update(gradients, chosen.init(params), params)[0]

    plain = step("sgd", gradients, weight_decay=0.3, beta1=0.0)
    np.testing.assert_allclose(plain, -0.1 * (gradients + 0.3 * params), rtol=1e-6)
    decoupled = step("adamw", jnp.zeros(2), weight_decay=0.3)
    np.testing.assert_allclose(decoupled, -0.1 * 0.3 * params, rtol=1e-6)
    without = step("adam", gradients, weight_decay=0.0)
    np.testing.assert_array_equal(without, step("adam", gradients))


def test_the_distillation_loss_is_optax_bce_without_missing_classes():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 2, (6, 4)), jnp.float32)
    scores = rng.random((6, 4)).astype(np.float32)
    expected = optax.sigmoid_binary_cross_entropy(logits[:, :3], scores[:, :3]).mean()
    scores[:, 3] = np.nan
    for outputs in (Outputs.of_logits(logits), Outputs(jax.nn.sigmoid(logits))):
        loss, gradient = jax.value_and_grad(
            lambda logits, outputs=outputs: distillation(
                Outputs.of_logits(logits)
                if outputs.logits is not None
                else Outputs(jax.nn.sigmoid(logits)),
                scores,
            )
        )(logits)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        assert (gradient[:, 3] == 0).all()


def test_the_losses_to_labels_and_teacher_are_weighted():
    variables, clips, labels, masked = member_of_clips()
    scores = teacher(np.arange(8))
    recipe = Recipe(0.1, 1.0, 9, "bce", teacher_weight=0.3)
    state, _ = train_step(
        NETWORK, recipe, init_state(variables, recipe), clips, labels, masked, teacher=scores
    )
    outputs, _ = NETWORK.apply(variables, clips, train=True, mutable=["batch_stats"])
    expected = 0.7 * LOSSES["bce"](outputs, labels, masked, None)
    expected += 0.3 * distillation(outputs, scores)
    assert float(state.loss_sum) == pytest.approx(float(expected), rel=1e-6)


def test_balanced_sampling_is_the_published_formula():
    rng = np.random.default_rng(0)
    labels, masked = rng.random((500, 6)) < np.geomspace(0.5, 0.01, 6), rng.random((500, 6)) < 0.2
    weights = balanced_weights(labels, masked)
    known = labels & ~masked
    counts = known.sum(axis=0)
    for clip in range(500):
        expected = sum(1000 / (counts[c] + 0.01) for c in range(6) if known[clip, c])
        assert weights[clip] == pytest.approx(expected)
    np.testing.assert_array_equal(balanced_weights(labels ^ masked, masked), weights)
    order = balanced_order(0, 1, weights, 200_000)
    shares = np.bincount(order, minlength=500) / len(order)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=2e-3)
    np.testing.assert_array_equal(
        balanced_order(0, 1, weights, 50), balanced_order(0, 1, weights, 50)
    )
    assert (balanced_order(0, 2, weights, 50) != balanced_order(0, 1, weights, 50)).any()
    assert (balanced_order(1, 1, weights, 50) != balanced_order(0, 1, weights, 50)).any()


def test_a_training_that_cannot_be(tmp_path):
    of_member = member(tmp_path, 0, 0)
    with pytest.raises(InputError, match=r"epoch_clips: there are 52 training clips, got 53"):
        train(training([of_member], epoch_clips=53))
    with pytest.raises(InputError, match="7 training clips are fewer than a batch"):
        train(training([of_member], epoch_clips=7))
    view = dataclasses.replace(
        of_member.view, masked={**of_member.view.masked, "train": np.ones((52, CLASSES), bool)}
    )
    masked = dataclasses.replace(of_member, view=view)
    with pytest.raises(InputError, match="none of the 52 training clips has a label to balance by"):
        train(training([masked], sampling="balanced"))
    with pytest.raises(InputError, match=r"mixup.alpha: a batch of 1 on 1 devices leaves a clip"):
        train(training([of_member], batch_size=1, further={"mixup": Mixup(1.0)}))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Trainings with everything, of one member each."""
    folder = tmp_path_factory.mktemp("alone")
    for name, numbers in MEMBERS.items():
        train(whole([member(folder / name, *numbers)]))
    return folder


MEMBERS = {"a": (0, 0), "b": (1, 0)}  # one seed, so that only the labels determine the order


@pytest.mark.slow
@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_training_that_was_stopped_ends_with_the_same_bits(alone, tmp_path, resident):
    """After an epoch, from what is on the disk alone."""
    for num_epochs in (1, 3, EPOCHS):
        train(whole([member(tmp_path, *MEMBERS["a"])], num_epochs=num_epochs, resident=resident))
    got, expected = (states(folder, EPOCHS) for folder in (tmp_path, alone / "a"))
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    # What is validated and saved is the average, not the weights of the last step.
    (state,) = got
    latest = state["opt_state"]["params"]
    assert not jax.tree.all(jax.tree.map(np.array_equal, state["params"], latest))


@pytest.mark.slow
@pytest.mark.parametrize("members_by", ["map", "vmap"])
def test_a_member_is_what_it_is_alone(alone, tmp_path, members_by):
    compiled = []

    def listener(event, duration, **details):
        if "backend_compile" in event:
            compiled.append(details["fun_name"])

    train_population.clear_cache()
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        train(
            whole(
                [member(tmp_path / name, *numbers) for name, numbers in MEMBERS.items()],
                members_by=members_by,
            )
        )
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert sum("train_population" in name for name in compiled) == 1, compiled
    for name in MEMBERS:
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=2e-5),
            *(states(folder / name, EPOCHS)[0] for folder in (tmp_path, alone)),
        )
