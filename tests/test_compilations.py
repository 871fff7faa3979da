"""Every program is compiled once, however long the training; and once for all labelings."""

import collections
import logging
import re

import jax
import pytest
import small_network

from relabel_jax.experiments import run as run_module
from relabel_jax.experiments.config import paper_config
from relabel_jax.models import variables
from relabel_jax.train.population import predict_population, train_population

pytestmark = pytest.mark.slow

# The programs of a run, except single NumPy-like operations on a few numbers.
PROGRAMS = ("train_population", "predict_population", "_random")


@pytest.fixture
def compiled(caplog):
    """Counts the requests for compilation by the name of the function, cached or not."""
    train_population.clear_cache()
    predict_population.clear_cache()
    variables._random.clear_cache()

    def count():
        found = re.findall(r"Compiling (?:jit\()?(\w+)\)? with global shapes", caplog.text)
        return collections.Counter(found)

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        yield count
    caplog.clear()  # otherwise a failure prints all of it


@pytest.mark.parametrize("resident", ["always", "never"])
def test_a_run_compiles_each_program_once(miniature_data, tmp_path, compiled, resident):
    def run(name, **fields):
        config = paper_config("Human sounds", "base")
        # 6 steps an epoch in chunks of 4: the last is a partial one.
        config.data_dir = str(miniature_data)
        small_network.use_in(config)
        config.update(batch_size=8, num_epochs=3, steps_per_call=4, resident=resident)
        config.update(**fields)
        return run_module.run(config, tmp_path / name)

    assert run("first").num_clips["train"] // 8 % 4
    expected = dict.fromkeys(PROGRAMS, 1)
    if resident == "always":  # validation clips are on the device, test clips are streamed
        expected["predict_population"] = 2
    assert {name: compiled()[name] for name in PROGRAMS} == expected
    before = compiled()
    run("second", labeling="pe_cml", seed=1)
    assert compiled() == before
