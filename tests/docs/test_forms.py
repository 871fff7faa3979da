"""The tables of forms and names in the documentation are those of the code."""

import pathlib
import re

from data_prep.sources import forms
from relabel_jax.audio.places import EXTENSIONS
from relabel_jax.labels import clip_names

DATA = (pathlib.Path(__file__).parents[2] / "docs" / "data.md").read_text()


def table(text: str, header: str) -> list[list[str]]:
    """The cells of the table whose first header is `header`."""
    lines = text[text.index(f"| {header} ") :].splitlines()
    rows: list[list[str]] = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return rows


def test_the_forms_of_files_with_many_recordings():
    folder, *rows = table(DATA, "You have")
    assert rows == [
        [form.holds, ", ".join(f"`{each}`" for each in form.files.split(", ")), form.name]
        for form in forms()
    ]
    assert folder[0].startswith("recordings in folders")


def test_the_extensions_of_recordings():
    folder, *_ = table(DATA, "You have")
    assert re.findall(r"`\.(\w+)`", folder[1]) == [each.removeprefix(".") for each in EXTENSIONS]


def test_the_names_of_recordings():
    assert table(DATA, "Name") == table(clip_names.__doc__ or "", "name")
