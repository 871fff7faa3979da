"""Several labelings in one pass, and labelings from files."""

import functools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from segment_inputs import CONTENT, ONTOLOGY, run_relabel

from data_prep.relabel import relabel_files
from relabel_jax.labels.label_files import read_label_file
from relabel_jax.labels.labelings import LABELINGS, relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.labels.table import LabelTable

COLUMNS = ["ol", "pel", "masked", "hlp", "entailed", "entailed_masked"]
OWN = """clip_id,positive,masked
z,/m/steam,"/m/rain,/m/drop"
Y_y,"/m/rain,/m/water",
absent,/m/rain,
-x_1,,/t/hum
"""
OWN_ROWS = [([], ["/t/hum"]), (["/m/rain", "/m/water"], []), (["/m/steam"], ["/m/rain", "/m/drop"])]


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command in a folder with an ontology; returns its exit code and its stderr."""
    (tmp_path / "ontology.json").write_text(ONTOLOGY)
    (tmp_path / "own.csv").write_text(OWN)
    return functools.partial(run_relabel, tmp_path, capsys)


def own_flags(tmp_path, labelings="ol,mine"):
    return {"labelings": labelings, "labeling_files": f"mine={tmp_path}/own.csv"}


def test_all_labelings_of_real_segments(segments_sample, tmp_path):
    """Parquet and npz against the set form, and Parquet as a labeling of its own."""
    ontology = Ontology.audioset()
    for format in ("parquet", "npz"):
        path = tmp_path / f"labels.{format}"
        relabel_files(segments=[segments_sample], output=path, format=format, labelings=LABELINGS)
    table = pq.read_table(tmp_path / "labels.parquet")
    assert table.column_names == ["clip_id", "start_s", "end_s", *COLUMNS]
    with np.load(tmp_path / "labels.npz") as arrays:
        mids = arrays["mids"]
        bits = {
            name: np.unpackbits(arrays[name], axis=1, count=len(mids)).astype(bool)
            for name in COLUMNS
        }
        assert arrays["clip_ids"].tolist() == table["clip_id"].to_pylist()
    for clip, row in enumerate(table.to_pylist()):
        for labeling, positive, masked in (
            ("ol", "ol", None),
            ("pel", "pel", None),
            ("pe_cml", "pel", "masked"),
            ("hlp", "hlp", None),
            ("entailed", "entailed", "entailed_masked"),
        ):
            expected = relabel_set(set(row["ol"]), ontology, labeling)
            assert set(row[positive]) == expected[0]
            assert set(row[masked] if masked else []) == expected[1]
        for name in COLUMNS:
            assert mids[bits[name][clip]].tolist() == row[name]
    file = read_label_file(tmp_path / "labels.parquet", ontology, "entailed")
    for name, matrix in zip(COLUMNS[4:], file.labels(table["clip_id"].to_pylist()), strict=True):
        np.testing.assert_array_equal(matrix.toarray(), bits[name])


def test_the_columns_follow_the_names(run, tmp_path):
    for labelings, names in (
        ("pe_cml", ["pel", "masked"]),
        ("pe_cml,pel,ol", ["pel", "masked", "ol"]),
        ("entailed,hlp", ["entailed", "entailed_masked", "hlp"]),
    ):
        status, log = run(CONTENT, labelings=labelings, overwrite=True)
        assert status == 0
        assert pq.read_schema(tmp_path / "labels.parquet").names[3:] == names
        (line,) = [line for line in log.splitlines() if line.startswith("labels per clip")]
        shown = [word.split()[-1] for word in line.split(", ")]
        assert shown == ["ol", *(name for name in names if name != "ol")]


def test_a_labeling_from_a_file(run, tmp_path):
    """In every format, beside a rule; its clips have another order, other ids and more."""
    status, log = run(CONTENT, **own_flags(tmp_path))
    assert status == 0
    assert "1.333 ol, 1.000 mine, 1.000 mine_masked" in log
    rows = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    assert [(row["mine"], row["mine_masked"]) for row in rows] == OWN_ROWS
    assert [row["ol"] for row in rows] == [["/m/rain", "/t/hum"], ["/m/steam"], ["/t/hum"]]

    for format in ("csv", "npz", "torch"):
        output = tmp_path / f"{format}.{'csv' if format == 'csv' else 'npz'}"
        assert run(CONTENT, format=format, output=output, **own_flags(tmp_path))[0] == 0
    assert (tmp_path / "csv.mine.csv").read_text().splitlines()[1:] == [
        "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=3",
        "# YTID, start_seconds, end_seconds, positive_labels, masked_labels",
        '-x_1, 30.000, 40.000, "", "/t/hum"',
        '_y, 0.000, 7.001, "/m/rain,/m/water", ""',
        'z, 0.12345, 10.000, "/m/steam", "/m/rain,/m/drop"',
    ]
    assert '_y, 0.000, 7.001, "/m/steam"\n' in (tmp_path / "csv.ol.csv").read_text()
    with np.load(tmp_path / "npz.npz") as arrays:
        bits = np.unpackbits(arrays["mine_masked"], axis=1, count=5).astype(bool)
        assert [arrays["mids"][row].tolist() for row in bits] == [masked for _, masked in OWN_ROWS]
    table = LabelTable(tmp_path / "torch.npz", labeling="mine")
    targets, known = table.lookup([row["clip_id"] for row in rows])
    for target, is_known, (positive, masked) in zip(targets, known, OWN_ROWS, strict=True):
        assert {mid for mid, is_in in zip(table.mids, target, strict=True) if is_in} == {*positive}
        assert {mid for mid, it_is in zip(table.mids, is_known, strict=True) if not it_is} == {
            *masked
        }
    targets, known = LabelTable(tmp_path / "torch.npz", labeling="ol").lookup(["_y"])
    assert (targets.sum(), known.all()) == (1, True)


def test_a_file_without_masked_labels_has_no_such_column(run, tmp_path):
    (tmp_path / "own.csv").write_text("clip_id,positive\nz,/m/rain\n_y,/m/rain\n-x_1,/m/q\n")
    flags = own_flags(tmp_path, "mine") | {"unknown": "drop"}
    status, log = run(CONTENT, **flags)
    assert status == 0
    assert f"dropped labels    1 of 1 unknown mids in mine, {tmp_path}/own.csv" in log
    assert pq.read_schema(tmp_path / "labels.parquet").names[3:] == ["mine"]
    status, log = run(CONTENT, **own_flags(tmp_path, "mine"), overwrite=True)
    assert (status, "1 mids are not in the ontology (/m/q)" in log) == (1, True)


def test_ast_json_of_several_labelings(run, tmp_path):
    flags = {"format": "ast_json", "wav": "{clip_id}", "output": tmp_path / "a.json"}
    status, log = run(CONTENT, **flags, **own_flags(tmp_path, "ol,mine"))
    assert status == 0
    rows = {
        name: [list(row.values()) for row in json.loads(path.read_text())["data"]]
        for name in ("ol", "mine")
        for path in [tmp_path / f"a.{name}.json"]
    }
    # Rain, Steam and Hum are the raters' labels.
    assert rows["ol"] == [
        ["-x_1", "/m/rain,/t/hum", ""],
        ["_y", "/m/steam", ""],
        ["z", "/t/hum", ""],
    ]
    assert rows["mine"] == [["_y", "/m/rain", ""], ["z", "/m/steam", "/m/rain"]]
    assert "left out          1 clips without labels in mine, which AST cannot load" in log
    assert log.splitlines()[-1].endswith(
        "trains on the positives of mine alone: its unknown classes then count as absent"
    )
    assert log.count("WARNING") == 1
    assert run(CONTENT, **flags, labelings="entailed")[0] == 0
    assert (tmp_path / "a.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"labelings": "ol,mine"}, "'mine' is none of ol, pel, pe_cml, hlp, entailed; a labeling"),
        ({"labelings": "ol,"}, "'' is none of"),
        ({"labelings": "ol,pel,ol"}, "expected each name once"),
        (
            {"labeling_files": "mine=own.csv"},
            "'mine' is not in --labelings; expected --labelings=ol",
        ),
        ({"labeling_files": "pel=own.csv"}, "the name 'pel' is taken"),
        ({"labeling_files": "mids=own.csv"}, "the name 'mids' is taken"),
        ({"labelings": "mine", "labeling_files": "mine=absent.csv"}, "absent.csv: cannot read"),
    ],
)
def test_refused_labelings(run, tmp_path, flags, message):
    status, log = run(CONTENT, **flags)
    assert status == 1
    assert log.startswith("error: ")
    assert message in log
    assert log.count("\n") == 1
    assert not (tmp_path / "labels.parquet").exists()


def test_a_file_that_lacks_clips(run, tmp_path):
    (tmp_path / "own.csv").write_text("clip_id,positive\n_y,/m/rain\n")
    status, log = run(CONTENT, **own_flags(tmp_path))
    assert status == 1
    assert log == (
        f"error: {tmp_path}/own.csv: has no labels for 2 of the 3 clips (-x_1, z); expected a row "
        "for every clip\n"
    )


def test_a_table_names_the_labelings_that_it_has(segments_sample, tmp_path):
    path = tmp_path / "labels.npz"
    flags = {"segments": [segments_sample], "output": path, "format": "torch"}
    relabel_files(**flags, labelings=["hlp", "entailed"])
    clip_ids = read_segments([segments_sample], Ontology.audioset()).clip_ids.to_pylist()
    assert not LabelTable(path, labeling="entailed").lookup(clip_ids)[1].all()
    with pytest.raises(ValueError, match="'pe_cml' is none of hlp, entailed, which the table has"):
        LabelTable(path)
