"""The embedder's rate beside the bare jitted forward of the same network, interleaved.

    python benchmarks/embed_rate.py CHECKPOINT

Short clips at 8 kHz: what is measured is what the embedder adds (checks, quantizing, windows,
batches, copies), not soxr. The bare forward gets arrays that are on the device already, in one
batch of the size that the embedder uses.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.pretrained import load_pretrained


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
    num_clips = -(-flags.clips // batch_size) * batch_size  # the bare forward has whole batches
    clips = np.random.default_rng(0).uniform(-0.5, 0.5, (num_clips, 8_000)).astype(np.float32)
    batch = jax.device_put(np.zeros((batch_size, 80_000), np.int16) + np.int16(1_000))
    forward = jax.jit(lambda variables, batch: network.apply(variables, batch, method="embed"))

    def bare():
        for _ in range(num_clips // batch_size):
            outputs = forward(variables, batch)
        outputs.block_until_ready()

    def embed():
        embedder.embed(clips, 8_000)

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
