"""Windows cover a recording of any length, read in any pieces."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from relabel_jax.audio.windows import cut_windows


@hypothesis.given(
    st.sampled_from([80_000, 48_000, 1_001]),
    st.integers(1, 400_000),
    st.floats(0.0125, 1),
    st.lists(st.integers(0, 400_000)),
)
@hypothesis.settings(max_examples=50)
def test_windows_cover_a_recording_however_it_comes(num_samples, length, overlap, cuts):
    hop = max(1, round(overlap * num_samples))
    samples = np.random.default_rng(0).integers(-100, 100, length).astype(np.int16)
    pieces = np.split(samples, sorted(min(cut, length) for cut in cuts))
    found = list(cut_windows(pieces, num_samples, hop))
    starts = [0]
    while starts[-1] + num_samples < length:
        starts.append(starts[-1] + hop)
    assert [start for start, _ in found] == starts
    for start, window in found:
        part = samples[start : start + num_samples]
        np.testing.assert_array_equal(window, np.pad(part, (0, num_samples - len(part))))
