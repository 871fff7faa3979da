"""Compares the embedder's rate with the jitted network alone, in alternating rounds.

    python benchmarks/embed_rate.py CHECKPOINT

The clips are short and have the network's sample rate. So the difference is the cost of the
embedder without soxr: checks, rounding, windows, batches, copies. The network alone gets one batch
of the embedder's size that is already on the device.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.loading import load_pretrained


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="workdir of a finished training, or exported folder")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    pretrained = load_pretrained(flags.checkpoint)
    embedder = Embedder(pretrained)
    network, variables = pretrained.network, jax.device_put(pretrained.variables)
    batch_size = embedder.batch_size
    rate_hz, num_samples = embedder.sample_rate_hz, embedder.waveform_format.num_samples
    num_clips = -(-flags.clips // batch_size) * batch_size  # whole batches for the bare forward
    shape = (num_clips, min(rate_hz, num_samples))
    clips = np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)
    batch = jax.device_put(np.full((batch_size, num_samples), 1_000, np.int16))
    forward = jax.jit(lambda variables, batch: network.apply(variables, batch, method="embed"))

    def bare():
        for _ in range(num_clips // batch_size):
            outputs = forward(variables, batch)
        outputs.block_until_ready()

    def embed():
        embedder.embed(clips, rate_hz)

    times_s: dict[str, list[float]] = {"bare forward": [], "embedder": []}
    for round_number in range(flags.rounds + 1):
        for name, run in (("bare forward", bare), ("embedder", embed)):
            start = time.perf_counter()
            run()
            if round_number:  # the first compiles
                times_s[name].append(time.perf_counter() - start)
    for name, values in times_s.items():
        print(f"{name}: {num_clips / statistics.median(values):.1f} clips/s")
    ratios = [a / b for a, b in zip(*times_s.values(), strict=True)]
    print(f"embedder / bare forward: {statistics.median(ratios):.3f} (median of {len(ratios)})")


if __name__ == "__main__":
    main()
