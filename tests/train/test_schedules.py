"""Learning rates against formulas written out in Python, inside a program and outside."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relabel_jax.train.schedules import Schedule
from relabel_jax.train.step import Recipe


def rates(shape, num_steps, factor=0.5, steps_per_epoch=4):
    recipe = Recipe(0.1, factor, steps_per_epoch, shape=shape)
    compiled = jax.jit(lambda: jax.lax.map(recipe.schedule, jnp.arange(num_steps)))()
    outside = [float(recipe.schedule(step)) for step in range(num_steps)]
    np.testing.assert_allclose(compiled, outside, rtol=1e-5, atol=1e-9)
    return outside


def test_linear():
    shape = Schedule("linear", hold_epochs=1, decay_epochs=2, final=0.1)
    expected = [0.1 * (1 - 0.9 * min(max(step - 4, 0) / 8, 1)) for step in range(16)]
    assert rates(shape, 16) == pytest.approx(expected, rel=1e-5)


def test_cosine_after_a_warm_up_in_epochs():
    shape = Schedule("cosine", warmup_epochs=1.5, decay_epochs=2, final=0.2)
    expected = [
        0.1
        * min((step + 1) / 6, 1)
        * (0.2 + 0.8 * (1 + math.cos(math.pi * min(max(step - 6, 0) / 8, 1))) / 2)
        for step in range(18)
    ]
    assert rates(shape, 18) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_exponential_as_ast_has_it():
    """Warm-up in steps; the second epoch has the rate of the first, and each one after it half."""
    got = rates(Schedule(warmup_steps=3, hold_epochs=1), 20)
    epochs = [1, 1, 0.5, 0.25, 0.125]
    expected = [0.1 * min((step + 1) / 3, 1) * epochs[step // 4] for step in range(20)]
    assert got == pytest.approx(expected, rel=1e-5)


def test_the_default_is_the_plain_recipe():
    assert Recipe(0.1, 0.5, 4) == Recipe(0.1, 0.5, 4, shape=Schedule())
    got = rates(Schedule(), 12)
    assert got == pytest.approx([0.1 * 0.5 ** (step // 4) for step in range(12)], rel=1e-6)
