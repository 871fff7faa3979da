"""Trains the plain formulation and the fast one on the same data: do they end with the same mAP?

For each seed the base side of one root is trained twice: plain (JAX's own convolutions, on a
CPU `direct`; normalization not folded) and with the config's defaults. Seeds
give the spread that is chance; the difference of the two forms must lie within it.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import jax
from tqdm import tqdm

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import paper_config
from relabel_jax.experiments.run import run
from relabel_jax.ops import cpu_devices

NARROW = (32, 32, 32, 32, 48, 48, 48, 48, 64)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/formulation_parity.py --data_dir=DATA --filters narrow",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True, help="the --output_dir of data_prep.build")
    parser.add_argument("--root", default="Human sounds", help="default: Human sounds")
    parser.add_argument("--labeling", default="pe_cml", help="default: pe_cml")
    parser.add_argument("--num_epochs", type=int, default=10, help="default: 10")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--filters",
        choices=("full", "narrow"),
        default="full",
        help=f"the paper's (default), or {NARROW}, where Toom-Cook still does layers 2 to 6",
    )
    args = parser.parse_args()
    cpu_devices.use_cores(paper_config(args.root, "base").batch_size)  # as relabel_jax.main does
    on_cpu = jax.default_backend() == "cpu"
    forms = {
        "plain": {"formulation": "direct" if on_cpu else "lax", "fold_norm": False},
        "default": {},
    }
    ends: dict[str, list[float]] = {name: [] for name in forms}
    jobs = [(seed, name) for seed in range(args.seeds) for name in forms]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for seed, name in tqdm(jobs, desc="trainings", file=sys.stderr):
                config = paper_config(args.root, "base")
                config.data_dir, config.labeling = args.data_dir, args.labeling
                config.num_epochs, config.seed = args.num_epochs, seed
                if args.filters == "narrow":
                    config.filters = NARROW
                config.update(forms[name])
                workdir = pathlib.Path(folder) / f"{name}_{seed}"
                run(config, workdir)
                lines = (workdir / "metrics.jsonl").read_text().splitlines()
                ends[name].append(json.loads(lines[-1])["validation_mAP"])
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1

    print(f"validation mAP after {args.num_epochs} epochs, {args.filters} network, {args.root}")
    print("seed     plain   default  difference")
    differences = [b - a for a, b in zip(ends["plain"], ends["default"], strict=True)]
    for seed, difference in enumerate(differences):
        row = f"{ends['plain'][seed]:9.4f} {ends['default'][seed]:9.4f} {difference:+11.4f}"
        print(f"{seed:4}{row}")
    means = {name: statistics.mean(values) for name, values in ends.items()}
    spread = max(ends["plain"]) - min(ends["plain"])
    difference = means["default"] - means["plain"]
    print(f"mean{means['plain']:9.4f} {means['default']:9.4f} {difference:+11.4f}")
    within = abs(difference) <= spread
    print(f"spread of the plain form over seeds {spread:.4f}: {'within' if within else 'OUTSIDE'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
