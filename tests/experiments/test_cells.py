"""The folders of the runs of a grid, whatever the names of their roots hold."""

import csv
import pathlib

import pytest

from relabel_jax.errors import InputError
from relabel_jax.experiments.cells import Cell, all_cells, check_folders, folder_name, grid_config
from relabel_jax.labels import ontology

NAMES = [
    "",
    ".",
    "..",
    "/tmp/Speech",
    "../up",
    "a/b",
    "a_b",
    "a//b",
    "a\0b",
    "a\x1b[31mb",
    "a\nb",
    "grid.json",
    ".lock",
    "ontology.json",
    "\ud800",
    "ä" * 200,
    "ä" * 201,
    "C:\\x",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_one_part_below_the_workdir(name, tmp_path):
    folder = Cell(name, "base", "", 0, "ol").folder
    path = tmp_path / folder
    path.mkdir(parents=True)
    assert path.resolve().parent.parent == tmp_path.resolve()
    assert folder.parts[0] not in ("grid.json", "ontology.json", ".lock")


def test_names_have_folders_of_their_own():
    assert len({folder_name(name) for name in NAMES}) == len(NAMES)


def test_audiosets_roots_keep_their_folders():
    table = pathlib.Path(ontology.__file__).with_name("audioset_ontology.csv")
    with open(table, encoding="utf-8", newline="") as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    assert [folder_name(name) for name in names] == [
        name.lower().replace(" ", "_") for name in names
    ]


def test_roots_that_would_share_a_folder_are_refused():
    check_folders(["Human sounds", "Human sounds", "Music"])
    with pytest.raises(InputError, match="both write to the folder human_sounds"):
        check_folders(["Human sounds", "Music", "human_sounds"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_seeds": 10**9}, "config.num_seeds: expected 1 or more, up to 1000"),
        ({"roots": (1, 2)}, "config.roots: expected display names or mids, got 1"),
    ],
)
def test_fields_of_a_grid(fields, message):
    config = grid_config(("Music",), ("ol",))
    config.update(fields)
    with pytest.raises(InputError, match=message):
        all_cells(config)
