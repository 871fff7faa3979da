"""AST's data file, the warnings about masks, and segment files that are found by folder."""

import functools
import gzip
import json

import pytest
from segment_inputs import CONTENT, ONTOLOGY, rows_of, run_relabel


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command in a folder with an ontology; returns its exit code and its stderr."""
    (tmp_path / "ontology.json").write_text(ONTOLOGY)
    return functools.partial(run_relabel, tmp_path, capsys)


def test_ast_json(run, tmp_path):
    """The data file as the loaders of AST and PSLA read it."""
    path = tmp_path / "labels.json"
    wav = '/data/"a"/Y{clip_id}_{start_ms}_{end_s}.wav'
    status, log = run(CONTENT, format="ast_json", output=path, wav=wav)
    assert status == 0
    # Only raters' labels have an index in AudioSet's class_labels_indices.csv.
    assert json.loads(path.read_text()) == {
        "data": [
            {"wav": '/data/"a"/Y-x_1_30000_40.wav', "labels": "/m/rain,/t/hum", "masked": ""},
            {"wav": '/data/"a"/Y_y_0_7.wav', "labels": "/m/steam", "masked": ""},
            {"wav": '/data/"a"/Yz_123_10.wav', "labels": "/t/hum", "masked": ""},
        ]
    }
    assert log.splitlines()[-1].startswith("WARNING: a loader that ignores the key 'masked'")
    flags = {"format": "ast_json", "output": path, "wav": "{clip_id}.wav", "overwrite": True}
    run(CONTENT, classes="all", **flags)
    rows = [tuple(row.values()) for row in json.loads(path.read_text())["data"]]
    assert rows == [
        ("-x_1.wav", "/m/rain,/m/water,/t/hum", "/m/drop"),
        ("_y.wav", "/m/water,/m/steam", ""),
        ("z.wav", "/t/hum", ""),
    ]


def test_ast_json_without_labels(run, tmp_path):
    """Clips without labels would stop the loader."""
    path = tmp_path / "labels.json"
    flags = {"format": "ast_json", "output": path, "wav": "{clip_id}", "unknown": "drop"}
    status, log = run(CONTENT.replace("/m/steam", "/m/q"), **flags)
    assert status == 0
    assert [row["wav"] for row in json.loads(path.read_text())["data"]] == ["-x_1", "z"]
    assert "left out          1 clips without labels" in log
    run('a, 0, 1, "/m/q"\n', **flags, overwrite=True)
    assert json.loads(path.read_text()) == {"data": []}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": "ast_json"}, "--format=ast_json needs --wav"),
        ({"wav": "{clip_id}.wav"}, "no other format has it"),
        ({"format": "ast_json", "wav": "a.wav"}, "--wav=a.wav: expected a path with {clip_id}"),
        ({"format": "ast_json", "wav": "{clip_id}{id}"}, "expected a path with {clip_id}"),
        ({"format": "ast_json", "wav": "{clip_id}{"}, "expected a path with {clip_id}"),
        ({"format": "ast_json", "wav": "{clip_id.x}"}, "expected a path with {clip_id}"),
    ],
)
def test_refused_paths_of_recordings(run, tmp_path, flags, message):
    status, log = run(CONTENT, **flags)
    assert status == 1
    assert log.startswith("error: ")
    assert message in log
    assert not (tmp_path / "labels.parquet").exists()


def test_csv_warns_of_loaders_that_ignore_the_masks(run, tmp_path):
    _, log = run(CONTENT, format="csv", output=tmp_path / "labels.csv")
    assert log.splitlines()[-1].startswith("WARNING: a loader that ignores the fifth column")
    assert "WARNING" not in run(CONTENT)[1]


def test_segments_by_folder_and_with_or_without_gz(run, tmp_path):
    (tmp_path / "meta").mkdir()
    zipped = gzip.compress(b'w, 1.000, 2.000, "/m/water"\n')
    (tmp_path / "meta/unbalanced_train_segments.csv.gz").write_bytes(zipped)
    (tmp_path / "meta/balanced_train_segments.csv").write_text(CONTENT)
    (tmp_path / "meta/class_labels_indices.csv").write_text("no segments")
    status, log = run(segments=f"{tmp_path}/meta")
    assert status == 0
    assert [row[0] for row in rows_of(tmp_path / "labels.parquet")] == ["-x_1", "_y", "z", "w"]
    names = "balanced_train_segments.csv, unbalanced_train_segments.csv.gz"
    assert log.startswith(f"{tmp_path}/meta: reads {names}\n")
    # As AudioSet names the file, and the other way round.
    for asked, read, clips in (
        ("unbalanced_train_segments.csv", "unbalanced_train_segments.csv.gz", ["w"]),
        ("balanced_train_segments.csv.gz", "balanced_train_segments.csv", ["-x_1", "_y", "z"]),
    ):
        status, log = run(segments=tmp_path / "meta" / asked, overwrite=True)
        assert status == 0
        assert [row[0] for row in rows_of(tmp_path / "labels.parquet")] == clips
        assert log.startswith(f"{tmp_path}/meta/{asked}: reads {read}\n")
    (tmp_path / "empty").mkdir()
    status, log = run(segments=tmp_path / "empty", overwrite=True)
    assert (status, log.count("\n")) == (1, 1)
    assert "empty: has no *_segments.csv" in log
