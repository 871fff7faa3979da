"""The audit's command on a toy that can be counted by hand, and its page in a real browser."""

import contextlib
import csv
import json
import pathlib

import pytest
from browser import LAYOUTS, VIEWS, View, check_accessibility, check_layout, open_page, wait_for

from data_prep.audit import main
from relabel_jax.files import written_together
from relabel_jax.labels.ontology import Ontology

pytestmark = pytest.mark.slow

# A toy that can be counted by hand: Water > Rain > Drop, Water > Steam; Hum is blacklisted.
ONTOLOGY = """[
    {"id": "/m/w", "name": "Water", "child_ids": ["/m/r", "/m/s"]},
    {"id": "/m/r", "name": "Rain", "child_ids": ["/m/d"]},
    {"id": "/m/d", "name": "Drop", "child_ids": []},
    {"id": "/m/s", "name": "Steam", "child_ids": []},
    {"id": "/t/h", "name": "<Hum>", "child_ids": ["/m/s"], "restrictions": ["blacklist"]}]"""
SEGMENTS = """a, 0, 1, "/m/w,/m/d"
b, 0, 1, "/m/r"
c, 0, 1, "/m/r,/m/w,/t/h"
d, 0, 1, "/m/s,/t/h"
e, 0, 1, "/m/w"
f, 0, 1, "/m/w"
"""


@pytest.fixture
def toy(tmp_path) -> list[str]:
    (tmp_path / "ontology.json").write_text(ONTOLOGY)
    (tmp_path / "segments.csv").write_text(SEGMENTS)
    return [
        f"--ontology={tmp_path / 'ontology.json'}",
        f"--segments={tmp_path / 'segments.csv'}",
        f"--output_dir={tmp_path / 'audit'}",
    ]


