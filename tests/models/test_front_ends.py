"""The front ends against float64, and their filters against librosa."""

import functools

import front_end_references as references
import jax
import numpy as np
import pytest

from relabel_jax.models import front_ends


def sounds(rate, seconds=1.0):
    """int16[4, samples]: noise, a rising tone, clicks in silence, and silence.

    The noise under the tone is that of a recording. A float32 spectrum is exact to 10^-7 of its
    peak: without noise, PyTorch too would miss bands 100 dB below the tone by more than the bound.
    """
    rng = np.random.default_rng(0)
    time = np.arange(round(rate * seconds)) / rate
    noise = np.cumsum(rng.normal(0, 300, len(time))) * 0.1 + rng.normal(0, 100, len(time))
    tone = 2_000 * np.sin(2 * np.pi * (100 + 0.2 * rate * time) * time)
    tone += rng.normal(0, 10, len(time))
    clicks = np.zeros(len(time))
    clicks[rng.integers(0, len(time), 5)] = 30_000
    return np.stack([noise, tone, clicks, np.zeros(len(time))]).astype(np.int16)


def check(function, reference, rate, share_beyond=0.0):
    """`share_beyond` of the values by matrix products may miss the bound, by up to 10 times."""
    waveforms = sounds(rate)
    expected = np.stack([reference(each / 32768) for each in waveforms])
    for formulation in ("fft", "matmul"):
        # Without optimizations, sums of 400 numbers round more.
        optimized = {"xla_backend_optimization_level": 1}
        compute = jax.jit(
            functools.partial(function, formulation=formulation), compiler_options=optimized
        )
        got = compute(waveforms)
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        errors = np.abs(got - expected) / np.ptp(expected)
        share = share_beyond if formulation == "matmul" else 0.0
        assert np.mean(~(errors <= 1e-4)) <= share  # NaN is beyond the bound
        assert np.max(errors) <= 1e-3


@pytest.mark.parametrize("rate", front_ends.PANNS_SIZES)
def test_panns(rate):
    check(
        lambda x, formulation: front_ends.panns_log_mel(x, rate, formulation),
        lambda x: references.panns(x, rate),
        rate,
    )


def test_efficientat():
    check(front_ends.efficientat_log_mel, references.efficientat, 32_000)


@pytest.mark.parametrize("num_frames", [64, 128])
def test_ast_cuts_and_pads(num_frames):
    check(
        lambda x, formulation: front_ends.ast_filter_bank(x, num_frames, formulation),
        lambda x: references.ast(x, num_frames),
        16_000,
        # The order of a product's sums depends on the version of XLA. Beside a tone, some orders
        # round more than an FFT. This shows where a band of a single bin is almost empty.
        share_beyond=1e-3,
    )


@pytest.mark.parametrize("seconds", [10, 4.321])
def test_the_number_of_frames(seconds):
    def frames(function, rate):
        batch = jax.ShapeDtypeStruct((1, round(seconds * rate)), np.int16)
        return jax.eval_shape(function, batch).shape[1]

    for rate in front_ends.PANNS_SIZES:
        count = frames(lambda x, rate=rate: front_ends.panns_log_mel(x, rate), rate)
        assert count == 1 + round(seconds * rate) // (rate // 100)
    count = frames(front_ends.efficientat_log_mel, 32_000)
    assert count == 1 + (round(seconds * 32_000) - 1) // 320


@pytest.mark.extra
@pytest.mark.parametrize("rate", front_ends.PANNS_SIZES)
def test_the_filters_are_librosas(rate):
    librosa = pytest.importorskip("librosa")
    fft_size, _, highest_hz = front_ends.PANNS_SIZES[rate]
    expected = librosa.filters.mel(sr=rate, n_fft=fft_size, n_mels=64, fmin=50, fmax=highest_hz)
    got = front_ends.slaney_filters(rate, fft_size, 64, 50, highest_hz)
    np.testing.assert_allclose(got.T, expected, rtol=1e-5, atol=1e-9)
