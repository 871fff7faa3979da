"""Runs and files that cannot be used are left out or refused, in one line."""

import json
import re
import shutil

import numpy as np
import pytest
from grid_of_runs import CONFIG, ROOTS, TABLES

from relabel_jax.report.__main__ import main
from relabel_jax.report.write import PAPER_TABLES

pytestmark = pytest.mark.slow


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
        (
            lambda folder: (folder / "result.json").write_text("[]"),
            "expected an object\\); delete it",
        ),
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
            {"config": CONFIG | {"num_epochs": 30}},
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
    (row,) = (row for row in results["table4"] if row["seeds"])
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
    "case",
    ["data set", "ontology", "truth", "truth of the grid", "grid", "paper", "half", "figure"],
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
        (folder / "grid.json").write_text(json.dumps({"config": CONFIG | {"truth": "gone.csv"}}))
    if case == "grid":
        (folder / "grid.json").write_text("[]")
    if case == "truth":
        (tmp_path / "truth.csv").write_text('other, 0.000, 10.000, "/m/1"\n')
        flags = [f"--truth={tmp_path / 'truth.csv'}"]
    if case == "paper":
        (tmp_path / "paper.json").write_text("{}")
        flags = [f"--paper={tmp_path / 'paper.json'}"]
    if case == "half":
        paper = json.loads(PAPER_TABLES.read_text())
        del paper["table4"]["finetune"]
        (tmp_path / "paper.json").write_text(json.dumps(paper))
        flags = [f"--paper={tmp_path / 'paper.json'}"]
    if case == "figure":
        paper = json.loads(PAPER_TABLES.read_text())
        paper["table4"]["features"]["Human sounds"]["ol"]["pel"] = "0.31"
        (tmp_path / "paper.json").write_text(json.dumps(paper))
        flags = [f"--paper={tmp_path / 'paper.json'}"]
    assert main([f"--workdir={folder}", *flags]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    expected = {
        "data set": "are runs on different data sets",
        "ontology": "ontology.json: does not exist",
        "truth": "the truth has no row for the test clip 'clip",
        "truth of the grid": "--truth=CSV gives another, --truth= none",
        "grid": "is damaged or of an older version (expected an object); delete grid.json "
        "and run the grid again, which keeps its finished runs",
        "paper": "has no 'table1'",
        "half": "table4: has no 'finetune'; keep to the form of paper_tables.json",
        "figure": "table4, 'features', 'Human sounds', 'ol': 'pel' is '0.31', expected a number",
    }
    assert error.startswith("error: ")
    assert expected[case] in error
