"""A short form of the campaign of flipped bits. `flips.py` runs it in full."""

import collections

import flips
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.release]


def test_no_flipped_bit_passes_in_silence(tmp_path):
    outcomes = list(flips.campaign(tmp_path, 30, seed=1))
    bad = [each for each in outcomes if each[2] in ("crashed", "silent")]
    assert not bad
    counts = collections.Counter(outcome for _, _, outcome, _ in outcomes)
    assert counts["refused"] + counts["fell back"] > 5  # or the campaign would say nothing
