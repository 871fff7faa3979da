"""The report of a grid's folders: every number again by scikit-learn and NumPy, and the page."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from data_prep import miniature
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import make_view
from relabel_jax.report.__main__ import main
from relabel_jax.report.write import PAPER_TABLES

ROOTS = ("Human sounds", "Natural sounds")
SEEDS = (0, 1)
TABLES = ("table1", "table3", "table4")


def write_run(workdir, view, clip_ids, ontology, facts, generator):
    """A run folder as training leaves it, with scores that know something of the labels."""
    in_set = view.label_set
    labels, masked = view.labels["test"][:, in_set], view.masked["test"][:, in_set]
    skill = 0.5 if facts["base_labeling"] == "pe_cml" else 0.2
    scores = skill * labels + (1 - skill) * generator.random(labels.shape)
    scores = np.round(scores, 2).astype(np.float32)  # with ties
    mids = np.array(ontology.mids)[view.columns[in_set]]
    aps = expected_ap(scores, labels, masked)
    aucs = [
        roc_auc_score(labels[known, i], scores[known, i])
        for i, known in enumerate(~masked.T)
        if 0 < labels[known, i].sum() < known.sum()
    ]
    result = facts | {
        "test": {"mAP": np.nanmean(aps), "mean_auc": np.mean(aucs), "d_prime": None},
        "best_epoch": 2,
        "root_mid": ontology.mids[ontology.find(facts["root"])],
        "num_clips": {split: len(rows) for split, rows in view.rows.items()},
        "num_labels": int(in_set.sum()),
        "data_set": "0123",
        "config": {"data_dir": "nowhere", "num_epochs": 3},
    }
    workdir.mkdir(parents=True)
    (workdir / "result.json").write_text(json.dumps(result))
    lines = [
        {"epoch": e, "train_loss": 1 / e, "validation_mAP": 0.1 * e * (4 - e)} for e in (1, 2, 3)
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez_compressed(
        workdir / "test_scores.npz",
        clip_id=clip_ids[view.rows["test"]],
        **{"mids": mids, "scores": scores, "labels": labels, "masked": masked},
    )


def expected_ap(scores, labels, masked):
    return np.array(
        [
            average_precision_score(labels[known, i], scores[known, i])
            if labels[known, i].any()
            else np.nan
            for i, known in enumerate(~masked.T)
        ]
    )


@pytest.fixture(scope="session")
def grid_folder(tmp_path_factory):
    """Two roots, two seeds, all cells but one, of 500 clips labelled by chance; and the truth."""
    folder = tmp_path_factory.mktemp("grid")
    miniature.build(miniature.MiniatureSpec(num_clips=1), folder / "mini", num_workers=1)
    shutil.copy(folder / "mini" / "ontology.json", folder / "ontology.json")
    ontology = Ontology.from_json(folder / "ontology.json")
    generator = np.random.default_rng(0)
    offered = ~ontology.is_abstract & ~ontology.is_blacklisted
    labels = (generator.random((500, len(ontology))) < 0.03) & offered
    clip_ids = np.array([f"clip{i:03}" for i in range(500)])
    splits = np.repeat([0, 1, 2], [300, 50, 150]).astype(np.int8)
    for root in ROOTS:
        cells = [("base", "", labeling) for labeling in LABELINGS]
        for labeling in LABELINGS:
            cells += [(m, base, labeling) for m in ("features", "finetune") for base in LABELINGS]
            cells.append(("scratch", "", labeling))
        for method, base, labeling in cells:
            side = "base" if method == "base" else "target"
            view = make_view(
                ontology,
                labels,
                splits,
                root=ontology.find(root),
                **{"side": side, "labeling": labeling},
            )
            for seed in SEEDS:
                facts = {
                    **{"root": root, "side": side, "method": method, "base_labeling": base},
                    **{"labeling": labeling, "seed": seed},
                }
                name = f"{method}_{base}_{labeling}_{seed}"
                write_run(folder / root / name, view, clip_ids, ontology, facts, generator)
    shutil.rmtree(folder / "Human sounds" / "finetune_pel_ol_0")
    shutil.rmtree(folder / "Human sounds" / "finetune_pel_ol_1")
    is_true = labels | (generator.random(labels.shape) < 0.1)
    rows = [
        f'{clip_id}, 0.000, 10.000, "{",".join(np.array(ontology.mids)[row])}"'
        for clip_id, row in zip(clip_ids, is_true, strict=True)
    ]
    (folder / "truth.csv").write_text("# a\n# b\n# c\n" + "\n".join(rows) + "\n")
    description = {
        "roots": [*ROOTS, "Sounds of things"],
        "problems": ["root 'Sounds of things': the data set has no test clip <there>"],
        "command": "python -m relabel_jax.main --config=<configs/paper.py>",
        "versions": {"jax": "1.2.3"},
        "hardware": {"processor": "abacus"},
        "config": {},
    }
    (folder / "grid.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="session")
def reported(grid_folder, tmp_path_factory):
    """The folder with its report."""
    folder = tmp_path_factory.mktemp("reported") / "W"
    shutil.copytree(grid_folder, folder)
    assert main([f"--workdir={folder}", f"--truth={folder / 'truth.csv'}"]) == 1  # one was left out
    return folder


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_scores(folder, root, method, base, labeling, seed):
    with np.load(folder / root / f"{method}_{base}_{labeling}_{seed}" / "test_scores.npz") as file:
        return {name: file[name] for name in file.files}


def expected_map(scores, columns=slice(None), labels=None, masked=None):
    labels = scores["labels"][:, columns] if labels is None else labels
    masked = scores["masked"][:, columns] if masked is None else masked
    return np.nanmean(expected_ap(scores["scores"][:, columns], labels, masked))


def near(value):
    return pytest.approx(value, abs=1e-9)


def test_every_mean_and_difference(reported):
    truth = {}
    for line in (reported / "truth.csv").read_text().splitlines()[3:]:
        clip_id, _, _, mids = line.split(", ")
        truth[clip_id] = set(mids.strip('"').split(","))
    checked = 0
    for table in ("table3", "table4"):
        for row in read_csv(reported / "report" / f"{table}.csv"):
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
                method = "features" if table == "table3" else "finetune"
                others = [
                    read_scores(reported, row["root"], method, "ol", row["labeling"], seed)
                    for seed in SEEDS
                ]
                gain = np.mean(means) - np.mean([expected_map(other) for other in others])
                assert float(row["difference"]) == near(gain)
                assert float(row["low"]) <= gain <= float(row["high"])
            for form in LABELINGS:
                other = read_scores(reported, row["root"], "scratch", "", form, 0)
                both = sorted(set(other["mids"]) & set(runs[0]["mids"]))
                ours = [list(runs[0]["mids"]).index(mid) for mid in both]
                theirs = [list(other["mids"]).index(mid) for mid in both]
                labels, masked = other["labels"][:, theirs], other["masked"][:, theirs]
                values = [expected_map(run, ours, labels, masked) for run in runs]
                assert float(row[f"mAP_on_{form}"]) == near(np.mean(values))
            labels = [
                [mid in truth[clip] for mid in runs[0]["mids"]] for clip in runs[0]["clip_id"]
            ]
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
        for row in read_csv(reported / "report" / "table3.csv")
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
    from relabel_jax.report.statistics import bootstrap_map

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
    for table in ("table3", "table4"):
        compared = [row for row in results[table] if row["p"] is not None]
        assert len(compared) == {"table3": 12, "table4": 18 - 1}[table]
        for row in compared:  # by the definition: the largest of those at or before it
            steps = [
                (sum(other["p"] >= one["p"] for other in compared)) * one["p"]
                for one in compared
                if one["p"] <= row["p"]
            ]
            assert row["p_holm"] == near(min(1, max(steps)))
        for win in results["wins"]:
            if win["table"] == table:
                gains = [
                    row["difference"] > 0
                    for row in compared
                    if row["base_labeling"] == win["base_labeling"]
                ]
                assert (win["wins"], win["comparisons"]) == (sum(gains), len(gains))
    # The scores were made so that the bases with masked labels are better by far.
    wins = {(win["table"], win["base_labeling"]): win["wins"] for win in results["wins"]}
    assert wins["table3", "pe_cml"] == wins["table4", "pe_cml"] == 6


def test_counts_and_curves(reported):
    for row in read_csv(reported / "report" / "table1.csv"):
        method = "base" if row["side"] == "base" else "scratch"
        runs = [
            read_scores(reported, row["root"], method, "", row["labeling"], seed) for seed in SEEDS
        ]
        assert int(row["labels"]) == len(runs[0]["mids"])
        assert int(row["test_clips"]) == len(runs[0]["clip_id"])
        assert float(row["labels_per_test_clip"]) == near(
            runs[0]["labels"].sum() / len(runs[0]["labels"])
        )
        assert float(row["masked_per_test_clip"]) == near(
            runs[0]["masked"].sum() / len(runs[0]["labels"])
        )
        if row["side"] == "base":
            assert float(row["mAP"]) == near(np.mean([expected_map(run) for run in runs]))
        expected = {"Human sounds": "72", "Natural sounds": "18"}[row["root"]]
        is_papers = (row["side"], row["labeling"]) == ("target", "ol")
        assert row["paper_labels"] == (expected if is_papers else "")
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


def damage_scores(folder):
    path = folder / "test_scores.npz"
    path.write_bytes(path.read_bytes()[:-200])


def other_scores(folder):
    with np.load(folder / "test_scores.npz") as file:
        arrays = dict(file)
    arrays["scores"] = 1 - arrays["scores"]
    np.savez(folder / "test_scores.npz", **arrays)


def change_result(**fields):
    def change(folder):
        result = json.loads((folder / "result.json").read_text()) | fields
        (folder / "result.json").write_text(
            json.dumps({key: value for key, value in result.items() if value is not None})
        )

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_scores, "test_scores.npz: cannot read it"),
        (lambda folder: (folder / "test_scores.npz").unlink(), "test_scores.npz: cannot read it"),
        (other_scores, "but result.json says"),
        (change_result(base_labeling=None), "no field 'base_labeling'.*older version"),
        (change_result(seed="0"), "no field 'seed' of type int"),
        (lambda folder: (folder / "result.json").write_text("{"), "cannot read it"),
        (lambda folder: (folder / "result.json").write_text("[]"), "has no field 'root'"),
        (lambda folder: (folder / "metrics.jsonl").write_text('{"epoch": 1}\n'), "metrics.jsonl"),
        (lambda folder: (folder / "metrics.jsonl").unlink(), "metrics.jsonl: cannot read it"),
        (lambda folder: shutil.copytree(folder, folder.with_name("x")), "is the same run as"),
    ],
)
def test_damaged_results(grid_folder, tmp_path, capsys, damage, message):
    """One run is left out and said to be; the rest is reported."""
    folder = tmp_path / "W"
    for name in ("features_ol_ol_0", "features_pel_ol_0", "scratch__ol_0"):
        shutil.copytree(grid_folder / ROOTS[0] / name, folder / ROOTS[0] / name)
    shutil.copy(grid_folder / "ontology.json", folder)
    damage(folder / ROOTS[0] / "features_pel_ol_0")
    assert main([f"--workdir={folder}"]) == 1
    error = capsys.readouterr().err
    (line,) = (line for line in error.splitlines() if line.startswith("left out"))
    assert re.search(message, line)
    results = json.loads((folder / "report" / "results.json").read_text())
    assert len(results["problems"]) == 1
    assert len(results["runs"]) == (3 if "same run" in message else 2)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        (
            {"config": {"data_dir": "nowhere", "num_epochs": 30}},
            "features_pel_ol_0: has config.num_epochs 30, .*features_ol_ol_0 has 3; what the",
        ),
        (
            {"precision": "bf16"},
            "features_pel_ol_0: has precision bf16, .*features_ol_ol_0 has f32",
        ),
        ({"precision": "f32"}, ""),
        ({}, ""),  # an older result
    ],
)
def test_runs_of_another_recipe_are_named_and_used(grid_folder, tmp_path, capsys, fields, note):
    folder = tmp_path / "W"
    for name in ("features_ol_ol_0", "features_pel_ol_0"):
        shutil.copytree(grid_folder / ROOTS[0] / name, folder / name)
    shutil.copy(grid_folder / "ontology.json", folder)
    change_result(precision="f32")(folder / "features_ol_ol_0")
    change_result(**fields)(folder / "features_pel_ol_0")
    assert main([f"--workdir={folder}"]) == 0
    notes = [x for x in capsys.readouterr().err.splitlines() if x.startswith("note: ")]
    assert len(notes) == bool(note)
    assert all(re.search(note, line) for line in notes)
    results = json.loads((folder / "report" / "results.json").read_text())
    assert (len(results["runs"]), len(results["problems"])) == (2, 0)


def test_seeds_without_a_positive_test_clip(grid_folder, tmp_path):
    """Their mAP is undefined, and so is its spread."""
    folder = tmp_path / "W"
    for name in ("features_ol_ol_0", "features_ol_ol_1"):
        shutil.copytree(grid_folder / ROOTS[0] / name, folder / name)
        with np.load(folder / name / "test_scores.npz") as file:
            arrays = dict(file)
        np.savez(folder / name / "test_scores.npz", **arrays | {"labels": arrays["labels"] & False})
        change_result(test={"mAP": None, "mean_auc": None, "d_prime": None})(folder / name)
    shutil.copy(grid_folder / "ontology.json", folder)
    assert main([f"--workdir={folder}"]) == 0
    results = json.loads((folder / "report" / "results.json").read_text())
    (row,) = (row for row in results["table3"] if row["seeds"])
    assert (row["seeds"], row["mAP"], row["mAP_sd"]) == (2, None, None)


def test_a_grid_reports_its_own_runs(reported, grid_folder, tmp_path):
    """On its truth, and not what else lies in its workdir."""
    folder = tmp_path / "W"
    shutil.copytree(grid_folder, folder)
    shutil.copytree(folder / ROOTS[0] / "features_ol_ol_0", folder / "base")
    description = json.loads((folder / "grid.json").read_text())
    description["config"]["truth"] = str(folder / "truth.csv")
    (folder / "grid.json").write_text(json.dumps(description))
    main([f"--workdir={folder}"])
    for name in TABLES:
        expected = (reported / "report" / f"{name}.csv").read_bytes()
        assert (folder / "report" / f"{name}.csv").read_bytes() == expected


@pytest.mark.parametrize(
    ("prepare", "flags", "message"),
    [
        (lambda folder: None, [], "no run is finished yet"),
        (lambda folder: folder.rmdir(), [], "does not exist"),
        (lambda folder: (folder / "result.json").write_text("{}"), [], "1 cannot be used; the fir"),
    ],
)
def test_nothing_to_report(tmp_path, capsys, prepare, flags, message):
    folder = tmp_path / "W"
    folder.mkdir()
    prepare(folder)
    assert main([f"--workdir={folder}", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    "case", ["data set", "ontology", "truth", "truth of the grid", "grid", "paper", "figure"]
)
def test_what_does_not_fit(grid_folder, tmp_path, capsys, case):
    folder = tmp_path / "W"
    for name in ("features_ol_ol_0", "features_pel_ol_0"):
        shutil.copytree(grid_folder / ROOTS[0] / name, folder / "a root" / name)
    flags = []
    if case != "ontology":
        shutil.copy(grid_folder / "ontology.json", folder)
    if case == "data set":
        change_result(data_set="4567")(folder / "a root" / "features_ol_ol_0")
    if case == "truth of the grid":
        (folder / "grid.json").write_text('{"config": {"truth": "gone.csv"}}')
    if case == "grid":
        (folder / "grid.json").write_text("[]")
    if case == "truth":
        (tmp_path / "truth.csv").write_text('other, 0.000, 10.000, "/m/1"\n')
        flags = [f"--truth={tmp_path / 'truth.csv'}"]
    if case == "paper":
        (tmp_path / "paper.json").write_text("{}")
        flags = [f"--paper={tmp_path / 'paper.json'}"]
    if case == "figure":
        paper = json.loads(PAPER_TABLES.read_text())
        paper["table3"]["Human sounds"]["ol"]["pel"] = "0.31"
        (tmp_path / "paper.json").write_text(json.dumps(paper))
        flags = [f"--paper={tmp_path / 'paper.json'}"]
    assert main([f"--workdir={folder}", *flags]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    expected = {
        "data set": "are runs on different data sets",
        "ontology": "ontology.json: is not there",
        "truth": "the truth has no row for the test clip 'clip",
        "truth of the grid": "--truth=CSV gives another, --truth= none",
        "grid": "grid.json: is not what a grid writes there",
        "paper": "has no 'table1'",
        "figure": "paper.json: table3, 'Human sounds', 'ol': 'pel' is '0.31', expected a number",
    }
    assert error.startswith("error: ")
    assert expected[case] in error


def wait_for(browser, script, *arguments):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 120).until(lambda d: d.execute_script(script, *arguments))


CELL = "return document.querySelector(`td[data-key='${arguments[0]}']`)?.innerText"


@pytest.fixture(scope="session")
def with_the_paper(grid_folder, tmp_path_factory):
    """The report beside figures of a paper, made up for this test."""
    folder = tmp_path_factory.mktemp("paper") / "W"
    shutil.copytree(grid_folder, folder)
    paper = json.loads(PAPER_TABLES.read_text())
    paper["table1"]["Human sounds"]["target_clips"] = 4321
    paper["table3"]["Human sounds"]["ol"] = {"ol": 0.25, "pel": 0.5, "pe_cml": 0.375}
    (folder / "paper.json").write_text(json.dumps(paper))
    main(
        [
            f"--workdir={folder}",
            f"--truth={folder / 'truth.csv'}",
            f"--paper={folder / 'paper.json'}",
        ]
    )
    return folder


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(with_the_paper, browser, width):
    """The numbers of the CSVs, choices that change what is shown, a click into the treemap."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    browser.get((with_the_paper / "report" / "index.html").as_uri())
    wait_for(browser, "return document.querySelectorAll('#tree .slice').length > 5")

    for name in ("table3", "table4"):
        for row in read_csv(with_the_paper / "report" / f"{name}.csv"):
            key = "/".join(row[f] for f in ("root", "labeling", "method", "base_labeling"))
            shown = browser.execute_script(CELL, key)
            assert shown.startswith(f"{float(row['mAP']):.4f}" if row["mAP"] else "–"), key
            if row["difference"]:
                signed = [
                    f"{float(row[f]):+.4f}".replace("-", "−") for f in ("difference", "low", "high")
                ]
                assert signed[0] in shown
                assert f"[{signed[1]}, {signed[2]}]" in shown
            if row["paper"]:
                assert f"paper {float(row['paper'])}" in shown
    Select(browser.find_element(By.ID, "scored")).select_by_value("truth")
    (row,) = (
        row
        for row in read_csv(with_the_paper / "report" / "table4.csv")
        if (row["root"], row["base_labeling"], row["labeling"]) == ("Natural sounds", "pel", "ol")
    )
    shown = browser.execute_script(CELL, "Natural sounds/ol/finetune/pel")
    assert shown == f"{float(row['mAP_on_truth']):.4f}"

    # Classes: other dots where another root is chosen, with the names of that root's classes.
    names = "return document.getElementById('classes').data.flatMap((t) => t.text).join()"
    assert "Wind" not in browser.execute_script(names)
    Select(browser.find_element(By.ID, "class-root")).select_by_value("Natural sounds")
    assert "<b>Wind</b>" in browser.execute_script(names)
    curves = "return document.getElementById('curves').data.map((t) => [t.name, t.y.length])"
    Select(browser.find_element(By.ID, "curve-method")).select_by_value("base")
    assert sorted(browser.execute_script(curves)) == [
        [name, 3] for name in ("OL", "OL", "PE-CML", "PE-CML", "PEL", "PEL")
    ]
    gains = "return document.getElementById('gains').data.map((t) => t.name)"
    assert "paper, features" in browser.execute_script(gains)

    shown = "[...document.querySelectorAll('#tree text.slicetext')].map((e) => e.textContent)"
    (text,) = [
        text
        for text in browser.find_elements(By.CSS_SELECTOR, "#tree .treemaplayer text.slicetext")
        if text.text == "Natural sounds"
    ]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", text)
    ActionChains(browser).move_to_element(text).click().perform()
    wait_for(browser, f"return !{shown}.includes('Human sounds')")

    body = browser.find_element(By.TAG_NAME, "body").text
    assert "jax: 1.2.3" in body
    assert "--config=<configs/paper.py>" in body
    assert "no test clip <there>" in browser.find_element(By.ID, "problems").text
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= window.innerWidth"
    )
    # Dark: everything is drawn again.
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    wait_for(browser, "return document.getElementById('gains').layout.font.color === '#9aa1a8'")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_page_needs_nothing_else(reported):
    text = (reported / "report" / "index.html").read_text()
    for piece in ('<script src="', "<link", "/*DATA*/", "/*PLOTLY*/"):
        assert piece not in text
