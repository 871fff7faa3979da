"""A short form of the campaign of kills. `kills.py` runs it in full."""

import kills
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.release]


@pytest.mark.parametrize("seed", ["a", "b"])
@pytest.mark.parametrize("name", ["audit", "relabel_csv"])
def test_the_same_command_finishes_what_a_kill_left(name, seed, campaign):
    trial = campaign.trial(name, seed)
    assert trial.outcome in ("same", "complete"), trial.detail
    assert trial.leftovers == []


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return kills.Campaign(tmp_path_factory.mktemp("kills"))
