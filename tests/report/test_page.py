"""The report's page in a browser."""

import json
import shutil

import pytest
from browser import (
    LAYOUTS,
    VIEWS,
    View,
    check_accessibility,
    check_layout,
    open_page,
    set_scheme,
    wait_for,
)
from grid_of_runs import read_csv

from relabel_jax.labels.ontology import Ontology
from relabel_jax.report.__main__ import main
from relabel_jax.report.page import page
from relabel_jax.report.write import PAPER_TABLES

pytestmark = pytest.mark.slow


DRAWN = "return document.querySelectorAll('#tree .slice').length > 5"
HALVES = ("table4-features", "table4-finetune")
CELL = "return document.querySelector(`td[data-key='${arguments[0]}']`)?.innerText"


@pytest.fixture(scope="session")
def with_the_paper(grid_folder, tmp_path_factory):
    """The report beside figures of a paper, made up for this test."""
    folder = tmp_path_factory.mktemp("paper") / "W"
    shutil.copytree(grid_folder, folder)
    paper = json.loads(PAPER_TABLES.read_text())
    paper["table1"]["Human sounds"]["clips"] = 4321
    paper["table3"]["Human sounds"]["pel"] = 0.625
    paper["table4"]["features"]["Human sounds"]["ol"] = {"ol": 0.25, "pel": 0.5, "pe_cml": 0.375}
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

    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["http://*", "https://*"]})
    open_page(browser, (with_the_paper / "report" / "index.html").as_uri(), View(width, "light"))
    wait_for(browser, DRAWN)

    for name in ("table3", "table4"):
        for row in read_csv(with_the_paper / "report" / f"{name}.csv"):
            fields = [row["root"], row["labeling"], row.get("method", "base")]
            key = "/".join([*fields, row.get("base_labeling", "")])
            shown = browser.execute_script(CELL, key)
            if row["root"] == "Sounds of things":  # was not run
                assert shown is None
                continue
            assert shown.startswith(f"{float(row['mAP']):.4f}" if row["mAP"] else "–"), key
            if row.get("difference"):
                signed = [
                    f"{float(row[f]):+.4f}".replace("-", "−") for f in ("difference", "low", "high")
                ]
                assert signed[0] in shown
                assert f"[{signed[1]}, {signed[2]}]" in shown
            assert f"paper {float(row['paper']):.3f}" in shown
    for name, labels in (("table3", ""), *((half, " (OL, PEL, PE-CML labels)") for half in HALVES)):
        empty = browser.find_element(By.ID, f"{name}-empty").text
        assert empty == f"No results: Sounds of things{labels}."
    assert "paper 4,321 (35%)" in browser.find_element(By.ID, "table1").text
    Select(browser.find_element(By.ID, "scored")).select_by_value("truth")
    (row,) = (
        row
        for row in read_csv(with_the_paper / "report" / "table4.csv")
        if row["method"] == "finetune"
        and (row["root"], row["base_labeling"], row["labeling"]) == ("Natural sounds", "pel", "ol")
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
    # The plots are drawn again when the theme changes.
    set_scheme(browser, "dark")
    wait_for(browser, "return document.getElementById('gains').layout.font.color === '#9aa1a8'")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_layout(with_the_paper, browser):
    """Nothing is cut off, Tables III and IV show all columns, and no interval covers another."""
    for view in LAYOUTS:
        open_page(browser, (with_the_paper / "report" / "index.html").as_uri(), view)
        wait_for(browser, DRAWN)
        check_layout(browser, view)
        for table in ("table3", *HALVES):
            box = f"document.getElementById('{table}').parentElement"
            assert browser.execute_script(f"return {box}.scrollWidth <= {box}.clientWidth"), view
        hint = "return document.querySelector('.scroll:has(#table1)').previousElementSibling.hidden"
        wait_for(browser, hint + (" === true" if view.width > 1000 else " === false"))
        ticks = "return [...document.querySelectorAll('#curves .xtick text')]"
        ticks += ".map((tick) => tick.textContent)"
        assert browser.execute_script(ticks) == ["1", "2", "3"]
        lines = "return document.getElementById('gains').data"
        lines += ".filter((trace) => trace.error_x?.array).flatMap((trace) => trace.y)"
        heights = browser.execute_script(lines)
        assert len(set(heights)) == len(heights) == 12 + 11


def test_accessibility(with_the_paper, browser, axe):
    for view in VIEWS:
        open_page(browser, (with_the_paper / "report" / "index.html").as_uri(), view)
        wait_for(browser, DRAWN)
        check_accessibility(browser, axe, view)


@pytest.mark.parametrize(
    ("gains", "losses", "headline"),
    [
        (0, 0, "No re-labelled base differs from the original one beyond chance"),
        (1, 0, "Re-labelled bases transfer better in 4 of 23 comparisons, beyond chance"),
        (0, 1, "Re-labelled bases transfer worse in 4 of 23 comparisons, beyond chance"),
        (1, 2, "Re-labelled bases transfer better in 4 and worse in 8 of 23 comparisons, beyond"),
    ],
)
def test_the_headline_says_what_is_beyond_chance(
    reported, browser, tmp_path, gains, losses, headline
):
    report = json.loads((reported / "report" / "results.json").read_text())
    for win in report["wins"]:
        win |= {"significant_wins": gains, "significant_losses": losses}
    html = page(report, Ontology.from_json(reported / "ontology.json"))
    (tmp_path / "index.html").write_text(html)
    browser.get((tmp_path / "index.html").as_uri())
    assert browser.find_element("id", "headline").text.replace("\n", " ").startswith(headline)


def test_the_page_needs_nothing_else(reported):
    text = (reported / "report" / "index.html").read_text()
    for piece in ('<script src="', "<link", "/*DATA*/", "/*PLOTLY*/"):
        assert piece not in text
