"""Segment files re-labelled into each format, and everything that can be wrong with them."""

import functools
import gzip
import os
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from segment_inputs import CONTENT, HEADER, ONTOLOGY, rows_of, run_relabel

from data_prep.label_formats import write_parquet
from data_prep.relabelled import relabel_segments
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

EXPECTED = [
    ("-x_1", 30.0, 40.0, ["/m/rain", "/t/hum"], ["/m/rain", "/m/water", "/t/hum"], ["/m/drop"]),
    ("_y", 0.0, 7.001, ["/m/steam"], ["/m/water", "/m/steam"], []),
    ("z", 0.12345, 10.0, ["/t/hum"], ["/t/hum"], []),
]


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command in a folder with an ontology; returns its exit code and its stderr."""
    (tmp_path / "ontology.json").write_text(ONTOLOGY)
    return functools.partial(run_relabel, tmp_path, capsys)


def test_parquet(run, tmp_path):
    assert run(CONTENT)[0] == 0
    assert rows_of(tmp_path / "labels.parquet") == EXPECTED
    schema = pq.read_schema(tmp_path / "labels.parquet")
    assert schema.names == ["clip_id", "start_s", "end_s", "ol", "pel", "masked"]
    assert schema.types == [pa.string(), *[pa.float64()] * 2, *[pa.list_(pa.string())] * 3]


def test_other_readers(run, tmp_path):
    path = tmp_path / "labels.parquet"
    run(CONTENT)
    frame = pd.read_parquet(path)
    assert [list(row) for row in frame["masked"]] == [row[5] for row in EXPECTED]
    assert duckdb.sql(f"select * from '{path}'").fetchall() == EXPECTED
    assert duckdb.sql(
        f"select clip_id from '{path}' where list_contains(pel, '/m/water')"
    ).fetchall() == [("-x_1",), ("_y",)]


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 50])
def test_groups_of_rows(tmp_path, num_rows):
    """Several row groups, read by all three readers, whole and one group alone."""
    labels = ["/m/drop", "/m/water", "/t/hum,/m/rain"]
    (tmp_path / "segments.csv").write_text(
        "".join(f'c{row}, {row}, {row + 1}, "{labels[row % 3]}"\n' for row in range(num_rows))
    )
    ontology = Ontology.from_text(ONTOLOGY)
    relabelled = relabel_segments(read_segments([tmp_path / "segments.csv"], ontology), ontology)
    path = tmp_path / "labels.parquet"
    with open(path, "wb") as file:
        write_parquet(file, relabelled, rows_per_group=8)
    positive = [["/m/rain", "/m/water", "/m/drop"], ["/m/water"], ["/m/rain", "/m/water", "/t/hum"]]
    masked = [[], ["/m/rain", "/m/drop", "/m/steam"], ["/m/drop"]]
    expected = [
        (f"c{row}", float(row), row + 1.0, positive[row % 3], masked[row % 3])
        for row in range(num_rows)
    ]
    columns = ["clip_id", "start_s", "end_s", "pel", "masked"]

    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == -(-num_rows // 8)
    for group in range(file.metadata.num_row_groups):
        rows = file.read_row_group(group, columns=columns).to_pylist()
        assert [tuple(row.values()) for row in rows] == expected[8 * group : 8 * group + 8]
    assert duckdb.sql(f"select {', '.join(columns)} from '{path}'").fetchall() == expected
    frame = pd.read_parquet(path)
    assert frame["clip_id"].tolist() == [row[0] for row in expected]
    assert [list(mids) for mids in frame["masked"]] == [row[4] for row in expected]


def test_files_follow_each_other(run, tmp_path):
    more = gzip.compress(b'w, 1.000, 2.000, "/m/water"\n')
    assert run(CONTENT, more)[0] == 0
    rows = rows_of(tmp_path / "labels.parquet")
    assert rows[:3] == EXPECTED
    assert rows[3][3:] == (["/m/water"], ["/m/water"], ["/m/rain", "/m/drop", "/m/steam"])


def test_used_classes(run, tmp_path):
    """Water and Raindrop are no raters' labels here; Steam keeps no trace of Water."""
    assert run(CONTENT, classes="used")[0] == 0
    assert [row[3:] for row in rows_of(tmp_path / "labels.parquet")] == [
        (["/m/rain", "/t/hum"], ["/m/rain", "/t/hum"], []),
        (["/m/steam"], ["/m/steam"], []),
        (["/t/hum"], ["/t/hum"], []),
    ]
    # Expansion goes over all classes first: through Rain, which is not used here, up to Water.
    run('a, 0, 1, "/m/drop"\nb, 0, 1, "/m/water"\n', classes="used", overwrite=True)
    assert [row[3:] for row in rows_of(tmp_path / "labels.parquet")] == [
        (["/m/drop"], ["/m/water", "/m/drop"], []),
        (["/m/water"], ["/m/water"], ["/m/drop"]),
    ]


