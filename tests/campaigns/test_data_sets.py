"""A short form of the campaign of changed data sets. `data_sets.py` runs it in full."""

import itertools

import data_sets
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.release]


def test_no_change_passes_in_silence(tmp_path):
    whole, other, arguments = data_sets.make(tmp_path)
    files = [path for path in whole.iterdir() if ".array_record" in path.name]
    assert len({path.stat().st_size for path in files}) < len(files)  # size alone is not enough
    changes = itertools.chain(
        data_sets.all_flips(whole, 8, seed=1),
        itertools.islice(data_sets.mixtures(whole, other), 0, None, 20),
    )
    outcomes = list(data_sets.campaign(whole, arguments, changes))
    assert not [each for each in outcomes if each[1] in ("crashed", "silent")]
    assert sum(outcome == "refused" for _, outcome, _ in outcomes) > 1
