"""Inputs that stay on the device: the same numbers, in blocks, and what happens without room."""

import logging

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import EPOCHS, NUM_CLIPS, member, states, training

from relabel_jax.errors import InputError
from relabel_jax.train import resident
from relabel_jax.train.loop import train
from relabel_jax.train.population import Layout
from relabel_jax.train.step import gather

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(0).integers(-(2**15), 2**15, (50, 2, 3), np.int16)


def load(num_clips, mode="always"):
    sources = {"train": (lambda clips: ROWS[clips], num_clips)}
    return resident.load_resident(sources, mode, Layout.of(1, 1, "auto"))["train"]


@settings(max_examples=12)
@given(st.sampled_from([1, 37, 50]), st.sampled_from([6 * 10, 6 * 13 + 5, 6 * 60]), st.integers(0))
def test_gather_finds_every_clip_in_its_block(num_clips, max_elements, seed):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "_MAX_BLOCK_ELEMENTS", max_elements)
        blocks = load(num_clips)
    assert len(blocks) == -(-num_clips // (max_elements // 6))
    assert all(block.size <= max_elements and block.dtype == np.int16 for block in blocks)
    clips = np.random.default_rng(seed).integers(0, num_clips, (2, 4)).astype(np.int32)
    np.testing.assert_array_equal(jax.jit(gather)(blocks, clips), ROWS[clips])


def test_a_block_can_be_indexed_with_32_bits():
    assert resident._MAX_BLOCK_ELEMENTS < 2**31


def test_streaming_and_resident_end_with_the_same_bits(tmp_path):
    for mode in ("always", "never"):
        train(training([member(tmp_path / mode, 0, 0)], resident=mode))
    kept = [states(tmp_path / mode, EPOCHS) for mode in ("always", "never")]
    assert jax.tree.all(jax.tree.map(np.array_equal, *kept))


def test_where_they_do_not_fit(tmp_path, monkeypatch, caplog):
    needed = sum(NUM_CLIPS[split] for split in ("train", "validation")) * 6 * 4
    monkeypatch.setattr(resident, "free_bytes", lambda: needed)  # of which a share is for steps
    of_member = member(tmp_path / "run", 0, 0)
    message = f"73 clips need {needed / 1e9:.3g} GB on each device, and {0.75 * needed / 1e9:.3g}"
    with pytest.raises(InputError) as caught:
        train(training([of_member], resident="always"))
    assert str(caught.value).startswith("config.resident=always: " + message)
    with caplog.at_level(logging.INFO, "relabel_jax"):
        train(training([of_member], resident="auto"))
    assert f"streaming: {message}" in caplog.text


def test_never_asks_for_nothing():
    assert load(50, "never") == ()


def test_free_memory_is_measured():
    assert 1e6 < resident.free_bytes() < 1e13
    assert resident._free_system_bytes() > 1e7
