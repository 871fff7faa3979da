"""The paper's section II from the real files, and the page in a real browser."""

import csv
import itertools
import json
import pathlib

import pytest

from data_prep.audit import audit, main
from data_prep.segments import read_segments
from relabel_jax.labels.labelings import relabel_set
from relabel_jax.labels.ontology import Ontology

FILES = (
    "balanced_train_segments.csv",
    "eval_segments.csv",
    "unbalanced_train_segments.csv.gz",
)


@pytest.fixture(scope="module")
def audioset(audioset_dir):
    """All 2,084,320 segments: 2 s to read, 0.3 s to audit."""
    ontology = Ontology.audioset()
    segments = read_segments([audioset_dir / name for name in FILES], ontology)
    return audit(segments, ontology, FILES)


# The folder's README.md, second table, printed to three decimals.
@pytest.mark.parametrize(
    ("number", "clips", "ol", "pel", "pel_used", "masked", "masked_used"),
    [
        (0, 22_160, 2.386, 5.597, 3.592, 24.476, 19.912),
        (1, 20_371, 2.543, 5.907, 3.833, 25.462, 20.688),
        (2, 2_041_789, 1.969, 4.046, 2.409, 64.212, 51.899),
        (3, 2_084_320, 1.979, 4.081, 2.436, 63.411, 51.254),
    ],
)
def test_labels_per_clip(audioset, number, clips, ol, pel, pel_used, masked, masked_used):
    row = audioset["files"][number]
    assert row["clips"] == clips
    assert round(row["ol"], 3) == ol
    assert round(row["pel"], 3) == pel
    assert round(row["pel_used"], 3) == pel_used
    assert round(row["masked"], 3) == masked
    assert round(row["masked_used"], 3) == masked_used


# The paper, section II, by way of the folder's README.md, first table.
@pytest.mark.parametrize(
    ("root", "used_labels"),
    [
        ("Human sounds", 72),
        ("Sounds of things", 176),
        ("Source-ambiguous sounds", 55),
        ("Natural sounds", 18),
    ],
)
def test_used_labels_below_a_root(audioset, root, used_labels):
    (found,) = [row for row in audioset["roots"] if row["name"] == root]
    assert found["used_labels"] == used_labels


@pytest.mark.parametrize(
    ("child", "parent", "child_clips", "both_clips"),
    [
        ("Electric guitar", "Guitar", 12_024, 10_243),
        ("Guitar", "Plucked string instrument", 51_597, 40_266),
        ("Rain", "Water", 3_392, 24),
        ("Duck", "Fowl", 2_603, 5),
    ],
)
def test_parents_chosen_too(audioset, child, parent, child_clips, both_clips):
    (edge,) = [
        row
        for row in audioset["edges"]
        if (row["child_name"], row["parent_name"]) == (child, parent)
    ]
    assert (edge["child_clips"], edge["both_clips"]) == (child_clips, both_clips)
    assert edge["parent_given_child"] == both_clips / child_clips
    assert edge["on_offer"]


def test_guitars_with_any_child_of_guitar(audioset):
    (guitar,) = [row for row in audioset["classes"] if row["name"] == "Guitar"]
    assert (guitar["ol"], guitar["with_child"]) == (51_597, 30_863)


def test_the_52_percent(audioset):
    assert round(audioset["parent_chosen_too"]["share"], 4) == 0.5194


def test_used_classes(audioset):
    assert sum(row["ol"] > 0 for row in audioset["classes"]) == 527
    assert len(audioset["classes"]) == 632


