"""Inputs that stay on the device: the same numbers, in blocks, and what happens without room."""

import logging
import math

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
from relabel_jax.train.rows import gather

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
# No whole tile; one tile; whole tiles and a rest, in two dtypes.
CLIPS = {
    "small": RNG.integers(-(2**15), 2**15, (50, 2, 3), np.int16),
    "tile": RNG.integers(-(2**15), 2**15, (50, 2048), np.int16),
    "waveform": RNG.integers(-(2**15), 2**15, (50, 2050), np.int16),
    "spectrogram": RNG.standard_normal((50, 33, 40), np.float32),
}
BLOCK_ROWS = {"small": (6,), "tile": (16, 128), "waveform": (32, 128), "spectrogram": (16, 128)}


def load(num_clips, mode="always", of="small", **options):
    sources = {"train": (lambda clips: CLIPS[of][clips], num_clips)}
    return resident.load_resident(sources, mode, Layout.of(1, 1, "auto"), **options)["train"]


@settings(max_examples=12)
@given(st.sampled_from(list(CLIPS)), st.sampled_from([1, 37, 50]), st.sampled_from([10, 13.9, 60]))
def test_gather_finds_every_clip_in_its_block(of, num_clips, clips_a_block):
    row = BLOCK_ROWS[of]
    with pytest.MonkeyPatch.context() as patch:
        max_elements = int(clips_a_block * math.prod(row))
        patch.setattr(resident, "_MAX_BLOCK_ELEMENTS", max_elements)
        rows = load(num_clips, of=of)
    assert [len(block) for block in rows.blocks] == [
        min(int(clips_a_block), num_clips - start)
        for start in range(0, num_clips, int(clips_a_block))
    ]
    assert all(block.shape[1:] == row and block.dtype == CLIPS[of].dtype for block in rows.blocks)
    clips = np.arange(num_clips, dtype=np.int32).reshape(1, -1)  # the borders of blocks too
    np.testing.assert_array_equal(jax.jit(gather)(rows, clips), CLIPS[of][clips])
    np.testing.assert_array_equal(jax.vmap(gather, (None, 0))(rows, clips.T), CLIPS[of][clips.T])


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


def test_the_step_leaves_room_for_the_clips(monkeypatch):
    monkeypatch.setattr(resident, "free_bytes", lambda: 1000)  # the clips need 600
    assert load(50, step_bytes=lambda rows: 350) is not None
    assert load(50, "auto", step_bytes=lambda rows: 351) is None
    assert load(50, step_bytes=lambda rows: None) is not None  # a share is for the step


def test_the_compiler_tells_what_a_step_needs(tmp_path):
    """Of the program that is run afterwards: it is compiled once."""
    compiled = []

    def listener(event, duration, **details):
        if "backend_compile" in event and "train_population" in details["fun_name"]:
            compiled.append(event)

    of_member = member(tmp_path / "run", 0, 0)
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            train(training([of_member], batch_size=11))  # as no other test has it
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(compiled) == 1


def test_never_asks_for_nothing():
    assert load(50, "never") is None


def test_free_memory_is_measured():
    assert 1e6 < resident.free_bytes() < 1e13
    assert resident._free_system_bytes() > 1e7
