"""One channel of several: the ways to mix them, and channels that cancel."""

import io

import numpy as np
import pytest
import soundfile
from sounds import tone

from relabel_jax.audio.decode import decode
from relabel_jax.audio.facts import Facts

RATE_HZ = 48_000


def packed(channels, **how):
    file = io.BytesIO()
    soundfile.write(file, np.stack(channels, 1), RATE_HZ, **how)
    return file.getvalue()


def test_the_ways_to_mix_channels():
    left, right = (tone(440, RATE_HZ, 2, peak).astype(np.float32) for peak in (0.1, 0.5))
    content = packed([left, right], format="WAV", subtype="FLOAT")
    for mono, expected in (("mean", (left + right) / 2), ("loudest", right), ("left", left)):
        np.testing.assert_array_equal(decode(io.BytesIO(content), mono=mono)[0], expected)
    with pytest.raises(ValueError, match="expected one of mean, loudest, left, got 'right'"):
        decode(io.BytesIO(content), mono="right")


@pytest.mark.parametrize(
    ("right", "cancelled"), [(-1.0, True), (-0.9, True), (-0.5, False), (0.0, False), (1.0, False)]
)
def test_channels_that_cancel(right, cancelled):
    left = tone(440, RATE_HZ, 2)
    for content in (
        packed([left, right * left], format="WAV", subtype="FLOAT"),
        packed([left, right * left], format="OGG", subtype="OPUS"),
    ):
        facts = Facts()
        decode(io.BytesIO(content), facts=facts)
        assert facts.cancelled == cancelled
        decode(io.BytesIO(content), mono="loudest", facts=(of_loudest := Facts()))
        assert not of_loudest.cancelled


def test_independent_channels_do_not_cancel():
    noise = 0.1 * np.random.default_rng(0).standard_normal((64, 8_000))
    decode(io.BytesIO(packed(noise, format="WAV")), facts=(facts := Facts()))
    assert not facts.cancelled
