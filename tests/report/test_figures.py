"""Every number of a report again, by scikit-learn and NumPy."""

import json
import shutil

import numpy as np
import pytest
from grid_of_runs import ROOTS, SEEDS, TABLES, expected_ap, expected_map, read_csv, read_scores

from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.report.__main__ import main
from relabel_jax.report.statistics import bootstrap_map

pytestmark = pytest.mark.slow


def near(value):
    return pytest.approx(value, abs=1e-9)


def test_every_mean_and_difference(reported):
    truth = {}
    for line in (reported / "truth.csv").read_text().splitlines()[3:]:
        clip_id, _, _, mids = line.split(", ")
        truth[clip_id] = set(mids.strip('"').split(","))
    checked = 0
    for row in read_csv(reported / "report" / "table4.csv"):
        cell = (row["root"], row["method"], row["base_labeling"], row["labeling"])
        if row["root"] not in ROOTS or cell == ("Human sounds", "finetune", "pel", "ol"):
            assert (row["seeds"], row["mAP"], row["difference"]) == ("0", "", "")
            continue
        runs = [read_scores(reported, *cell, seed) for seed in SEEDS]
        means = [expected_map(run) for run in runs]
        assert float(row["mAP"]) == near(np.mean(means))
        assert float(row["mAP_sd"]) == near(np.std(means, ddof=1))
        if row["base_labeling"] == "ol":
            assert row["difference"] == row["p"] == ""
        else:
            method = "features" if row["method"] == "features" else "finetune"
            others = [
                read_scores(reported, row["root"], method, "ol", row["labeling"], seed)
                for seed in SEEDS
            ]
            gain = np.mean(means) - np.mean([expected_map(other) for other in others])
            assert float(row["difference"]) == near(gain)
            assert float(row["low"]) <= gain <= float(row["high"])
        for form in PAPER_LABELINGS:
            other = read_scores(reported, row["root"], "scratch", "", form, 0)
            both = sorted(set(other["mids"]) & set(runs[0]["mids"]))
            ours = [list(runs[0]["mids"]).index(mid) for mid in both]
            theirs = [list(other["mids"]).index(mid) for mid in both]
            labels, masked = other["labels"][:, theirs], other["masked"][:, theirs]
            values = [expected_map(run, ours, labels, masked) for run in runs]
            assert float(row[f"mAP_on_{form}"]) == near(np.mean(values))
        labels = [[mid in truth[clip] for mid in runs[0]["mids"]] for clip in runs[0]["clip_id"]]
        labels = np.array(labels)
        values = [expected_map(run, labels=labels, masked=~labels & False) for run in runs]
        assert float(row["mAP_on_truth"]) == near(np.mean(values))
        checked += 1
    assert checked == 2 * 3 * (3 + 4) - 1


def brute_ap(scores, labels):
    """Average precision by its definition, one threshold after the other."""
    value = 0.0
    for threshold in np.unique(scores[labels])[::-1]:
        chosen = scores >= threshold
        value += (labels & (scores == threshold)).sum() * labels[chosen].mean()
    return value / labels.sum()


def test_an_interval_and_its_p(reported):
    """The bootstrap with rows repeated as drawn, class by class."""
    cell = ("Natural sounds", "features", "pel", "ol")
    (row,) = (
        row
        for row in read_csv(reported / "report" / "table4.csv")
        if (row["root"], row["method"], row["base_labeling"], row["labeling"]) == cell
    )
    pairs = [
        [read_scores(reported, *cell[:2], base, "ol", seed) for base in ("pel", "ol")]
        for seed in SEEDS
    ]
    labels = pairs[0][0]["labels"]
    draws = np.random.default_rng(0).integers(len(labels), size=(2000, len(labels)))
    differences = []
    for rows in draws[:150]:  # the others by the same way; these suffice to pin the way down
        columns = np.flatnonzero(labels[rows].any(axis=0))
        maps = [
            [
                np.mean([brute_ap(run["scores"][rows, c], labels[rows, c]) for c in columns])
                for run in pair
            ]
            for pair in pairs
        ]
        differences.append(np.mean([first - second for first, second in maps]))
    ours = np.mean(
        [
            np.subtract(
                *(bootstrap_map(run["scores"], run["labels"], run["masked"]) for run in pair)
            )
            for pair in pairs
        ],
        axis=0,
    )
    np.testing.assert_allclose(ours[:150], differences, atol=1e-12)
    assert float(row["low"]) == near(np.percentile(ours, 2.5))
    assert float(row["high"]) == near(np.percentile(ours, 97.5))
    tail = min((ours <= 0).sum(), (ours >= 0).sum())
    assert float(row["p"]) == near(min(1, 2 * (tail + 1) / 2001))


def test_correction_and_wins(reported):
    results = json.loads((reported / "report" / "results.json").read_text())
    halves = {"features": ["features"], "finetune": ["scratch", "finetune"]}
    for half, methods in halves.items():
        of_half = [row for row in results["table4"] if row["method"] in methods]
        compared = [row for row in of_half if row["p"] is not None]
        assert len(compared) == {"features": 12, "finetune": 18 - 1}[half]
        for row in compared:  # by the definition: the largest of those at or before it
            steps = [
                (sum(other["p"] >= one["p"] for other in compared)) * one["p"]
                for one in compared
                if one["p"] <= row["p"]
            ]
            assert row["p_holm"] == near(min(1, max(steps)))
        for win in results["wins"]:
            if win["method"] == half:
                gains = [
                    row["difference"] > 0
                    for row in compared
                    if row["base_labeling"] == win["base_labeling"]
                ]
                assert (win["wins"], win["comparisons"]) == (sum(gains), len(gains))
                for field, sign in (("significant_wins", 1), ("significant_losses", -1)):
                    assert win[field] == sum(
                        row["p_holm"] < 0.05 and sign * row["difference"] > 0
                        for row in compared
                        if row["base_labeling"] == win["base_labeling"]
                    )
    # The scores were made so that the bases with masked labels are better by far.
    wins = {(win["method"], win["base_labeling"]): win["wins"] for win in results["wins"]}
    assert wins["features", "pe_cml"] == wins["finetune", "pe_cml"] == 6


