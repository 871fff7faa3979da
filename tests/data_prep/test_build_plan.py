"""Plans, shards and indexes belong together: those of another build never count."""

import logging

import numpy as np
import pytest
from building import build_here, contents, make_inputs, plan_only

from data_prep.plan import Plan
from data_prep.verify import verify
from relabel_jax import digests
from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), 30)


@pytest.fixture
def data_dir(arguments, tmp_path):
    build_here(tmp_path / "set", **arguments)
    return tmp_path / "set"


def test_a_plan_of_another_seed_does_its_own_shards(arguments, data_dir, tmp_path):
    other = arguments | {"split_seed": 1}
    build_here(tmp_path / "other", **other)
    assert contents(tmp_path / "other") != contents(data_dir)
    (data_dir / ".build" / "plan.arrow").unlink()
    plan = plan_only(other, data_dir)
    assert [plan.outcome(shard) for shard in plan.shards] == [None] * len(plan.shards)
    with pytest.raises(InputError, match="not a finished data set"):
        open_data_set(data_dir)  # its index is that of the plan before
    build_here(data_dir, **other)
    # Another number of shards may leave files of the plan before, which verify names.
    for name, content in contents(tmp_path / "other").items():
        assert (data_dir / name).read_bytes() == content


def test_the_same_plan_keeps_its_shards(arguments, data_dir):
    before = contents(data_dir)
    times = {path: path.stat().st_mtime_ns for path in data_dir.glob("*.array_record*")}
    (data_dir / ".build" / "plan.arrow").unlink()
    build_here(data_dir, **arguments)
    assert contents(data_dir) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_build_restores_what_describes_the_shards(arguments, data_dir):
    before = contents(data_dir)
    for name in ("sha256.json", "clips.parquet", "ontology.json", "rejects.csv"):
        (data_dir / name).write_bytes(b"?")
    build_here(data_dir, **arguments)
    assert contents(data_dir) == before
    (data_dir / "sha256.json").unlink()
    build_here(data_dir, **arguments)
    assert contents(data_dir) == before


def test_a_data_set_of_an_older_version_has_no_digests(data_dir, caplog):
    expected = open_data_set(data_dir)
    (data_dir / "sha256.json").unlink()
    with caplog.at_level(logging.WARNING, "relabel_jax"):
        found = open_data_set(data_dir)
        assert verify(data_dir, num_workers=1) == []
    assert found.fingerprint == expected.fingerprint
    assert len(caplog.messages) == 2
    assert "has no sha256.json" in caplog.text
    np.testing.assert_array_equal(found.read_waveforms(np.arange(30)).shape, (30, 80_000))


@pytest.mark.parametrize("content", ["[]", "{}", '{"format_version": 1, "sha256": {}}', "?"])
def test_a_damaged_list_of_digests(data_dir, content):
    (data_dir / "sha256.json").write_text(content)
    with pytest.raises(InputError, match=r"sha256\.json: .*--repair mends them") as raised:
        open_data_set(data_dir)
    assert "\n" not in str(raised.value)
    assert [problem.file for problem in verify(data_dir, num_workers=1)] == ["sha256.json"]


def test_a_damaged_plan_is_not_read_by_arrow(data_dir):
    path = data_dir / ".build" / "plan.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(InputError, match=r"plan\.arrow: damaged: its digest"):
        Plan.open(data_dir)
    (path.parent / digests.LIST_NAME).unlink()  # as of an older version
    with pytest.raises(InputError, match=r"plan\.arrow: damaged"):
        Plan.open(data_dir)
    path.write_bytes(whole)
    assert Plan.open(data_dir).is_old
