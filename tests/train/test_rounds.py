"""Which members train together after a kill: all reach the end, and nobody skips an epoch."""

from hypothesis import given
from hypothesis import strategies as st

from relabel_jax.train.loop import rounds

STEPS = 6


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, STEPS)), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_all_members_do_all_epochs(extra, num_epochs):
    progress = [(epochs, epochs * STEPS + more) for epochs, more in extra]
    done = list(progress)
    for part in rounds(progress, STEPS, num_epochs):
        at = (part.epochs_done, part.steps_done)
        assert all(done[m] == at for m in part.members)  # they stand at the same step
        assert at == min(done)  # and nobody is further behind
        assert part.epochs_done < part.until <= num_epochs
        for m in part.members:
            done[m] = (part.until, part.until * STEPS)
    assert all(epochs >= num_epochs for epochs, _ in done)


def test_members_at_the_same_step_train_in_one_round():
    (part,) = rounds([(2, 2 * STEPS)] * 3, STEPS, 5)
    assert (part.members, part.epochs_done, part.until) == ((0, 1, 2), 2, 5)
    assert not list(rounds([(5, 5 * STEPS)], STEPS, 5))


def test_who_is_behind_catches_up_first():
    found = [
        (part.members, part.steps_done, part.until)
        for part in rounds([(3, 18), (2, 15), (2, 12)], STEPS, 5)
    ]
    assert found == [((2,), 12, 3), ((1,), 15, 3), ((0, 1, 2), 18, 5)]
