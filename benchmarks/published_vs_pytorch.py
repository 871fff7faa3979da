"""Compares the training step of a published network with PyTorch's, with the front end, on a CPU.

Both have the same network without dropout, the masked cross-entropy and Adam, in float32. The
PyTorch networks are those of `tests/models/torch_references.py`.

Every contestant is a separate process. They take turns, one at a time, for `--rounds` rounds, and
report wall time and CPU time of all threads. Ratios are taken within a round.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from contestants import take_turns

CONTESTANTS = {
    "relabel_jax": "jax",
    "torch, eager": "torch",
    "torch, channels_last": "torch channels_last",
    "torch, compiled": "torch compiled",
    "torch, channels_last, compiled": "torch channels_last compiled",
}
NETWORKS = ("cnn6", "cnn10", "cnn14", "mn04", "mn10", "ast_tiny", "ast_small", "ast_base")


def network_of(args: argparse.Namespace) -> Any:
    """The network without dropout."""
    from relabel_jax.models import registry

    known = registry.default_options(args.network)
    none = dict.fromkeys(known.keys() & {"dropout", "block_dropout"}, 0.0)
    return registry.build({"name": args.network, **none}, args.num_classes)


def jax_rounds(args: argparse.Namespace) -> Callable[[], None]:
    """The step of `relabel_jax.main`, in one program a round."""
    import jax

    from relabel_jax.benchmark.programs import batches, compile_variant
    from relabel_jax.ops import cpu_devices
    from relabel_jax.train.step import Recipe

    cpu_devices.use_cores(args.batch_size)
    network = network_of(args)
    data = batches(args.steps, args.batch_size, args.num_classes, network.waveform_format)
    recipe = Recipe(learning_rate=0.001, decay=1.0, steps_per_epoch=4000, loss="bce")
    program = compile_variant(network, "scan", data, recipe)
    state = program.start()

    def run():
        nonlocal state
        state = jax.block_until_ready(program.run(state))

    return run


def torch_rounds(form: list[str], args: argparse.Namespace) -> Callable[[], None]:
    """PyTorch's step in a plain loop."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "models"))
    import torch
    import torch_references

    from relabel_jax.benchmark.programs import batches

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = network_of(args)
    if args.network.startswith("cnn"):
        sizes = (args.network, network.features, args.num_classes)
        reference: Any = torch_references.Cnn(*sizes)
    elif args.network.startswith("mn"):
        reference = torch_references.MobileNet(network.width, args.num_classes)
    else:
        sizes = (network.width, network.num_heads, network.num_layers, network.num_frames)
        reference = torch_references.Ast(*sizes, args.num_classes)
    if "channels_last" in form:
        reference = reference.to(memory_format=torch.channels_last)
    front_end = torch_front_end(args.network, network)

    def logits(waveforms):
        with torch.no_grad():
            features = front_end(waveforms.float() / 32768)
        return reference(features)

    forward = torch.compile(logits) if "compiled" in form else logits
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, eps=1e-7, fused=True)
    data = batches(args.steps, args.batch_size, args.num_classes, network.waveform_format)
    tensors = [torch.from_numpy(array) for array in data]

    def run():
        for waveforms, labels, masked in zip(*tensors, strict=True):
            losses = torch.nn.functional.binary_cross_entropy_with_logits(
                forward(waveforms), labels.float(), reduction="none"
            )
            loss = losses.masked_fill(masked, 0).sum() / (~masked).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def torch_front_end(name: str, network: Any) -> Callable[[Any], Any]:
    """PyTorch's form of the front end: float[batch, samples] -> float[batch, frames, bands]."""
    import torch

    from relabel_jax.models import front_ends

    def power(waveforms, fft_size, hop, window):
        spectrum = torch.stft(
            waveforms, fft_size, hop, len(window), window=window, return_complex=True
        )
        return (spectrum.real**2 + spectrum.imag**2).transpose(1, 2)

    if name.startswith("cnn"):
        rate_hz = network.sample_rate_hz
        size, hop, highest = front_ends.PANNS_SIZES[rate_hz]
        filters = torch.from_numpy(front_ends.slaney_filters(rate_hz, size, 64, 50, highest))
        window = torch.hann_window(size)
        return lambda x: 10 * (power(x, size, hop, window) @ filters).clamp(min=1e-10).log10()
    if name.startswith("mn"):
        filters = torch.from_numpy(front_ends.kaldi_filters(32_000, 1024, 128, 0, 15_000))
        window = torch.hann_window(800, periodic=False)
        return lambda x: (
            ((power(x[:, 1:] - 0.97 * x[:, :-1], 1024, 320, window) @ filters + 1e-5).log() + 4.5)
            / 5
        )
    filters = torch.from_numpy(front_ends.kaldi_filters(16_000, 512, 128, 20, 8_000))
    window = torch.hann_window(400, periodic=False)

    def fbank(x):
        frames = (x - x.mean(dim=1, keepdim=True)).unfold(1, 400, 160)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        spectrum = torch.fft.rfft((frames - 0.97 * before) * window, 512)
        mel = (spectrum.real**2 + spectrum.imag**2) @ filters
        levels = mel.clamp(min=2.0**-23).log()
        missing = network.num_frames - levels.shape[1]
        return (torch.nn.functional.pad(levels, (0, 0, 0, missing)) + 4.2677393) / 9.1379948

    return fbank


def worker(args: argparse.Namespace) -> None:
    """Runs a round for each line on stdin and answers with its wall and CPU seconds."""
    kind, *form = args.worker
    run = jax_rounds(args) if kind == "jax" else torch_rounds(form, args)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        print(time.perf_counter() - wall, time.process_time() - cpu, flush=True)


def measure(args: argparse.Namespace) -> dict[str, list[list[float]]]:
    """The wall and CPU seconds of every round, by contestant."""
    sizes = ("network", "batch_size", "steps", "num_classes")
    flags = [f"--{size}={getattr(args, size)}" for size in sizes]
    commands = {}
    for name in args.contestants:
        python = args.torch_python if name.startswith("torch") else sys.executable
        commands[name] = [python, __file__, *flags, "--worker", *CONTESTANTS[name].split()], {}
    return take_turns(commands, args.rounds)


def print_table(seconds: dict[str, list[list[float]]], args: argparse.Namespace) -> None:
    """Prints clips/s and the wall and CPU time against the first contestant."""
    clips = args.batch_size * args.steps
    first, *_ = seconds
    print(f"{args.network}, batch {args.batch_size}, {args.steps} steps a round")
    print(f"{'':32} clips/s               wall against the first   CPU against the first")
    for name, rounds in seconds.items():
        cells = [spread([clips / wall for wall, _ in rounds], ".1f")]
        for part in (0, 1):
            pairs = zip(seconds[first], rounds, strict=True)
            cells.append(spread([other[part] / one[part] for one, other in pairs], ".2f"))
        print(f"{name:32}", *(f"{cell:22}" for cell in cells))


def spread(values: list[float], form: str) -> str:
    """The median and the range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="cnn6")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num_classes", type=int, default=527)
    parser.add_argument(
        "--contestants", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS)
    )
    parser.add_argument(
        "--torch_python",
        default=sys.executable,
        help="another Python, if PyTorch is not in this one",
    )
    parser.add_argument("--output", help="a JSON file with the seconds of every round")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return 0
    seconds = measure(args)
    if not seconds:
        print("error: no contestant started", file=sys.stderr)
        return 1
    print_table(seconds, args)
    if args.output:
        pathlib.Path(args.output).write_text(json.dumps({**vars(args), "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