def test_by_hand(toy, tmp_path):
    assert main(toy) == 0
    result = json.loads((tmp_path / "audit/audit.json").read_text())
    classes = {row["name"]: row for row in result["classes"]}
    assert [row["ol"] for row in classes.values()] == [4, 2, 1, 1, 2]
    assert [row["pel"] for row in classes.values()] == [6, 3, 1, 1, 2]
    assert [row["masked"] for row in classes.values()] == [0, 2, 4, 3, 0]
    # Water in a has Drop below it, in c it has Rain; e and f are general. Rain in b and c is.
    assert [row["general"] for row in classes.values()] == [2, 2, 0, 0, 1]
    assert [row["with_child"] for row in classes.values()] == [1, 0, 0, 0, 1]
    assert result["general"]["clips_with_a_general_label"] == 4
    assert result["general"]["clips_with_only_general_labels"] == 3
    assert result["general"]["share_with_only_general_labels"] == 0.5
    # Asked: Drop in a (Rain: no), Rain in b (no) and c (yes), Steam in d (Water: no, Hum no offer).
    assert result["parent_chosen_too"] == {
        "labels_with_a_parent_on_offer": 4,
        "beside_such_a_parent": 1,
        "share": 0.25,
    }
    assert classes["Rain"]["parent_chosen_too"] == 0.5
    assert classes["Water"]["parent_chosen_too"] is None
    edges = {(row["parent_name"], row["child_name"]): row for row in result["edges"]}
    assert edges["<Hum>", "Steam"]["both_clips"] == 1
    assert not edges["<Hum>", "Steam"]["on_offer"]
    assert result["imbalance"]["ol"]["ratio"] == 4
    # Gini of 1, 1, 2, 2, 4 by its definition: mean absolute difference over twice the mean.
    clips = [1, 1, 2, 2, 4]
    gini = sum(abs(a - b) for a in clips for b in clips) / 25 / (2 * 2)
    assert result["imbalance"]["ol"]["gini"] == pytest.approx(gini)

    with open(tmp_path / "audit/classes.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["ol"] for row in table] == ["4", "2", "1", "1", "2"]
    assert len((tmp_path / "audit/edges.csv").read_text().splitlines()) == 5
    assert (tmp_path / "audit/files.csv").read_text().splitlines()[1].startswith("segments.csv,6,")


def test_parents_of_siblings(toy, tmp_path):
    (tmp_path / "segments.csv").write_text(
        'a, 0, 1, "/m/r,/m/s"\nb, 0, 1, "/m/r,/m/s,/m/w"\nc, 0, 1, "/m/r,/m/s"\nd, 0, 1, "/m/r"\n'
    )
    assert main(toy) == 0
    with open(tmp_path / "audit/edges.csv", newline="") as file:
        edges = {(row["parent_name"], row["child_name"]): row for row in csv.DictReader(file)}
    for child, clips in (("Rain", "4"), ("Steam", "3")):
        row = edges["Water", child]
        assert (row["child_clips"], row["both_clips"]) == (clips, "1")
        assert (row["sibling_clips"], row["both_sibling_clips"]) == ("3", "1")


def test_existing_outputs(toy, tmp_path, capsys):
    assert main(toy) == 0
    capsys.readouterr()
    assert main(toy) == 1
    assert "audit.json: exists already" in capsys.readouterr().err
    assert main([*toy, "--overwrite"]) == 0


def test_outputs_of_a_stopped_command_are_replaced(toy, tmp_path, capsys):
    outputs = [tmp_path / "audit" / name for name in ("audit.json", "files.csv")]
    with contextlib.suppress(KeyboardInterrupt), written_together(*outputs):
        outputs[0].write_text("of the stopped command")
        raise KeyboardInterrupt
    assert main(toy) == 0
    assert "of the stopped" not in outputs[0].read_text()
    assert main(toy) == 1  # they are complete now
    assert not [path for path in outputs[0].parent.iterdir() if path.name.startswith(".")]


def test_no_label_that_the_ontology_has(toy, tmp_path, capsys):
    (tmp_path / "segments.csv").write_text('a, 0, 1, "/m/no"\n')
    assert main([*toy, "--unknown=drop"]) == 1
    assert "error: none of the clips has a label" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()


def test_labels_of_which_none_is_below_another(toy, tmp_path):
    (tmp_path / "segments.csv").write_text('a, 0, 1, "/m/w"\nb, 0, 1, "/m/w,/t/h"\n')
    assert main(toy) == 0
    header = (
        "parent,parent_name,child,child_name,child_clips,both_clips,parent_given_child,"
        "sibling_clips,both_sibling_clips,on_offer"
    )
    assert (tmp_path / "audit/edges.csv").read_text() == f"{header}\n"
    assert "Water" in (tmp_path / "audit/audit.html").read_text()


def test_the_page_needs_nothing_else(toy, tmp_path):
    main(toy)
    text = (tmp_path / "audit/audit.html").read_text()
    assert '<script src="' not in text
    assert "<link" not in text
    assert "/*DATA*/" not in text


@pytest.fixture(scope="module")
def page(segments_sample, tmp_path_factory) -> str:
    """The address of the page about 300 of AudioSet's segments."""
    folder = tmp_path_factory.mktemp("audit")
    assert main([f"--segments={segments_sample}", f"--output_dir={folder}"]) == 0
    return (folder / "audit.html").as_uri()


SHOWN = "return [...document.querySelectorAll('#tree text.slicetext')].map((e) => e.textContent)"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(page, browser, width):
    """Into Music by a click, back out by the bar above; no error, no sideways scrolling."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    open_page(browser, page, View(width, "light"))
    wait_for(browser, "return document.querySelectorAll('#tree .slice').length > 50")
    assert {"Music", "Animal"} <= set(browser.execute_script(SHOWN))

    (music,) = [
        text
        for text in browser.find_elements(By.CSS_SELECTOR, "#tree .treemaplayer text.slicetext")
        if text.text == "Music"
    ]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", music)
    ActionChains(browser).move_to_element(music).click().perform()
    level = "return document.getElementById('tree')._fullData[0].level"
    wait_for(browser, f"{SHOWN.replace('return', 'return !')}.includes('Animal')")
    music_id = browser.execute_script(level)
    assert music_id == str(Ontology.audioset().find("Music"))
    assert "Musical instrument" in browser.execute_script(SHOWN)

    # The bar above comes in with an animation.
    bar = wait_for(
        browser,
        "return [...document.querySelectorAll('#tree .pathbar text.slicetext')]"
        ".find((e) => e.textContent === 'All sounds' && e.getBoundingClientRect().top > 0)",
    )
    ActionChains(browser).move_to_element(bar).click().perform()
    wait_for(browser, f"{SHOWN}.includes('Animal')")

    # The table of classes, searched and sorted.
    browser.find_element(By.ID, "search").send_keys("guitar")
    names = "return [...document.querySelectorAll('#classes tbody td:first-child')]"
    names += ".map((e) => e.textContent)"
    found = browser.execute_script(names)
    assert "Electric guitar" in found
    assert all("guitar" in name.lower() for name in found)
    browser.find_element(By.CSS_SELECTOR, "#classes th:first-child button").click()
    assert browser.execute_script(names) == sorted(found, key=str.casefold)

    check_layout(browser, View(width, "light"))


# The labels in the plot of edges whose box hits a dot's or another label's.
COVERED = """
const boxes = (selector) => [...document.querySelectorAll(selector)].map((e) =>
  e.getBoundingClientRect());
const labels = boxes("#edges .annotation-text"), dots = boxes("#edges .points path");
const hits = (a, b) => a !== b && a.left < b.right && b.left < a.right && a.top < b.bottom &&
  b.top < a.bottom;
return [labels.length, labels.filter((a) => [...labels, ...dots].some((b) => hits(a, b))).length];
"""
# The tiles of the uppermost level that show no name; plotly hides one by a scale of 0.
NAMELESS = """
return [...document.querySelectorAll("#tree .treemaplayer .slice")].filter((tile) =>
  tile.querySelector("path.surface").getBoundingClientRect().width > 1 &&
  !(tile.querySelector("text")?.getBoundingClientRect().width > 1)).length
"""


def test_layout(page, browser):
    """Nothing is cut off, labels keep clear of dots, and on a phone each tile has its name."""
    for view in LAYOUTS:
        open_page(browser, page, view)
        wait_for(browser, "return document.querySelector('#edges .annotation-text')")
        check_layout(browser, view)
        num_labels, num_covered = browser.execute_script(COVERED)
        assert num_labels >= 2
        assert num_covered == 0, view
        if view.width == 390:
            assert browser.execute_script(NAMELESS) == 0


def test_accessibility(page, browser, axe):
    for view in VIEWS:
        open_page(browser, page, view)
        wait_for(browser, "return document.querySelector('#edges .annotation-text')")
        check_accessibility(browser, axe, view)


def test_a_page_about_very_little(toy, tmp_path, browser):
    """Names with markup are shown as they are."""
    main(toy)
    browser.get(pathlib.Path(tmp_path / "audit/audit.html").as_uri())
    wait_for(browser, "return document.querySelectorAll('#tree .slice').length > 3")
    assert "<Hum>" in browser.execute_script(SHOWN)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
