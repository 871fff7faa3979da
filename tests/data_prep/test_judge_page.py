"""The judge's page in a real browser."""

import pathlib

import pytest
from browser import LAYOUTS, VIEWS, View, check_accessibility, check_layout, open_page, wait_for
from judging import write_toy

from data_prep.judge import main

pytestmark = pytest.mark.slow
NAMED = "return document.querySelector('#edges .annotation-text')"
CLASSES = (
    "return [...document.querySelectorAll('#classes tbody td:first-child')]"
    ".map((e) => e.textContent)"
)


@pytest.fixture(scope="module")
def page(segments_sample, tmp_path_factory) -> pathlib.Path:
    """The page about 300 of AudioSet's segments; the reference moves each clip's labels by one."""
    folder = tmp_path_factory.mktemp("judge")
    rows = [line.split(", ", 3) for line in segments_sample.read_text().splitlines()[3:]]
    labels = [row[3].strip('"') for row in rows]
    text = "".join(
        f'{row[0]}, {row[1]}, {row[2]}, "{mids},{other}"\n'
        for row, mids, other in zip(rows, labels, labels[1:] + labels[:1], strict=True)
    )
    (folder / "truth.csv").write_text(text)
    flags = [f"--segments={segments_sample}", f"--against={folder / 'truth.csv'}"]
    assert main([*flags, "--replicates=50", f"--output_dir={folder}"]) == 0
    return folder / "judge.html"


def test_the_page_needs_nothing_else(page):
    text = page.read_text()
    assert '<script src="' not in text
    assert "<link" not in text
    assert "/*DATA*/" not in text
    assert "/*INCLUDE" not in text


def test_classes_are_searched(page, browser):
    """The search stays when another labeling is chosen."""
    open_page(browser, page.as_uri(), View(1400, "light"))
    wait_for(browser, NAMED)
    browser.find_element("id", "search").send_keys("guitar")
    found = browser.execute_script(CLASSES)
    assert "Guitar" in found
    assert all("guitar" in name.lower() for name in found)
    labeling = browser.find_element("id", "labeling")
    assert labeling.get_attribute("value") == "pe_cml"
    labeling.send_keys("OL")
    wait_for(browser, "return document.getElementById('labeling').value === 'ol'")
    assert browser.execute_script(CLASSES) == found


def test_layout(page, browser):
    for view in LAYOUTS:
        open_page(browser, page.as_uri(), view)
        wait_for(browser, NAMED)
        check_layout(browser, view)


def test_accessibility(page, browser, axe):
    for view in VIEWS:
        open_page(browser, page.as_uri(), view)
        wait_for(browser, NAMED)
        check_accessibility(browser, axe, view)


@pytest.mark.parametrize("labelings", ["ol", "pe_cml"])
def test_a_page_about_very_little(tmp_path, browser, labelings):
    """Plots without data say so, and names with markup are shown as they are."""
    flags = [*write_toy(tmp_path), f"--against={tmp_path / 'truth.csv'}"]
    assert main([*flags, f"--labelings={labelings}", f"--output_dir={tmp_path / 'judge'}"]) == 0
    browser.get((tmp_path / "judge/judge.html").as_uri())
    wait_for(browser, "return document.querySelectorAll('#both .point').length === 2")
    assert "<Hum>" in browser.execute_script(CLASSES)
    masked = browser.execute_script("return document.getElementById('masked').textContent")
    assert ("No labeling masks entries." in masked) == (labelings == "ol")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
