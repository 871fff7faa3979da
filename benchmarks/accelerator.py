"""Checks what only a GPU or TPU can show: gradients, resident rows, and a profile of eight steps.

Prints Markdown, and writes the same figures as JSON to --output. benchmarks/accelerator.sh runs it
with the other measurements.
"""

import argparse
import json
import pathlib
import platform
import sys
import time

import jax
import numpy as np

from relabel_jax.benchmark.programs import RECIPE, Variant, batches
from relabel_jax.models.variables import random_variables, waveform_batch
from relabel_jax.models.waveform_cnn import FEATURES, PRECISIONS, default_precision
from relabel_jax.ops.formulation import Formulation
from relabel_jax.train.population import Layout, stack_members, train_population
from relabel_jax.train.resident import load_resident
from relabel_jax.train.rows import gather
from relabel_jax.train.step import init_state, train_step

NUM_CLASSES = 527
FORMULATION = Formulation.resolve().name


def facts():
    """The versions and the device's memory."""
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "backend": jax.default_backend(),
        "memory_bytes": stats.get("bytes_limit"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def gradient_errors(batch_size, features):
    """The first step's update of each precision against float32 on the CPU.

    A gradient cannot be seen outside a step, but Adam's first moment after one step is a tenth of
    it. The error is the norm of the difference over the norm, of all gradients together.
    """
    waveforms, labels, masked = (batch[0] for batch in batches(1, batch_size, NUM_CLASSES))

    def gradients(precision, formulation, device):
        network = Variant(formulation, "loop", True, precision).network(NUM_CLASSES, features)
        state = init_state(random_variables(network, waveform_batch(network), seed=0), RECIPE)
        state, batch = jax.device_put((state, (waveforms, labels, masked)), device)
        with jax.default_device(device):
            after, _ = jax.jit(train_step, static_argnums=(0, 1))(network, RECIPE, state, *batch)
        moments = jax.device_get(after.opt_state[0].mu)
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moments)])

    reference = gradients("f32", "lax", jax.devices("cpu")[0])
    return {
        precision: float(
            np.linalg.norm(gradients(precision, FORMULATION, jax.devices()[0]) - reference)
            / np.linalg.norm(reference)
        )
        for precision in PRECISIONS
    }


def resident_rows_differ(num_clips):
    """How many clips of a resident set differ from the clips that were loaded.

    The first and last clips are checked, and those at the border of the first block. 30,000 clips
    take two blocks.
    """
    samples = 80_000

    def read(clips):
        return (
            np.random.default_rng(0).integers(-9, 9, samples, np.int16)
            + clips.astype(np.int16)[:, None]
        )

    layout = Layout.of(1, jax.device_count(), "map")
    resident = load_resident({"train": (read, num_clips)}, "always", layout)["train"]
    border = len(resident.blocks[0])
    wanted = np.unique(
        np.clip([0, 1, border - 1, border, border + 1, num_clips - 1], 0, num_clips - 1)
    )
    found = jax.device_get(jax.jit(gather)(resident, wanted.astype(np.int32)))
    return {"checked": wanted.tolist(), "different": int((found != read(wanted)).any(1).sum())}


def profile(batch_size, features, folder):
    """Milliseconds of each of eight steps in one call, whose profile goes to a folder."""
    network = Variant(FORMULATION, "scan", True, default_precision()).network(NUM_CLASSES, features)
    layout = Layout.of(1, batch_size, "map")
    waveforms, labels, masked = batches(8, batch_size, NUM_CLASSES)
    arguments = layout.put_chunk(waveforms, labels[None], masked[None])
    variables = random_variables(network, waveform_batch(network), seed=0)
    state = jax.device_get(init_state(variables, RECIPE))
    states = layout.put(stack_members([state]), "member")
    states, _ = jax.block_until_ready(train_population(network, RECIPE, layout, states, *arguments))
    with jax.profiler.trace(str(folder)):
        start = time.perf_counter()
        jax.block_until_ready(train_population(network, RECIPE, layout, states, *arguments))
        seconds = time.perf_counter() - start
    return {"ms_per_step": 1000 * seconds / 8, "folder": str(folder)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a JSON file")
    parser.add_argument("--profile", type=pathlib.Path, required=True, help="a folder")
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--resident_clips", type=int, default=30_000)
    parser.add_argument("--filters", type=int, nargs=9, default=FEATURES)
    args = parser.parse_args()
    features = tuple(args.filters)
    result = {"facts": facts()}
    print("\n".join(f"- {name}: {value}" for name, value in result["facts"].items()))
    result["gradient_errors"] = gradient_errors(args.batch_size, features)
    print("\n| Precision | Gradients from float32 on the CPU |\n|---|---|")
    for precision, error in result["gradient_errors"].items():
        print(f"| {precision} | {error:.2e} |")
    result["resident"] = resident_rows_differ(args.resident_clips)
    print("\nResident clips {checked}: {different} differ".format(**result["resident"]))
    result["profile"] = profile(args.batch_size, features, args.profile)
    print(
        "\nEight steps: {ms_per_step:.2f} ms each, profile in {folder}".format(**result["profile"])
    )
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    return int(result["resident"]["different"] > 0)


if __name__ == "__main__":
    sys.exit(main())
