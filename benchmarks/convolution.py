"""Compares the formulations of the convolution, per layer of Table II and for all nine together."""

import argparse
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.models.waveform_cnn import convolution_sizes
from relabel_jax.ops.convolution import convolution
from relabel_jax.ops.formulation import FORMULATIONS, Formulation

SAMPLES = PAPER_FORMAT.num_samples
LAYERS = tuple(convolution_sizes(SAMPLES))


def input_size(layer: int) -> tuple[int, int]:
    """(time, channels) of a layer's inputs."""
    return (LAYERS[layer - 1].time_out, LAYERS[layer - 1].features) if layer else (SAMPLES, 1)


def flop(layer: int, batch: int) -> int:
    """Operations of the direct sums, for a forward pass and the gradients that training needs."""
    size, (_, channels_in) = LAYERS[layer], input_size(layer)
    passes = 2 if layer == 0 else 3  # the gradient by the waveform is not needed
    products = batch * size.time_out * size.kernel_size * channels_in * size.features
    return passes * 2 * products


def kernel(rng, layer: int):
    size, (_, channels_in) = LAYERS[layer], input_size(layer)
    return jnp.asarray(
        rng.normal(size=(size.kernel_size, channels_in, size.features))
        / np.sqrt(size.kernel_size * channels_in),
        jnp.float32,
    )


def layer_job(rng, layer: int, batch: int):
    """(formulation -> step of kernels, kernels, inputs) for one layer alone."""
    stride = LAYERS[layer].stride
    x = jnp.asarray(rng.normal(size=(batch, *input_size(layer))), jnp.float32)

    def of(formulation):
        def step(w, x):
            if layer == 0:
                y, pull = jax.vjp(lambda w: convolution(x, w, stride, formulation), w)
                (dw,) = pull(y)
                return w - 1e-9 * dw
            y, pull = jax.vjp(lambda x, w: convolution(x, w, stride, formulation), x, w)
            dx, dw = pull(y)
            return w - 1e-9 * (dw + dx[0, 0, 0])

        return step

    return of, kernel(rng, layer), x


def stack_job(rng, batch: int):
    """The same for nine convolutions with ELU between them."""
    x = jnp.asarray(rng.normal(size=(batch, SAMPLES, 1)), jnp.float32)

    def of(formulation):
        def loss(kernels, x):
            for w, size in zip(kernels, LAYERS, strict=True):
                x = jax.nn.elu(convolution(x, w, size.stride, formulation))
            return jnp.mean(x**2)

        def step(kernels, x):
            gradients = jax.grad(loss)(kernels, x)
            return jax.tree.map(lambda w, g: w - 1e-3 * g, kernels, gradients)

        return step

    return of, [kernel(rng, layer) for layer in range(len(LAYERS))], x


def compile_steps(step, steps: int, weights, x):
    def run(weights, x):
        return lax.scan(lambda w, _: (step(w, x), None), weights, length=steps)[0]

    return jax.jit(run).lower(weights, x).compile()


def interleave(programs: dict, rounds: int, name: str) -> dict[str, float]:
    """Median seconds of each program, without the first round."""
    seconds: dict[str, list[float]] = {key: [] for key in programs}
    for _ in tqdm(range(rounds + 1), desc=name, file=sys.stderr, leave=False):
        for key, (program, arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds[key].append(time.perf_counter() - start)
    return {key: statistics.median(values[1:]) for key, values in seconds.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/convolution.py --formulations direct toom_cook "
        "--jobs stack. Trust the ratios of one run; on a busy machine nothing else. "
        "`lax` inside a loop is very slow on a CPU: it is a default on accelerators alone.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    on_cpu = jax.default_backend() == "cpu"
    parser.add_argument("--batch", type=int, default=24, help="clips of 80,000 samples a step")
    parser.add_argument("--steps", type=int, default=4, help="steps in one jitted call (lax.scan)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument(
        "--formulations",
        nargs="+",
        choices=FORMULATIONS,
        default=["direct", "toom_cook"] if on_cpu else list(FORMULATIONS),
        help="ratios are to the first",
    )
    parser.add_argument(
        "--jobs",
        nargs="+",
        choices=["stack", *"123456789"],
        default=["stack", *"123456789"],
        help="layers by number, and `stack` for all nine together",
    )
    return parser


def main() -> None:
    args = _parser().parse_args()
    rng = np.random.default_rng(0)
    size = 4096
    square = jnp.ones((size, size), jnp.float32)
    peak_program = jax.jit(jnp.matmul).lower(square, square).compile()
    print(f"{jax.devices()[0].device_kind}, batch {args.batch}, {args.steps} steps a call")
    print("job    formulation  clips/s  GFLOP/s  of matmul peak  ratio")
    for job in args.jobs:
        if job == "stack":
            of, weights, x = stack_job(rng, args.batch)
            work = sum(flop(layer, args.batch) for layer in range(len(LAYERS)))
        else:
            of, weights, x = layer_job(rng, int(job) - 1, args.batch)
            work = flop(int(job) - 1, args.batch)
        programs = {
            name: (
                compile_steps(of(Formulation.resolve(name)), args.steps, weights, x),
                (weights, x),
            )
            for name in args.formulations
        }
        programs["peak"] = peak_program, (square, square)
        seconds = interleave(programs, args.rounds, job)
        peak = 2 * size**3 / seconds.pop("peak") / 1e9
        first = seconds[args.formulations[0]]
        for name, value in seconds.items():
            rate = work * args.steps / value / 1e9
            clips = args.batch * args.steps / value
            figures = f"{clips:8.1f} {rate:8.1f} {rate / peak:15.2f} {first / value:6.2f}"
            print(f"{job:6} {name:11} {figures}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
