"""Compares relabel_jax's average precision with scikit-learn's, in speed and in value."""

import argparse
import statistics
import sys
import time
import warnings

import numpy as np
import sklearn
from sklearn.metrics import average_precision_score
from tqdm import tqdm

from relabel_jax.metrics import evaluate


def scikit_learn(scores, labels, masked):
    """float64[classes]: `average_precision_score`, each class over its unmasked clips."""
    return np.array(
        [
            average_precision_score(labels[kept, i], scores[kept, i])
            if labels[kept := ~masked[:, i], i].any()
            else np.nan
            for i in range(scores.shape[1])
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="relabel_jax also computes ROC AUC in the same pass; scikit-learn computes "
        "average precision only. Scores are rounded, so that there are ties.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=527)
    parser.add_argument("--positives", type=float, default=0.01, help="share of labels")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    args = parser.parse_args()
    warnings.simplefilter("error")
    rng = np.random.default_rng(0)
    shape = (args.clips, args.classes)
    labels = rng.random(shape) < args.positives
    print("masked  relabel_jax s    scikit-learn s   ratio  largest difference")
    for share in (0.0, 0.1):
        masked = rng.random(shape) < share
        scores = (rng.random(shape) * 0.8 + 0.2 * labels).round(4).astype(np.float32)
        seconds: dict[str, list[float]] = {"relabel_jax": [], "scikit-learn": []}
        for _ in tqdm(range(args.rounds), desc=f"{share:.0%} masked", file=sys.stderr, leave=False):
            start = time.perf_counter()
            found = evaluate(scores, labels, masked).average_precision
            middle = time.perf_counter()
            expected = scikit_learn(scores, labels, masked)
            seconds["relabel_jax"].append(middle - start)
            seconds["scikit-learn"].append(time.perf_counter() - middle)
        ratios = sorted(b / a for a, b in zip(*seconds.values(), strict=True))
        figures = "  ".join(
            f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
            for times in seconds.values()
        )
        difference = np.nanmax(np.abs(found - expected))
        assert (np.isnan(found) == np.isnan(expected)).all()
        print(f"{share:6.0%}  {figures}  {statistics.median(ratios):.2f}", end=" ")
        print(f"({ratios[0]:.2f}-{ratios[-1]:.2f})  {difference:.1e}")
    print(f"numpy {np.__version__}, scikit-learn {sklearn.__version__}")


if __name__ == "__main__":
    main()
