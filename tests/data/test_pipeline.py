"""Orders of epochs, and chunks of batches read ahead."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relabel_jax.data.pipeline import epoch_order, read_chunks, to_batches
from relabel_jax.errors import InputError


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 300))
def test_epoch_order_is_a_permutation(seed, epoch, num_clips):
    order = epoch_order(seed, epoch, num_clips)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(num_clips))


def test_epoch_order_follows_from_seed_and_epoch_alone():
    orders = {
        (seed, epoch): tuple(epoch_order(seed, epoch, 50))
        for seed in range(4)
        for epoch in range(1, 5)
    }
    assert len(set(orders.values())) == len(orders)
    np.random.default_rng(0).random(7)
    np.random.seed(3)  # noqa: NPY002 - the global state must not matter
    for (seed, epoch), order in orders.items():
        assert tuple(epoch_order(seed, epoch, 50)) == order


def test_epoch_order_stays_what_it_is():
    """The recorded order of the first version: resuming a run depends on it."""
    assert epoch_order(0, 1, 12).tolist() == [1, 10, 11, 4, 2, 7, 0, 8, 9, 5, 3, 6]


def read_rows(clips):
    """Inputs that identify the clip by its number."""
    return np.stack([clips, 1000 + clips], axis=1).astype(np.int32)


@settings(max_examples=25)
@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 4))
def test_every_clip_once_in_order_with_zeros_behind(num_clips, batch_size, batches_per_chunk):
    clips = np.random.default_rng(num_clips).permutation(100)[:num_clips] + 1
    chunks = list(read_chunks(read_rows, clips, batch_size, batches_per_chunk))
    chunk_size = batch_size * batches_per_chunk
    assert len(chunks) == -(-num_clips // chunk_size)
    seen = []
    for number, chunk in enumerate(chunks):
        expected = clips[number * chunk_size : (number + 1) * chunk_size]
        np.testing.assert_array_equal(chunk.clips, expected)
        assert chunk.inputs.shape == (batches_per_chunk, batch_size, 2)
        assert chunk.inputs.dtype == np.int32
        flat = chunk.inputs.reshape(-1, 2)
        np.testing.assert_array_equal(flat[: len(expected)], read_rows(expected))
        assert not flat[len(expected) :].any()
        has_clip = [bool(batch.any()) for batch in chunk.inputs]  # clips here are not 0
        assert has_clip == [i < chunk.num_batches for i in range(batches_per_chunk)]
        seen += chunk.clips.tolist()
    assert seen == clips.tolist()


def test_an_input_error_reaches_the_consumer():
    """An error in the third chunk, in a thread of Grain: the first two chunks still arrive."""
    threads = set()

    def read(clips):
        threads.add(threading.get_ident())
        if 9 in clips:
            raise InputError("DATA: cannot read a record")
        return read_rows(clips)

    chunks = read_chunks(read, np.arange(20), 2, 2)
    assert [next(chunks).clips[0] for _ in range(2)] == [0, 4]
    with pytest.raises(InputError) as raised:
        next(chunks)
    assert str(raised.value) == "DATA: cannot read a record"  # Grain adds a note, not a line
    assert threading.get_ident() not in threads


def test_chunks_are_read_ahead_but_not_without_end():
    """While one chunk is in use, a few more are read: memory does not grow with the epoch."""
    third_was_read = threading.Event()
    read = []

    def read_and_note(clips):
        read.append(clips[0])
        if len(read) == 3:
            third_was_read.set()
        return read_rows(clips)

    chunks = read_chunks(read_and_note, np.arange(400), 2, 2)
    next(chunks)
    assert third_was_read.wait(timeout=30)
    assert read == sorted(read)
    assert len(read) <= 6
    assert len(list(chunks)) == 99


@given(st.integers(0, 12), st.integers(1, 4), st.integers(3, 5))
def test_to_batches(num_rows, batch_size, num_batches):
    rows = 1 + np.arange(3.0 * num_rows).reshape(num_rows, 3)
    if num_rows > batch_size * num_batches:
        with pytest.raises(ValueError, match="negative"):
            to_batches(rows, batch_size, num_batches)
        return
    batches = to_batches(rows, batch_size, num_batches)
    assert batches.shape == (num_batches, batch_size, 3)
    flat = batches.reshape(-1, 3)
    np.testing.assert_array_equal(flat[:num_rows], rows)
    assert not flat[num_rows:].any()


@pytest.mark.parametrize("dtype", [np.bool_, np.int16, np.float32])
def test_to_batches_keeps_the_dtype(dtype):
    assert to_batches(np.ones(5, dtype), 2, 3).dtype == dtype
    np.testing.assert_array_equal(to_batches(np.ones(5, dtype), 2, 3), [[1, 1], [1, 1], [1, 0]])
