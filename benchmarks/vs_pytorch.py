"""Compares relabel_jax's train step with PyTorch's and a plain Flax loop's; --evaluate: the scores.

All use the network, loss and optimizer of the paper, in float32 unless the name says otherwise.

Every contestant is a separate process with its own malloc settings. They take turns, one at a time,
for `--rounds` rounds. Ratios are taken within a round.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

from contestants import take_turns

# With these settings glibc keeps freed memory. By default each step maps its large arrays again.
TUNED = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
    ":glibc.malloc.top_pad=268435456:glibc.malloc.arena_max=1"
}
# name -> (environment, form)
CONTESTANTS: dict[str, tuple[dict[str, str], str]] = {
    "relabel_jax, scan": ({}, "relabel_jax scan"),
    "relabel_jax, loop": ({}, "relabel_jax loop"),
    "relabel_jax, scan, tuned malloc": (TUNED, "relabel_jax scan"),
    "relabel_jax, scan, one device": ({"JAX_NUM_CPU_DEVICES": "1"}, "relabel_jax scan"),
    "relabel_jax, scan, bf16": ({}, "relabel_jax scan bf16"),
    "flax, plain loop": ({}, "flax"),
    "torch, eager": ({}, "torch conv1d"),
    "torch, channels_last": ({}, "torch conv2d"),
    "torch, channels_last, tuned malloc": (TUNED, "torch conv2d"),
    "torch, channels_last, compiled, tuned malloc": (TUNED, "torch conv2d compiled"),
    "torch, channels_last, bf16, tuned malloc": (TUNED, "torch conv2d bf16"),
}


def flax_loop(batch_size: int, steps: int, num_classes: int) -> Callable[[], None]:
    """`nn.Conv`, `nn.BatchNorm`, optax and one jitted call a step: the obvious program."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    from relabel_jax.benchmark.programs import batches
    from relabel_jax.models.waveform_cnn import DENSE_UNITS, FEATURES, KERNEL_SIZES, STRIDES

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            def norm(x):
                return nn.BatchNorm(False, momentum=0.99, epsilon=1e-3)(nn.elu(x))

            x = x.astype(jnp.float32)[:, :, None] / 32768
            for kernel_size, stride, features in zip(KERNEL_SIZES, STRIDES, FEATURES, strict=True):
                x = norm(nn.Conv(features, (kernel_size,), (stride,), padding="VALID")(x))
            x = x.reshape(len(x), -1)
            for units in DENSE_UNITS:
                x = norm(nn.Dense(units)(x))
            return nn.sigmoid(nn.Dense(num_classes)(x))

    network, optimizer = Plain(), optax.adam(1e-3, eps=1e-7)
    waveforms, labels, masked = map(jnp.asarray, batches(steps, batch_size, num_classes))
    variables = jax.jit(network.init)(jax.random.key(0), waveforms[0])
    state = variables, optimizer.init(variables["params"])

    @jax.jit
    def step(state, waveforms, labels, masked):
        variables, opt_state = state

        def loss(params):
            scores, new = network.apply(
                variables | {"params": params}, waveforms, mutable=["batch_stats"]
            )
            errors = jnp.where(masked, 0, scores - labels)
            return jnp.sum(errors**2) / jnp.sum(~masked), new

        gradients, new = jax.grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(gradients, opt_state)
        return {**new, "params": optax.apply_updates(variables["params"], updates)}, opt_state

    def run():
        nonlocal state
        for i in range(steps):
            state = step(state, waveforms[i], labels[i], masked[i])
        jax.block_until_ready(state)

    return run


