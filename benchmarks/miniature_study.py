"""When do PEL and PE-CML help? A study on the miniature, with weak to severe habits of the raters.

    python benchmarks/miniature_study.py --output_dir=STUDY

The script synthesises the recordings once. For each setting the raters label them again: they leave
out parents at one rate and give only a general label at another. The script builds a data set and
trains a base outside `Human sounds` with each labeling. On the base's features it trains small
classifiers of `Human sounds` with each target labeling. It scores all of them on the truth, which
only a synthetic data set has.

It compares the bases by test mAP on the truth, averaged over target labelings and seeds: PEL or
PE-CML less OL. The 95% interval is a paired bootstrap over the test clips. It does not include the
variation between seeds; the table shows their standard deviation.

The script prints a table and writes `study.json` and a figure, `study.html`. It can be stopped and
started again. It takes 20 minutes on 2 idle cores; `--settings=1` runs the first setting only.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from data_prep import build, miniature, miniature_raters
from relabel_jax.data.data_set import INDEX_NAME
from relabel_jax.experiments.cells import grid_config
from relabel_jax.experiments.grid import run_grid
from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.metrics import evaluate
from relabel_jax.report.results import find_runs
from relabel_jax.report.statistics import bootstrap_map, compare
from relabel_jax.report.truth import read_truth, true_labels

ROOT = "Human sounds"
# (parent_left_out, general_only): none, each alone, both as the miniature has them, both severe.
SETTINGS = ((0.0, 0.0), (0.6, 0.25), (1.0, 0.0), (0.0, 0.5), (1.0, 0.5), (0.5, 0.0), (0.0, 0.25))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output_dir", required=True, type=pathlib.Path, metavar="STUDY", help="all goes there")
    add("--num_clips", type=int, default=800, help="of the miniature (default: %(default)s)")
    add("--num_epochs", type=int, default=8, help="of every training (default: %(default)s)")
    add("--num_seeds", type=int, default=2, help="of every setting (default: %(default)s)")
    add("--settings", type=int, default=len(SETTINGS), help="how many (default: all, %(default)s)")
    flags = parser.parse_args()
    folder = flags.output_dir
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    num_clips_path = folder / "num_clips"
    if num_clips_path.exists() and num_clips_path.read_text() != str(flags.num_clips):
        sys.exit(
            f"error: {folder} has {num_clips_path.read_text()} clips; give another --output_dir"
        )
    num_clips_path.write_text(str(flags.num_clips))
    # The rates change neither the recordings nor the truth.
    clips = miniature.write_audio(miniature.MiniatureSpec(flags.num_clips), folder / "audio", 2)
    (folder / "ontology.json").write_text(miniature.ontology().text)
    truth = [miniature_raters.true_labels(clip.events) for clip in clips]
    miniature.write_labels(folder / "truth.csv", "the truth", clips, truth)
    # 40% of the clips are for the test, because the differences are small and training is short.
    splits = ["clip_id,split"]
    for clip in clips:
        part = hashlib.blake2b(clip.clip_id.encode(), digest_size=1).digest()[0] / 256
        split = "train" if part < 0.5 else "validation" if part < 0.6 else "test"
        splits.append(f"{clip.clip_id},{split}")
    (folder / "splits.csv").write_text("\n".join(splits) + "\n")

    rows = []
    for left_out, general in SETTINGS[: flags.settings]:
        at = folder / f"left_out_{left_out}_general_{general}"
        at.mkdir(exist_ok=True)
        spec = miniature.MiniatureSpec(
            flags.num_clips, parent_left_out=left_out, general_only=general
        )
        rates = miniature_raters.left_out_rates(spec)
        labels = [
            miniature_raters.rate_clip(spec, number, clip.events, rates)
            for number, clip in enumerate(clips)
        ]
        if not (at / "data" / INDEX_NAME).exists():
            miniature.write_labels(at / "segments.csv", "the raters", clips, labels)
            build.build(
                ontology=folder / "ontology.json",
                segments=[at / "segments.csv"],
                audio=folder / "audio",
                splits=folder / "splits.csv",
                output_dir=at / "data",
                num_workers=2,
            )
        config = grid_config(roots=(ROOT,), target_labelings=PAPER_LABELINGS)
        config.update(
            data_dir=str(at / "data"),
            truth=str(folder / "truth.csv"),
            only="features",
            num_seeds=flags.num_seeds,
            num_epochs=flags.num_epochs,
        )
        config.model.features = (8, 8, 12, 12, 16, 16, 24, 24, 32)
        problems = run_grid(config, at / "runs")["problems"]
        if problems:
            sys.exit("error: " + "; ".join(problems))
        share = miniature_raters.parents_chosen(labels)
        row = {
            "parent_left_out": left_out,
            "general_only": general,
            "labels_per_clip": float(np.mean([len(given) for given in labels])),
            "parents_chosen": None if np.isnan(share) else share,
            **_gains(at / "runs", folder / "truth.csv"),
        }
        rows.append(row)
        print(_line(row), flush=True)
        (folder / "study.json").write_text(json.dumps(rows, indent=1) + "\n")
    _draw(rows, folder / "study.html")
    print(f"written {folder / 'study.json'}, {folder / 'study.html'}", file=sys.stderr)


def _gains(workdir: pathlib.Path, truth_path: pathlib.Path) -> dict:
    """mAP on the truth by labeling of the base, and the differences from OL."""
    ontology = Ontology.from_json(truth_path.with_name("ontology.json"))
    truth = read_truth(truth_path, ontology)
    means: dict[str, dict[int, list]] = {}
    for run in find_runs(workdir)[0]:
        if run.result.method != "features":
            continue
        scores = run.read_scores()
        labels = true_labels(truth, scores.clip_id.tolist(), scores.mids.tolist())
        nothing = np.zeros_like(labels)
        measured = evaluate(scores.scores, labels, nothing).mean_average_precision
        by_seed = means.setdefault(run.result.base_labeling, {})
        by_seed.setdefault(run.result.seed, []).append(
            (measured, bootstrap_map(scores.scores, labels, nothing))
        )
    seeds = sorted(means["ol"])
    of_seed = {
        base: np.array([np.mean([m for m, _ in by_seed[s]]) for s in seeds])
        for base, by_seed in means.items()
    }
    replicates = {
        base: np.mean([r for s in seeds for _, r in by_seed[s]], axis=0)
        for base, by_seed in means.items()
    }
    result: dict = {"test_clips": len(scores.clip_id), "mAP": {}, "gain": {}}
    for base in PAPER_LABELINGS:
        result["mAP"][base] = float(of_seed[base].mean())
        if base != "ol":
            gains = of_seed[base] - of_seed["ol"]
            found = compare(float(gains.mean()), replicates[base] - replicates["ol"])
            sd = float(gains.std(ddof=1)) if len(gains) > 1 else None
            result["gain"][base] = found._asdict() | {"sd_over_seeds": sd}
    return result


def _line(row: dict) -> str:
    parts = [
        f"parent_left_out {row['parent_left_out']:.2f}, general_only {row['general_only']:.2f}",
        f"{row['labels_per_clip']:.2f} labels a clip, OL {row['mAP']['ol']:.3f}",
    ]
    for base, gain in row["gain"].items():
        what = "helps" if gain["low"] > 0 else "hurts" if gain["high"] < 0 else "within chance"
        parts.append(
            f"{base} {gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] {what}"
        )
    return ": ".join((parts[0], "; ".join(parts[1:])))


def _draw(rows: list[dict], path: pathlib.Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = sorted(rows, key=lambda row: (row["parent_left_out"], row["general_only"]))
    names = [
        f"parents left out {row['parent_left_out']:.0%}<br>general only {row['general_only']:.0%}"
        for row in rows
    ]
    for base, name, color, symbol in (
        ("pel", "PEL base", "#5b4fa8", "diamond"),
        ("pe_cml", "PE-CML base", "#14766e", "square"),
    ):
        gains = [row["gain"][base] for row in rows]
        figure.add_scatter(
            x=names,
            y=[gain["difference"] for gain in gains],
            error_y={
                "array": [gain["high"] - gain["difference"] for gain in gains],
                "arrayminus": [gain["difference"] - gain["low"] for gain in gains],
                "symmetric": False,
            },
            mode="markers",
            name=name,
            marker={"color": color, "symbol": symbol, "size": 11},
        )
    figure.add_hline(y=0)
    figure.update_layout(
        template="plotly_white",
        yaxis_title="mAP on the truth, less that from the OL base",
        legend={"orientation": "h", "y": 1.08},
    )
    figure.write_html(path, include_plotlyjs=True)


if __name__ == "__main__":
    main()
