"""Views with a custom labeling: a file or a function."""

import numpy as np
import pytest
from small_ontologies import CHOIR

from relabel_jax.labels.label_files import read_label_file
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.views import SIDES, SPLITS, from_file, make_view


def test_a_file_and_a_function_give_the_views_of_the_labels_in_them(tmp_path):
    """The clips of a side follow from the raters' labels, whatever the file says of them."""
    names = np.array(CHOIR.display_names)
    labels = np.array([[name in ("Singing", "Rain") for name in names]] * 3 + [names == "Rain"] * 3)
    clip_ids, splits = [f"c{i}" for i in range(6)], np.array([0, 1, 2] * 2, np.int8)
    rows = [f'{clip_id},"/m/Choir,/m/Rain",/m/Opera' for clip_id in reversed(clip_ids)]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(["clip_id,positive,masked", *rows]) + "\n")
    labeling = from_file(read_label_file(path, CHOIR), clip_ids)
    arguments = {"root": CHOIR.find("Human sounds")}
    target = make_view(CHOIR, labels, splits, side="target", labeling=labeling, **arguments)
    assert {split: rows.tolist() for split, rows in target.rows.items()} == {
        "train": [0],
        "validation": [1],
        "test": [2],
    }
    assert names[target.columns[target.labels["test"][0]]].tolist() == ["Choir"]
    assert set(names[target.columns[target.masked["test"][0]]]) == {
        "Human sounds",  # outside the label set
        "Singing",
        "Rapping",
    }
    base = make_view(CHOIR, labels, splits, side="base", labeling=labeling, **arguments)
    assert base.rows["test"].tolist() == [5]
    assert names[base.columns[base.labels["test"][0]]].tolist() == ["Rain"]
    assert names[base.columns[base.masked["test"][0]]].tolist() == ["Music", "Opera"]

    def pel(rows, columns):
        return relabel(labels[np.ix_(rows, columns)], CHOIR, "pel", columns)

    for side in SIDES:
        named = make_view(CHOIR, labels, splits, side=side, labeling="pel", **arguments)
        view = make_view(CHOIR, labels, splits, side=side, labeling=pel, **arguments)
        for split in SPLITS:
            np.testing.assert_array_equal(view.labels[split], named.labels[split])
            np.testing.assert_array_equal(view.masked[split], named.masked[split])


@pytest.mark.parametrize(
    ("labeling", "message"),
    [
        (lambda rows, columns: (np.ones((1, 2), bool),) * 2, r"expected positive as bool\[1, 3\]"),
        (lambda rows, columns: (np.ones((1, 3)),) * 2, r"got float64\[1, 3\]"),
        (lambda rows, columns: (np.ones((1, 3), bool),) * 2, "a label is both positive and masked"),
        ("PEL", "is none of ol, pel, pe_cml, hlp, entailed"),
    ],
)
def test_a_labeling_that_does_not_fit(labeling, message):
    labels, splits = np.ones((3, len(CHOIR)), bool), np.arange(3, dtype=np.int8)
    root = CHOIR.find("Music")
    with pytest.raises(ValueError, match=message):
        make_view(CHOIR, labels, splits, root=root, side="target", labeling=labeling)
