"""The programs that a TPU would run, as its compiler optimizes them. Needs no TPU, but libtpu."""

import pytest

from relabel_jax.benchmark.chips import Target
from relabel_jax.benchmark.compiled import Case
from relabel_jax.benchmark.estimates import check_installed, optimize
from relabel_jax.errors import InputError

pytestmark = pytest.mark.slow

V5E = Target.parse("tpu:v5e:2x2")
# The default on a TPU: bf16, members one after another. The shared batch of 24 clips is 6 a chip.
ONE = Case("streaming", 1, "map", 1, "bf16", "auto")
RESIDENT_CLIPS = 20_000
BLOCK = RESIDENT_CLIPS * 80_000 * 2
GB = 1e9


@pytest.fixture(scope="module", autouse=True)
def _libtpu():
    try:
        check_installed([V5E])
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def streaming():
    return optimize(V5E, ONE)


def test_a_streaming_step(streaming):
    step, memory = streaming
    assert 0.1 * GB < memory < 0.6 * GB
    assert 0.3 * GB < step.num_bytes < 1.0 * GB
    assert step.operations.get("all-reduce", 0) == 0
    assert step.grouped_convolutions == 0


def test_a_resident_step_copies_no_block(streaming):
    streaming_step, streaming_memory = streaming
    resident = ONE._replace(inputs="resident", resident_clips=RESIDENT_CLIPS)
    step, memory = optimize(V5E, resident)
    assert step.largest_write < 0.2 * GB < BLOCK
    assert memory < streaming_memory + 1.03 * BLOCK
    assert step.num_bytes < 1.05 * streaming_step.num_bytes


def test_members_one_after_another(streaming):
    streaming_step, streaming_memory = streaming
    step, memory = optimize(V5E, ONE._replace(members=4))
    assert step.grouped_convolutions == 0
    assert step.num_bytes < 1.05 * streaming_step.num_bytes
    assert memory < 3 * streaming_memory  # less than the members would need one by one


def test_a_member_on_each_chip(streaming):
    step, memory = optimize(V5E, ONE._replace(members=4, chips=4))
    assert step.operations.get("all-reduce", 0) == 0
    assert step.num_bytes < 1.05 * streaming[0].num_bytes
    assert memory < 1.1 * streaming[1]


def test_chips_that_share_a_batch(streaming):
    """Sums over the batch: the loss's count, moments of ten layers and their cotangents, the
    gradients. The compiler may join or divide a few."""
    step, memory = optimize(V5E, ONE._replace(chips=4))
    assert 10 <= step.operations["all-reduce"] <= 26
    assert memory < streaming[1]
