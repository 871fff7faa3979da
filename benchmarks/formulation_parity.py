"""Trains the plain formulation and the fast one on the same data and compares their mAP.

For each seed the script trains the base side of one root twice: with the plain form (JAX's
convolutions, on a CPU `direct`; normalization not folded), and with the config's defaults. The
spread over the seeds is chance. The difference of the two forms must be within this spread.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import jax
from tqdm import tqdm

from relabel_jax import cli
from relabel_jax.experiments.config import paper_config
from relabel_jax.experiments.run import run
from relabel_jax.ops import cpu_devices

NARROW = (32, 32, 32, 32, 48, 48, 48, 48, 64)


def _parser() -> argparse.ArgumentParser:
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
    return parser


def train(args: argparse.Namespace, plain: bool, seed: int, workdir: pathlib.Path) -> float:
    """The validation mAP after the last epoch."""
    config = paper_config(args.root, "base")
    config.data_dir, config.labeling = args.data_dir, args.labeling
    config.num_epochs, config.seed = args.num_epochs, seed
    if args.filters == "narrow":
        config.model.features = NARROW
    if plain:
        config.model.formulation = "direct" if jax.default_backend() == "cpu" else "lax"
        config.model.fold_norm = False
    run(config, workdir)
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["validation_mAP"]


def compare(args: argparse.Namespace) -> int:
    """Trains all seeds, prints a table, and returns 0 if the forms agree within the spread."""
    cpu_devices.use_cores(paper_config(args.root, "base").batch_size)  # as relabel_jax.main does
    plain, default = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in tqdm(range(args.seeds), desc="seeds", file=sys.stderr):
            plain.append(train(args, True, seed, pathlib.Path(folder, f"plain_{seed}")))
            default.append(train(args, False, seed, pathlib.Path(folder, f"default_{seed}")))

    print(f"validation mAP after {args.num_epochs} epochs, {args.filters} network, {args.root}")
    print("seed     plain   default  difference")
    for seed, (a, b) in enumerate(zip(plain, default, strict=True)):
        print(f"{seed:4}{a:9.4f} {b:9.4f} {b - a:+11.4f}")
    means = statistics.mean(plain), statistics.mean(default)
    difference, spread = means[1] - means[0], max(plain) - min(plain)
    print(f"mean{means[0]:9.4f} {means[1]:9.4f} {difference:+11.4f}")
    within = abs(difference) <= spread
    print(f"spread of the plain form over seeds {spread:.4f}: {'within' if within else 'OUTSIDE'}")
    return 0 if within else 1


def main() -> int:
    args = _parser().parse_args()
    return cli.run(lambda: compare(args))


if __name__ == "__main__":
    sys.exit(main())
