"""Compares the rate of whole runs with the bare train step, and ways to compute a population.

A whole run is `relabel_jax.main` without imports and compilations: the start, the inputs, the
epochs with validation and checkpoints, and the test. Its rate counts training clips. The bare step
trains on batches that are already on the device. All are timed in turn in one process.
"""

import argparse
import logging
import pathlib
import statistics
import sys
import tempfile
import time

import jax
import numpy as np
from tqdm import tqdm

from relabel_jax.experiments.config import paper_config, plain
from relabel_jax.experiments.run import run
from relabel_jax.models import registry
from relabel_jax.models.variables import random_variables, waveform_batch
from relabel_jax.ops import cpu_devices
from relabel_jax.train.population import MEMBERS_BY, Layout, stack_members, train_population
from relabel_jax.train.step import Recipe, init_state


def bare_steps(config, num_classes, num_members, members_by, num_chunks):
    """A function that trains for `num_chunks` chunks and returns its training clips a second."""
    network = registry.build(plain(config.model), num_classes)
    recipe = Recipe(config.learning_rate, config.learning_rate_decay, 100)
    layout = Layout.of(num_members, config.batch_size, members_by)
    rng = np.random.default_rng(0)
    chunk = (config.steps_per_call, config.batch_size)
    waveforms = rng.integers(-8000, 8000, (*chunk, network.waveform_format.num_samples), np.int16)
    labels, masked = rng.random((2, num_members, *chunk, num_classes)) < 0.1
    variables = random_variables(network, waveform_batch(network), seed=0)
    state = jax.device_get(init_state(variables, recipe))
    states = layout.put(stack_members([state] * num_members), "member")
    arguments = layout.put_chunk(waveforms, labels, masked)

    def measure():
        nonlocal states
        start = time.perf_counter()
        for _ in range(num_chunks):
            states, losses = train_population(network, recipe, layout, states, *arguments)
        jax.block_until_ready(losses)
        return num_members * num_chunks * np.prod(chunk) / (time.perf_counter() - start)

    return measure


def whole_run(config, **fields):
    """A function that runs all epochs in a new workdir and returns training clips a second."""

    def measure():
        with tempfile.TemporaryDirectory() as folder:
            own = config.copy_and_resolve_references()
            own.update(fields)
            start = time.perf_counter()
            result = run(own, pathlib.Path(folder, "run"))
            seconds = time.perf_counter() - start
        clips = result.num_clips["train"] // config.batch_size * config.batch_size
        return config.num_epochs * clips / seconds

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/main_rate.py --data_dir=DATA",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True, help="--output_dir of data_prep.build")
    parser.add_argument("--root", default="Human sounds", help="the base side of it is trained")
    parser.add_argument("--epochs", type=int, default=4, help="of a whole run (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved (default: 5)")
    parser.add_argument("--members", type=int, default=3, help="of a population (default: 3)")
    parser.add_argument("--member_steps", type=int, default=2, help="a call (default: 2)")
    parser.add_argument(
        "--share", type=float, default=1, help="of the paper's filters in each layer (default: 1)"
    )
    parser.add_argument("--jobs", nargs="+", choices=["run", "members"], default=["run", "members"])
    args = parser.parse_args()
    logging.getLogger("relabel_jax").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)
    config = paper_config(args.root, "base")
    config.update({"data_dir": args.data_dir, "num_epochs": args.epochs})
    features = tuple(max(1, int(each * args.share)) for each in config.model.features)
    config.model.features = features
    cpu_devices.use_cores(config.batch_size)
    print(
        f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"batch {config.batch_size}, features {features}"
    )
    if "run" in args.jobs:
        modes = {"resident": whole_run(config, resident="always")}
        modes["streaming"] = whole_run(config, resident="never")
        bare = bare_steps(config, 527, 1, "auto", 2 * args.epochs)
        interleave({f"bare step, {config.steps_per_call} a call": bare, **modes}, args.rounds)
    if "members" in args.jobs:
        config.steps_per_call = args.member_steps
        wrapped = {
            f"{args.members} members, {way}": bare_steps(config, 527, args.members, way, 1)
            for way in MEMBERS_BY
        }
        lone = bare_steps(config, 527, 1, "auto", args.members)
        interleave({f"bare step, {args.member_steps} a call": lone, **wrapped}, args.rounds)


def interleave(measures, rounds: int) -> None:
    """Prints clips/s and their ratio to the first, medians over the rounds with the range."""
    rates = {name: [] for name in measures}
    for number in tqdm(range(rounds + 1), desc="rounds", leave=False):
        for name, measure in measures.items():
            rate = measure()
            if number:  # the first round compiles
                rates[name].append(rate)
    first = next(iter(rates.values()))
    print(f"{'':24}{'clips/s':>9}{'ratio':>9}  range")
    for name, values in rates.items():
        ratios = [value / of_first for value, of_first in zip(values, first, strict=True)]
        print(
            f"{name:24}{statistics.median(values):9.1f}{statistics.median(ratios):9.3f}"
            f"  {min(ratios):.3f}-{max(ratios):.3f}"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