def test_csv(run, tmp_path):
    assert run(CONTENT, format="csv", output=tmp_path / "labels.csv")[0] == 0
    counts = "# num_ytids=3, num_segs=3, num_unique_labels=4, num_positive_labels=6"
    assert (tmp_path / "labels.pel.csv").read_text().splitlines() == [
        "# Segments csv re-labelled by relabel_jax: pel",
        counts,
        "# YTID, start_seconds, end_seconds, positive_labels",
        '-x_1, 30.000, 40.000, "/m/rain,/m/water,/t/hum"',
        '_y, 0.000, 7.001, "/m/water,/m/steam"',
        'z, 0.12345, 10.000, "/t/hum"',
    ]
    assert (tmp_path / "labels.pe_cml.csv").read_text().splitlines() == [
        "# Segments csv re-labelled by relabel_jax: pe_cml",
        counts,
        "# YTID, start_seconds, end_seconds, positive_labels, masked_labels",
        '-x_1, 30.000, 40.000, "/m/rain,/m/water,/t/hum", "/m/drop"',
        '_y, 0.000, 7.001, "/m/water,/m/steam", ""',
        'z, 0.12345, 10.000, "/t/hum", ""',
    ]
    assert not (tmp_path / "labels.csv").exists()


def test_npz(run, tmp_path):
    assert run(CONTENT, format="npz", output=tmp_path / "labels.npz")[0] == 0
    with np.load(tmp_path / "labels.npz") as arrays:
        mids = arrays["mids"].tolist()
        assert arrays["display_names"].tolist() == ["Rain", "Water", "Raindrop", "Steam", "Hum"]
        rows = []
        for clip, clip_id in enumerate(arrays["clip_ids"].tolist()):
            lists = []
            for name in ("ol", "pel", "masked"):
                bits = np.unpackbits(arrays[name], axis=1, count=len(mids)).astype(bool)
                lists.append([mids[i] for i in np.flatnonzero(bits[clip])])
            rows.append((clip_id, arrays["start_s"][clip], arrays["end_s"][clip], *lists))
    assert rows == EXPECTED