def test_counts(reported):
    rows = read_csv(reported / "report" / "table1.csv")
    clips = {(row["root"], row["side"]): row["clips"] for row in rows}
    for row in rows:
        if row["root"] not in ROOTS:  # was not run: the paper's row alone
            assert (row["clips"], row["labels"], row["share_percent"]) == ("", "", "")
            assert (row["paper_clips"], row["paper_labels"]) == ("27329", "176")
            continue
        method = "base" if row["side"] == "base" else "scratch"
        runs = [
            read_scores(reported, row["root"], method, "", row["labeling"], seed) for seed in SEEDS
        ]
        assert int(row["labels"]) == len(runs[0]["mids"])
        assert int(row["test_clips"]) == len(runs[0]["clip_id"])
        parts = [int(row[f"{split}_clips"]) for split in ("train", "validation", "test")]
        assert int(row["clips"]) == sum(parts)
        assert float(row["labels_per_test_clip"]) == near(
            runs[0]["labels"].sum() / len(runs[0]["labels"])
        )
        assert float(row["masked_per_test_clip"]) == near(
            runs[0]["masked"].sum() / len(runs[0]["labels"])
        )
        assert int(clips[row["root"], "base"]) + int(clips[row["root"], "target"]) == 500
        assert float(row["share_percent"]) == near(int(row["clips"]) / 5)
        (other,) = (
            int(each["labels"])
            for each in rows
            if (each["root"], each["labeling"]) == (row["root"], row["labeling"])
            and each["side"] != row["side"]
        )
        percent = 100 * int(row["labels"]) / (int(row["labels"]) + other)
        assert float(row["labels_percent"]) == near(percent)
        expected = {
            "Human sounds": ("35644", "35", "72", "14"),
            "Natural sounds": ("3168", "3", "18", "3"),
        }[row["root"]]
        is_papers = (row["side"], row["labeling"]) == ("target", "ol")
        fields = ("clips", "share_percent", "labels", "labels_percent")
        found = tuple(row[f"paper_{field}"] for field in fields)
        assert found == (expected if is_papers else ("",) * 4)
    assert len(rows) == 2 * 2 * 3 + 1


def test_bases(reported):
    rows = read_csv(reported / "report" / "table3.csv")
    assert len(rows) == 3 * 3
    paper = {"ol": 0.361, "pel": 0.497, "pe_cml": 0.562}
    for row in rows:
        if row["root"] not in ROOTS:
            assert (row["seeds"], row["mAP"], row["minus_paper"]) == ("0", "", "")
            continue
        runs = [
            read_scores(reported, row["root"], "base", "", row["labeling"], seed) for seed in SEEDS
        ]
        means = [expected_map(run) for run in runs]
        assert int(row["seeds"]) == len(SEEDS)
        assert float(row["mAP"]) == near(np.mean(means))
        assert float(row["mAP_sd"]) == near(np.std(means, ddof=1))
        if row["root"] == "Human sounds":
            assert float(row["paper"]) == paper[row["labeling"]]
            assert float(row["minus_paper"]) == near(np.mean(means) - paper[row["labeling"]])


def test_curves_and_metrics(reported):
    results = json.loads((reported / "report" / "results.json").read_text())
    assert len(results["curves"]) == len(results["runs"]) == 2 * 2 * (3 + 21) - 2
    for curve in results["curves"]:
        assert curve["epoch"] == [1, 2, 3]
        assert curve["validation_mAP"] == near([0.3, 0.4, 0.3])
    for run in results["runs"]:
        keys = ("root", "method", "base_labeling", "labeling", "seed")
        scores = read_scores(reported, *(run[key] for key in keys))
        assert run["mAP"] == near(expected_map(scores))


def test_classes(reported):
    results = json.loads((reported / "report" / "results.json").read_text())
    for group in results["classes"]:
        for base, values in group["average_precision"].items():
            cell = (group["root"], group["method"], base, group["labeling"])
            runs = [read_scores(reported, *cell, seed) for seed in SEEDS]
            assert list(runs[0]["mids"]) == group["mids"]
            arrays = [(run["scores"], run["labels"], run["masked"]) for run in runs]
            expected = np.mean([expected_ap(*run) for run in arrays], axis=0)
            np.testing.assert_allclose(np.array(values, float), expected, atol=1e-9)
            known = runs[0]["labels"] & ~runs[0]["masked"]
            assert group["positives"] == known.sum(axis=0).tolist()


def test_the_tables_are_those_of_the_json(reported):
    results = json.loads((reported / "report" / "results.json").read_text())
    for name in TABLES:
        rows = read_csv(reported / "report" / f"{name}.csv")
        as_text = [
            {key: "" if value is None else str(value) for key, value in row.items()}
            for row in results[name]
        ]
        assert rows == as_text


def test_again_to_the_same_bytes(reported, tmp_path):
    shutil.copytree(reported, tmp_path / "W")
    shutil.rmtree(tmp_path / "W" / "report")
    main([f"--workdir={tmp_path / 'W'}", f"--truth={reported / 'truth.csv'}"])
    for name in (*(f"{name}.csv" for name in TABLES), "results.json", "index.html"):
        first = (reported / "report" / name).read_bytes()
        assert (tmp_path / "W" / "report" / name).read_bytes() == first
