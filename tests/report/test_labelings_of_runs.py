"""Labelings beyond the paper's: the tables and the page show those that the runs have."""

import json
import shutil

import pytest
from browser import LAYOUTS, check_layout, open_page, wait_for
from grid_of_runs import ROOTS, read_csv

from relabel_jax.labels.labelings import LABELINGS, in_order
from relabel_jax.report.__main__ import main

TEACHER = "a_teacher_with_a_long_name"


def test_the_order():
    assert in_order(["b", "pe_cml", "a", "ol", "b", "entailed"]) == (
        "ol",
        "pe_cml",
        "entailed",
        "a",
        "b",
    )
    assert in_order(reversed(LABELINGS)) == LABELINGS


@pytest.fixture(scope="module")
def with_more(grid_folder, tmp_path_factory):
    """Runs of one root and seed: bases and transfers with `hlp` and a labeling from a file.

    They are copies of runs with PEL, so that every figure is known.
    """
    folder = tmp_path_factory.mktemp("more") / "W"
    (folder / ROOTS[1]).mkdir(parents=True)
    shutil.copy(grid_folder / "ontology.json", folder)
    names = {"pel": ("pel", "hlp", TEACHER)}
    for path in (grid_folder / ROOTS[1]).glob("*_0"):
        shutil.copytree(path, folder / ROOTS[1] / path.name)
        result = json.loads((path / "result.json").read_text())
        for base in names.get(result["base_labeling"], (result["base_labeling"],)):
            for labeling in names.get(result["labeling"], (result["labeling"],)):
                changed = result | {"base_labeling": base, "labeling": labeling}
                if changed != result:
                    name = f"{result['method']}_{base}_{labeling}_0"
                    copied = shutil.copytree(path, folder / ROOTS[1] / name)
                    (copied / "result.json").write_text(json.dumps(changed))
    assert main([f"--workdir={folder}"]) == 0
    return folder


@pytest.mark.slow
def test_tables(with_more):
    results = json.loads((with_more / "report" / "results.json").read_text())
    order = ["ol", "pel", "pe_cml", "hlp", TEACHER]
    assert results["labelings"] == order
    bases = read_csv(with_more / "report" / "table3.csv")
    assert [row["labeling"] for row in bases] == order
    assert bases[3]["mAP"] == bases[4]["mAP"] == bases[1]["mAP"]
    assert [bool(row["paper"]) for row in bases] == [True] * 3 + [False] * 2
    rows = read_csv(with_more / "report" / "table4.csv")
    assert len(rows) == 5 * 5 + 5 * 6
    figures = {(row["method"], row["labeling"], row["base_labeling"]): row for row in rows}
    for method in ("features", "finetune"):
        for new in ("hlp", TEACHER):
            one, other = figures[method, "ol", new], figures[method, "ol", "pel"]
            for field in ("mAP", "difference", "low", "high", "p", "mAP_on_pel"):
                assert one[field] == other[field] != ""
            assert one[f"mAP_on_{new}"] == one["mAP_on_pel"]
            assert (one["paper"], other["paper"] != "") == ("", True)
    assert {(win["method"], win["base_labeling"]) for win in results["wins"]} == {
        (method, base) for method in ("features", "finetune") for base in order[1:]
    }
    (classes,) = (
        group
        for group in results["classes"]
        if (group["method"], group["labeling"]) == ("features", TEACHER)
    )
    assert list(classes["average_precision"]) == order


@pytest.mark.slow
def test_page(with_more, browser):
    """All columns and colours; nothing is cut off, and the page does not scroll sideways."""
    for view in LAYOUTS:
        open_page(browser, (with_more / "report" / "index.html").as_uri(), view)
        wait_for(browser, "return document.querySelectorAll('#tree .slice').length > 5")
        check_layout(browser, view)
    heads = "return [...document.querySelectorAll('#table3 thead th')].map((th) => th.textContent)"
    titles = ["OL", "PEL", "PE-CML", "HLP", TEACHER]
    assert browser.execute_script(heads) == ["Root", *(f"{title} labels" for title in titles)]
    traces = "return document.getElementById('classes').data.map((t) => [t.name, t.marker.color])"
    names, colours = zip(*browser.execute_script(traces), strict=True)
    assert list(names) == [f"{title} base" for title in titles[1:]]
    assert len(set(colours)) == 4
    offered = "return [...document.getElementById('scored').options].map((o) => o.textContent)"
    assert browser.execute_script(offered) == [
        "its own labels",
        *(f"{title} labels" for title in titles),
    ]