def test_unknown_mids(run, tmp_path):
    strange = CONTENT.replace("/m/rain", "/m/q1,/m/rain").replace("/m/steam", "/m/q2")
    status, log = run(strange)
    assert status == 1
    assert log.startswith(f"error: {tmp_path}/segments0.csv: 2 mids are not in the ontology (/m/q")
    assert "--unknown=drop" in log
    assert not (tmp_path / "labels.parquet").exists()

    status, log = run(strange, unknown="drop")
    assert status == 0
    assert "2 of 2 unknown mids; 1 clips have none left" in log
    assert "/m/q1  1" in log
    rows = rows_of(tmp_path / "labels.parquet")
    assert [rows[0], rows[2]] == [EXPECTED[0], EXPECTED[2]]
    assert rows[1] == ("_y", 0.0, 7.001, [], [], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT + "w, 0, 1\n", "1 malformed rows, the first is row 7: 'w,0,1'"),
        (HEADER, "no segments; expected rows of YTID, start, end"),
        (b"\x1f\x8b broken", "cannot read the segments"),
    ],
)
def test_refused_segments(run, tmp_path, content, message):
    """The command's answer; tests/data_prep/test_segments.py has everything that is refused."""
    status, log = run(content)
    assert status == 1
    assert log.startswith(f"error: {tmp_path}/segments0.csv")
    assert message in log
    assert log.count("\n") == 1
    assert not (tmp_path / "labels.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"child_ids": []}]', '"child_ids": ["/t/hum"]}]'), "child_ids form a cycle"),
        (('"/m/steam"]', '"/m/fog"]'), "has the child '/m/fog', which is not in the file"),
        (('"id": "/t/hum"', '"id": "/m/rain"'), "the id '/m/rain' occurs 2 times"),
    ],
)
def test_refused_ontologies(run, tmp_path, change, message):
    (tmp_path / "ontology.json").write_text(ONTOLOGY.replace(*change))
    status, log = run(CONTENT)
    assert status == 1
    assert log.startswith(f"error: {tmp_path}/ontology.json: ")
    assert message in log
    assert log.count("\n") == 1


@pytest.mark.parametrize(
    ("format", "output", "written"),
    [
        ("parquet", "labels.parquet", "labels.parquet"),
        ("npz", "labels.npz", "labels.npz"),
        ("csv", "labels.csv", "labels.pe_cml.csv"),
        ("csv", "labels", "labels.pel.csv"),
    ],
)
def test_an_output_that_exists(run, tmp_path, format, output, written):
    (tmp_path / written).write_text("mine")
    status, log = run(CONTENT, format=format, output=tmp_path / output)
    assert status == 1
    assert log == (
        f"error: {tmp_path}/{written}: exists already; give --overwrite or another --output\n"
    )
    assert (tmp_path / written).read_text() == "mine"
    assert run(CONTENT, format=format, output=tmp_path / output, overwrite=True)[0] == 0
    assert (tmp_path / written).read_bytes() != b"mine"


def test_an_output_that_cannot_be(run, tmp_path):
    (tmp_path / "file").write_text("")
    status, log = run(CONTENT, output=tmp_path / "file" / "labels.parquet")
    assert status == 1
    assert log.startswith(f"error: {tmp_path}/file/labels.parquet: cannot write: ")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
@pytest.mark.parametrize("format", ["parquet", "csv", "npz"])
def test_full_disk(run, tmp_path, format):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        rng = np.random.default_rng(0)
        ids = sorted({rng.bytes(8).hex() for _ in range(2000)})
        content = "".join(f'{clip_id}, 0.000, 1.000, "/m/rain"\n' for clip_id in ids)
        status, log = run(content, format=format, output=disk / "labels.x")
        assert status == 1
        assert "cannot write: No space left on device" in log
        assert log.splitlines()[-1].startswith(f"error: {disk}/labels")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_as_a_program(run, tmp_path):
    """The status and the streams of the process itself."""
    run(CONTENT)
    command = [sys.executable, "-m", "data_prep.relabel", f"--ontology={tmp_path}/ontology.json"]
    command += [f"--segments={tmp_path}/segments0.csv", f"--output={tmp_path}/new.parquet"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "1.333 ol, 2.000 pel, 0.333 masked" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("link", [False, True], ids=["itself", "a link"])
def test_an_input_is_never_replaced(run, tmp_path, link):
    output = tmp_path / "in.csv"
    output.write_text(CONTENT)
    asked = tmp_path / "link.csv" if link else output
    if link:
        asked.symlink_to(output)
    status, log = run(segments=output, format="parquet", output=asked, overwrite=True)
    assert (status, log.count("\n")) == (1, 1)
    assert f"{asked}: is an input too, and would be replaced" in log
    assert output.read_text() == CONTENT
