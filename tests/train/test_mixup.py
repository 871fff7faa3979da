"""Mixup of masked labels: its rules in plain Python, and what masked labels do: nothing."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.train.losses import LOSSES
from relabel_jax.train.mixup import RULES, Batch, Mixup, mix
from relabel_jax.train.step import Recipe, init_state, train_step

CLASSES, FEATURES, CLIPS = 4, 3, 6
NETWORK = EmbeddingClassifier(CLASSES, hidden_units=5)


def random_batch(seed, share_masked, with_teacher=False):
    rng = np.random.default_rng(seed)
    teacher = rng.random((CLIPS, CLASSES)).astype(np.float32)
    teacher[:, 1] = np.nan  # a class that the teacher lacks
    return Batch(
        rng.normal(size=(CLIPS, FEATURES)).astype(np.float32),
        rng.random((CLIPS, CLASSES)) < 0.4,
        rng.random((CLIPS, CLASSES)) < share_masked,
        teacher if with_teacher else None,
    )


def expected_entry(parts, rule):
    """(target, is masked) from (weight, is known, label) of each part; the weights are above 0."""
    if rule == "strict":
        if not all(known for _, known, _ in parts):
            return 0.0, True
        return sum(weight * label for weight, _, label in parts), False
    total = sum(weight for weight, known, _ in parts if known)
    if total == 0:
        return 0.0, True
    return sum(weight * label for weight, known, label in parts if known) / total, False


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32), share_masked=st.sampled_from([0.0, 0.4, 1.0]))
def test_a_mixture_is_what_its_rule_says(rule, seed, share_masked):
    batch = random_batch(seed, share_masked, with_teacher=True)
    weights = np.random.default_rng(seed).uniform(0.5, 1, CLIPS).astype(np.float32)
    weights[0] = 1  # a clip that is not mixed
    got = mix(batch, jnp.asarray(weights), rule)
    for i in range(CLIPS):
        after = (i + 1) % CLIPS
        w = float(weights[i])
        np.testing.assert_allclose(
            got.inputs[i], w * batch.inputs[i] + (1 - w) * batch.inputs[after], atol=1e-6
        )
        np.testing.assert_allclose(
            got.teacher[i], w * batch.teacher[i] + (1 - w) * batch.teacher[after], atol=1e-6
        )
        for c in range(CLASSES):
            parts = [
                (weight, not batch.masked[clip, c], float(batch.labels[clip, c]))
                for weight, clip in ((w, i), (1 - w, after))
                if weight > 0
            ]
            target, is_masked = expected_entry(parts, rule)
            assert bool(got.masked[i, c]) == is_masked
            if not is_masked:
                assert float(got.labels[i, c]) == pytest.approx(target, abs=1e-6)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_the_rules_agree_where_everything_is_known(seed):
    batch = random_batch(seed, 0.0)
    weights = jnp.linspace(0.5, 1, CLIPS)
    strict, known = (mix(batch, weights, rule) for rule in RULES)
    np.testing.assert_allclose(strict.labels, known.labels, atol=1e-6)
    assert not strict.masked.any()
    assert not known.masked.any()


@functools.partial(jax.jit, static_argnums=0)
def one_step(recipe, state, batch):
    return train_step(
        NETWORK, recipe, state, *batch[:3], teacher=batch.teacher, seed=jnp.uint32(3)
    )[0]


@functools.cache
def variables():
    return jax.device_get(
        NETWORK.init(jax.random.key(0), np.zeros((1, FEATURES), np.float32), train=False)
    )


def combinations():
    """A mixture does not depend on the loss, so few of the combinations run always."""
    by_rule = [Mixup(0.5, 0.7, rule) for rule in RULES]
    for mixup, with_teacher, loss in itertools.product([Mixup(), *by_rule], [False, True], LOSSES):
        # Each rule with a teacher, and each loss without one.
        always = (mixup in by_rule and loss == "bce") if with_teacher else mixup == by_rule[0]
        marks = () if always else (pytest.mark.slow, pytest.mark.release)
        yield pytest.param(mixup, with_teacher, loss, marks=marks)


@pytest.mark.parametrize(("mixup", "with_teacher", "loss"), [*combinations()])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), share_masked=st.sampled_from([0.1, 0.5, 1.0]))
def test_a_masked_label_reaches_no_gradient(mixup, with_teacher, loss, seed, share_masked):
    """Whatever the label is: the same loss, gradient, statistics and averages, bit for bit."""
    batch = random_batch(seed, share_masked, with_teacher)
    other = batch._replace(labels=batch.labels ^ batch.masked)
    # Gradient descent: the new weights have the bits of the gradient.
    recipe = Recipe(
        1.0, 1.0, 9, loss, "sgd", beta1=0.0, ema_decay=0.5, mixup=mixup, teacher_weight=0.5
    )
    state = init_state(variables(), recipe)
    got, expected = one_step(recipe, state, other), one_step(recipe, state, batch)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    moved = jax.tree.map(np.array_equal, got.params, variables()["params"])
    assert not jax.tree.all(moved) or (share_masked == 1 and not with_teacher)


def test_weights_are_drawn_by_step_and_seed():
    """In [1/2, 1], with the mean of max(u, 1 - u); the share that is not mixed has 1."""
    inputs = np.eye(2_000, dtype=np.float32)
    batch = Batch(inputs, *np.zeros((2, 2_000, 1), bool))

    def weights(key, mixup):
        return np.diagonal(jax.jit(mixup)(jax.random.key(key), batch).inputs)

    uniform = weights(0, Mixup(1.0))
    assert (uniform >= 0.5).all()
    assert uniform.mean() == pytest.approx(0.75, abs=0.02)
    assert (weights(0, Mixup(1.0)) == uniform).all()
    assert (weights(1, Mixup(1.0)) != uniform).mean() > 0.99
    assert (weights(0, Mixup(1.0, 0.3)) < 1).mean() == pytest.approx(0.3, abs=0.04)