def test_the_sample_by_brute_force(segments_sample):
    """Every count of real segments again, clip by clip on sets of mids."""
    ontology = Ontology.audioset()
    result = audit(read_segments([segments_sample], ontology), ontology, ["sample"])
    with open(segments_sample, newline="") as file:
        rows = csv.reader(itertools.islice(file, 3, None), skipinitialspace=True)
        clips = [set(row[3].split(",")) for row in rows]
    relabelled = [relabel_set(clip, ontology, "pe_cml") for clip in clips]
    used = set().union(*clips)
    parents = {mid: set() for mid in ontology.mids}
    barred = set()
    for node in json.loads(ontology.text):
        for child in node["child_ids"]:
            parents[child].add(node["id"])
        if node["restrictions"]:
            barred.add(node["id"])
    below = {
        mid: {ontology.mids[i] for i in ontology.descendant_sets[number]}
        for mid, number in ontology.index.items()
    }

    (row,) = result["files"]
    assert row["clips"] == len(clips) == 300
    for name, sets in (
        ("ol", clips),
        ("pel", [positive for positive, _ in relabelled]),
        ("pel_used", [positive & used for positive, _ in relabelled]),
        ("masked", [masked for _, masked in relabelled]),
        ("masked_used", [masked & used for _, masked in relabelled]),
    ):
        assert row[name] == pytest.approx(sum(map(len, sets)) / 300)

    on_offer = used - barred
    asked = [(clip, label) for clip in clips for label in clip if parents[label] & on_offer]
    beside = [parents[label] & on_offer & clip for clip, label in asked]
    assert result["parent_chosen_too"]["labels_with_a_parent_on_offer"] == len(asked)
    assert result["parent_chosen_too"]["beside_such_a_parent"] == sum(map(bool, beside))
    general = [
        {label for label in clip if below[label] and not below[label] & clip} for clip in clips
    ]
    assert result["general"]["clips_with_a_general_label"] == sum(map(bool, general))
    only = sum(some == clip for some, clip in zip(general, clips, strict=True))
    assert result["general"]["clips_with_only_general_labels"] == only > 0

    for row in result["classes"]:
        mid = row["mid"]
        assert row["ol"] == sum(mid in clip for clip in clips)
        assert row["pel"] == sum(mid in positive for positive, _ in relabelled)
        assert row["masked"] == sum(mid in masked for _, masked in relabelled)
        assert row["general"] == sum(mid in some for some in general)
        with_child = [
            clip for clip in clips if mid in clip and any(mid in parents[c] for c in clip)
        ]
        assert row["with_child"] == len(with_child)
    edges = {(row["parent"], row["child"]): row for row in result["edges"]}
    assert set(edges) == {(parent, child) for child in used for parent in parents[child]}
    for (parent, child), row in edges.items():
        assert row["child_clips"] == sum(child in clip for clip in clips)
        assert row["both_clips"] == sum({parent, child} <= clip for clip in clips)
        assert row["on_offer"] == (parent in on_offer)
    for row in result["roots"]:
        assert row["used_labels"] == len(used & (below[row["mid"]] | {row["mid"]}))
        assert row["clips"] > 0
    assert len(result["roots"]) == 7


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


def test_existing_outputs(toy, tmp_path, capsys):
    assert main(toy) == 0
    capsys.readouterr()
    assert main(toy) == 1
    assert "audit.json: exists already" in capsys.readouterr().err
    assert main([*toy, "--overwrite"]) == 0


def test_no_label_that_the_ontology_has(toy, tmp_path, capsys):
    (tmp_path / "segments.csv").write_text('a, 0, 1, "/m/no"\n')
    assert main([*toy, "--unknown=drop"]) == 1
    assert "error: none of the clips has a label" in capsys.readouterr().err
    assert not (tmp_path / "audit").exists()


def test_labels_of_which_none_is_below_another(toy, tmp_path):
    (tmp_path / "segments.csv").write_text('a, 0, 1, "/m/w"\nb, 0, 1, "/m/w,/t/h"\n')
    assert main(toy) == 0
    header = (
        "parent,parent_name,child,child_name,child_clips,both_clips,parent_given_child,on_offer"
    )
    assert (tmp_path / "audit/edges.csv").read_text() == f"{header}\n"
    assert "Water" in (tmp_path / "audit/audit.html").read_text()


def test_the_page_needs_nothing_else(toy, tmp_path):
    main(toy)
    text = (tmp_path / "audit/audit.html").read_text()
    assert '<script src="' not in text
    assert "<link" not in text
    assert "/*DATA*/" not in text


def wait_for(browser, script: str):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(script))


SHOWN = "return [...document.querySelectorAll('#tree text.slicetext')].map((e) => e.textContent)"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(segments_sample, tmp_path, browser, width):
    """Into Music by a click, back out by the bar above; no error, no sideways scrolling."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    assert main([f"--segments={segments_sample}", f"--output_dir={tmp_path}"]) == 0
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get(pathlib.Path(tmp_path / "audit.html").as_uri())
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

    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert browser.execute_script(wide)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_page_about_very_little(toy, tmp_path, browser):
    """Names with markup are shown as they are."""
    main(toy)
    browser.get(pathlib.Path(tmp_path / "audit/audit.html").as_uri())
    wait_for(browser, "return document.querySelectorAll('#tree .slice').length > 3")
    assert "<Hum>" in browser.execute_script(SHOWN)
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
