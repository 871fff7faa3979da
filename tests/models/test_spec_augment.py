"""Masks over frames and bands against what is under them, and the networks that have them."""

import jax
import numpy as np
import pytest
from small_network import shorten_mobilenet

from relabel_jax.models import registry
from relabel_jax.models.spec_augment import spec_augment


def runs(row):
    """The lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return edges[1::2] - edges[::2]


def test_masks_have_random_widths_and_places_in_each_clip():
    spectrograms = np.ones((400, 50, 20), np.float32)
    got = jax.jit(lambda x, key: spec_augment(x, key, (1, 9, 1, 5), fill=0.25))(
        spectrograms, jax.random.key(0)
    )
    masked = np.asarray(got) == 0.25
    assert ((np.asarray(got) == 1) | masked).all()
    frames, bands = masked.all(axis=2), masked.all(axis=1)
    np.testing.assert_array_equal(masked, frames[:, :, None] | bands[:, None, :])
    for stripes, limit in ((frames, 9), (bands, 5)):
        assert all(len(runs(row)) <= 1 for row in stripes)
        widths = stripes.sum(axis=1)
        assert set(widths.tolist()) == set(range(limit))  # below the limit, 0 too
        assert widths.mean() == pytest.approx((limit - 1) / 2, abs=0.3)
        assert stripes.any(axis=0).all()  # every place, the first and the last too
    assert len(np.unique(frames, axis=0)) > 100


def test_several_masks_and_none():
    spectrograms = np.ones((100, 60, 8), np.float32)
    got = spec_augment(spectrograms, jax.random.key(1), (3, 5, 0, 8))
    counts = [len(runs(row)) for row in np.asarray(got[:, :, 0]) == 0]
    assert max(counts) == 3
    none = spec_augment(spectrograms, jax.random.key(1), (0, 5, 2, 0))
    np.testing.assert_array_equal(none, spectrograms)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cnn6", {"features": (2, 2, 2, 2), "block_dropout": 0.0}),
        pytest.param("mn04", {"width": 0.1}, marks=[pytest.mark.slow, pytest.mark.release]),
        ("ast_tiny", {"width": 8, "num_heads": 1, "num_layers": 1, "num_frames": 46}),
    ],
)
def test_networks_mask_in_training_alone(name, options, monkeypatch):
    shorten_mobilenet(monkeypatch)
    if name != "ast_tiny":
        options = options | {"dropout": 0.0}
    model = {"name": name, "duration_s": 0.5, **options}
    plain, masked = (registry.build(model | {"spec_augment": m}, 3) for m in ((), (2, 20, 2, 8)))
    samples = plain.waveform_format.num_samples
    noise = np.random.default_rng(0).integers(-9999, 9999, (2, samples)).astype(np.int16)
    variables = plain.init(jax.random.key(0), noise, train=False)
    assert masked.random_streams == (*plain.random_streams, "specaugment")

    def scores(network, train, seed=0):
        rngs = {stream: jax.random.key(seed) for stream in network.random_streams}
        got = network.apply(
            variables, noise, train=train, rngs=rngs, mutable=["batch_stats"] if train else False
        )
        return np.asarray((got[0] if train else got).scores)

    np.testing.assert_array_equal(scores(masked, False), scores(plain, False))
    first = scores(masked, True)
    assert (first != scores(plain, True)).any()
    np.testing.assert_array_equal(scores(masked, True), first)
    assert (scores(masked, True, seed=1) != first).any()