def relabel_jax_program(
    form: list[str], batch_size: int, steps: int, num_classes: int
) -> Callable[[], None]:
    """The step of `relabel_jax.main` with its defaults, or in bfloat16 if `form` says so."""
    import jax
    import numpy as np

    from relabel_jax.benchmark.programs import batches, compile_variant, initial_state
    from relabel_jax.models import registry
    from relabel_jax.ops import cpu_devices
    from relabel_jax.train.population import Layout, predict_population, stack_members

    mode, *options = form
    cpu_devices.use_cores(batch_size)
    model = {"name": "waveform_cnn"} | ({"precision": "bf16"} if "bf16" in options else {})
    network = registry.build(model, num_classes)
    if "evaluate" in options:
        layout = Layout.of(1, batch_size, "map")
        state = stack_members([jax.device_get(initial_state(network))])
        variables = layout.put(state.variables, "member")
        calls = 1 if mode == "scan" else steps
        waveforms, *_ = batches(steps, batch_size, num_classes)
        parts = [layout.put(part, None, "data") for part in np.split(waveforms, calls)]
        number = layout.put(np.int32(steps // calls))

        def evaluate():
            for part in parts:
                scores = predict_population(
                    network, layout, "scores", variables, None, part, number
                )
            jax.block_until_ready(scores)

        return evaluate
    program = compile_variant(network, mode, batches(steps, batch_size, num_classes))
    state = program.start()

    def run():
        nonlocal state
        state = jax.block_until_ready(program.run(state))

    return run


def torch_loop(form: list[str], batch_size: int, steps: int, num_classes: int):
    """PyTorch with `Conv1d`, or with `Conv2d` of 1 x taps in channels_last."""
    import torch
    from torch import nn

    from relabel_jax.benchmark.programs import batches
    from relabel_jax.models.waveform_cnn import DENSE_UNITS, FEATURES, KERNEL_SIZES, STRIDES

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    flat = "conv1d" in form
    layers, channels = [], 1
    for kernel_size, stride, features in zip(KERNEL_SIZES, STRIDES, FEATURES, strict=True):
        if flat:
            layers += [nn.Conv1d(channels, features, kernel_size, stride), nn.ELU()]
            layers += [nn.BatchNorm1d(features, 1e-3, 0.01)]
        else:
            layers += [nn.Conv2d(channels, features, (1, kernel_size), (1, stride)), nn.ELU()]
            layers += [nn.BatchNorm2d(features, 1e-3, 0.01)]
        channels = features
    layers.append(nn.Flatten())
    for units in DENSE_UNITS:
        layers += [nn.Linear(channels, units), nn.ELU(), nn.BatchNorm1d(units, 1e-3, 0.01)]
        channels = units
    network = nn.Sequential(*layers, nn.Linear(channels, num_classes), nn.Sigmoid())
    if not flat:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7, fused=True)
    forward = torch.compile(network) if "compiled" in form else network
    data = [torch.from_numpy(array) for array in batches(steps, batch_size, num_classes)]

    def score(waveforms):
        x = waveforms.float()[:, None] / 32768
        if not flat:
            x = x[:, :, None].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in form):
            return forward(x)

    @torch.inference_mode()
    def evaluate():
        for waveforms in data[0]:
            score(waveforms)

    if "evaluate" in form:
        network.eval()
        return evaluate

    def run():
        for waveforms, labels, masked in zip(*data, strict=True):
            scores = score(waveforms)
            errors = (scores.float() - labels.float()).masked_fill(masked, 0)
            loss = errors.square().sum() / (~masked).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def worker(form: list[str], batch_size: int, steps: int, num_classes: int) -> None:
    """Runs a round for each line on stdin and answers with its seconds."""
    kind, *rest = form
    if kind == "relabel_jax":
        run = relabel_jax_program(rest, batch_size, steps, num_classes)
    elif kind == "flax":
        run = flax_loop(batch_size, steps, num_classes)
    else:
        run = torch_loop(rest, batch_size, steps, num_classes)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def versions() -> str:
    from importlib.metadata import version

    names = ("jax", "flax", "torch")
    return ", ".join(f"{name} {version(name)}" for name in names)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/vs_pytorch.py --rounds 7 --output vs_pytorch.json. "
        "Needs PyTorch (the extra `torch`) and about 2 GB for each contestant. A contestant that "
        "does not start, as torch.compile without a C++ compiler, is named on stderr and left out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument(
        "--steps", type=int, default=8, help="steps a round, and a call of relabel_jax"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_classes", type=int, default=527)
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=list(CONTESTANTS),
        default=list(CONTESTANTS),
        metavar="NAME",
        help="any of: " + "; ".join(CONTESTANTS),
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="time the scores alone; without the Flax loop"
    )
    parser.add_argument("--output", help="a JSON file with the seconds of every round")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = args.batch_size, args.steps, args.num_classes
    if args.worker:
        worker(args.worker, *sizes)
        return 0

    seconds = measure(args, sizes)
    if not seconds:
        print("error: no contestant started", file=sys.stderr)
        return 1
    print_table(seconds, args)
    if args.output:
        with open(args.output, "w") as file:
            clips = args.batch_size * args.steps
            json.dump({"seconds": seconds, "clips_a_round": clips}, file, indent=2)
    return 0


def measure(args: argparse.Namespace, sizes: tuple[int, int, int]) -> dict[str, list[float]]:
    """Seconds of every round by contestant. Each contestant is a separate process."""
    flags = ["--batch_size", str(sizes[0]), "--steps", str(sizes[1])]
    flags += ["--num_classes", str(sizes[2])]
    commands = {}
    for name in args.contestants:
        environment, form = CONTESTANTS[name]
        if args.evaluate:
            if form == "flax":
                continue
            form += " evaluate"
        command = [sys.executable, __file__, *flags, "--worker", *form.split()]
        commands[name] = command, environment
    rounds = take_turns(commands, args.rounds)
    return {name: [seconds for (seconds,) in of_name] for name, of_name in rounds.items()}


def print_table(seconds: dict[str, list[float]], args: argparse.Namespace) -> None:
    """Prints clips/s and the time against the first contestant, medians and ranges."""
    clips = args.batch_size * args.steps
    first = next(iter(seconds))
    print(f"{versions()}, {len(os.sched_getaffinity(0))} CPU cores, batch {args.batch_size}, ")
    what = "batches of scores" if args.evaluate else "steps"
    print(f"{args.steps} {what} a round, medians of {args.rounds} rounds and their range")
    print(f"{'':46} clips/s                time against {first!r}")
    for name, times in seconds.items():
        rates = [clips / each for each in times]
        ratios = [b / a for a, b in zip(seconds[first], times, strict=True)]
        print(
            f"{name:44} {statistics.median(rates):6.1f} ({min(rates):5.1f}-{max(rates):5.1f})"
            f"   {statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )


if __name__ == "__main__":
    sys.exit(main())
