"""The report's page in a browser."""

import json
import shutil

import pytest
from browser import wait_for
from grid_of_runs import read_csv

from relabel_jax.report.__main__ import main
from relabel_jax.report.write import PAPER_TABLES

pytestmark = pytest.mark.slow


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
