"""Segment files re-labelled into each format, and everything that can be wrong with them."""

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

from data_prep.relabel import main
from data_prep.segments import read_segments
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel_set
from relabel_jax.labels.ontology import Ontology

# Water > Rain > Raindrop, Water > Steam; Rain and Steam are used, and so is Hum.
ONTOLOGY = """[
    {"id": "/m/rain", "name": "Rain", "child_ids": ["/m/drop"]},
    {"id": "/m/water", "name": "Water", "child_ids": ["/m/rain", "/m/steam"]},
    {"id": "/m/drop", "name": "Raindrop", "child_ids": []},
    {"id": "/m/steam", "name": "Steam", "child_ids": []},
    {"id": "/t/hum", "name": "Hum", "child_ids": []}]"""
HEADER = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4\n"
    "# YTID, start_seconds, end_seconds, positive_labels\n"
)
ROWS = [
    '-x_1, 30.000, 40.000, "/t/hum,/m/rain"',
    '_y, 0.000, 7.001, "/m/steam"',
    'z, 0.12345, 10, "/t/hum"',
]
CONTENT = HEADER + "\n".join(ROWS) + "\n"
EXPECTED = [
    ("-x_1", 30.0, 40.0, ["/m/rain", "/t/hum"], ["/m/rain", "/m/water", "/t/hum"], ["/m/drop"]),
    ("_y", 0.0, 7.001, ["/m/steam"], ["/m/water", "/m/steam"], []),
    ("z", 0.12345, 10.0, ["/t/hum"], ["/t/hum"], []),
]


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command in a folder with an ontology; returns status and what stderr got."""
    (tmp_path / "ontology.json").write_text(ONTOLOGY)

    def run(*contents: str | bytes, **flags) -> tuple[int, str]:
        paths = []
        for number, content in enumerate(contents):
            content = content.encode() if isinstance(content, str) else content
            suffix = ".csv.gz" if content.startswith(b"\x1f\x8b") else ".csv"
            paths.append(tmp_path / f"segments{number}{suffix}")
            paths[-1].write_bytes(content)
        arguments = {
            "ontology": tmp_path / "ontology.json",
            "segments": ",".join(map(str, paths)),
            "output": tmp_path / "labels.parquet",
        } | flags
        status = main(
            [
                f"--{flag}" if value is True else f"--{flag}={value}"
                for flag, value in arguments.items()
            ]
        )
        return status, capsys.readouterr().err

    return run


def rows_of(path) -> list[tuple]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize(
    "content",
    [
        CONTENT,
        "\n".join(ROWS),
        gzip.compress(CONTENT.encode(), mtime=0),
        CONTENT.replace("\n", "\r\n"),
        "\ufeff" + CONTENT,
        CONTENT.replace('"\n', '",,,\r\n'),
        CONTENT.replace('"\n', '",\n').rstrip("\n"),
        # A spreadsheet on its way out: no blanks, quotes only where needed, commas everywhere.
        "\ufeff# Segments csv created,,,,,\r\n"
        '"# num_ytids=3",num_segs=3,,,,\r\n# YTID,start_seconds,end_seconds,positive_labels,,\r\n'
        '-x_1,30,40,"/t/hum,/m/rain",,\r\n_y,0,7.001,/m/steam,,\r\nz,0.12345,10,/t/hum,,\r\n',
        # The same label twice and in another order is the same set.
        CONTENT.replace("/t/hum,/m/rain", "/m/rain,/t/hum,/m/rain"),
    ],
    ids=[
        *("official", "bare", "gzip", "crlf", "bom", "commas", "commas_at_the_end"),
        *("spreadsheet", "twice"),
    ],
)
def test_parquet(run, tmp_path, content):
    assert run(content)[0] == 0
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
        (CONTENT + "w\n", "1 malformed rows, the first is row 7: 'w'"),
        (CONTENT + "w, 0, 1, /m/rain, /m/steam\nv\n", "2 malformed rows, the first is row 7"),
        (CONTENT + 'w, zero, 1, "/m/rain"\n', "1 rows have a start_s that is not a number"),
        (CONTENT + 'w, 0, 1, ""\n', "1 rows have no label, the first is row 7: w, 0, 1, "),
        (CONTENT + ', 0, 1, "/m/rain"\n', "1 rows have no clip id, the first is row 7"),
        (CONTENT + '_y, 5, 9, "/m/rain"\n', "1 clip ids stand more than once (_y)"),
        (HEADER, "no segments; expected rows of YTID, start, end"),
        ("", "no segments"),
        ("\n\n", "no segments"),
        (b"\x1f\x8b broken", "cannot read the segments"),
        (gzip.compress(CONTENT.encode(), mtime=0)[:-9], "cannot read the segments"),
    ],
)
def test_refused_segments(run, tmp_path, content, message):
    status, log = run(content)
    assert status == 1
    assert log.startswith(f"error: {tmp_path}/segments0.csv")
    assert message in log
    assert log.count("\n") == 1
    assert not (tmp_path / "labels.parquet").exists()


def test_a_clip_in_two_files(run):
    status, log = run(CONTENT, CONTENT)
    assert status == 1
    assert "segments0.csv, " in log
    assert "segments1.csv: 3 clip ids stand more than once (-x_1, _y, z)" in log


@pytest.mark.parametrize("length", [3, 8, 11])
def test_duplicates_among_many(run, length):
    """Ids of one length of 8 and more go through the quick test first, in several blocks."""
    ids = [f"{number:0{length}}" for number in range(900)]
    rows = [f'{clip_id}, 0, 1, "/m/rain"\n' for clip_id in ids]
    assert run("".join(rows))[0] == 0
    status, log = run("".join([*rows, rows[7], rows[9]]), overwrite=True)
    assert status == 1
    assert f"2 clip ids stand more than once ({ids[7]}, {ids[9]})" in log


def test_rows_are_numbered_through_all_blocks(run, monkeypatch):
    monkeypatch.setattr("data_prep.segments._BLOCK_BYTES", 64)
    rows = [f'c{number}, 0, 1, "/m/rain"\n' for number in range(200)]
    rows[150] = "c150, 0, 1\n"
    rows[160] = "c160, 0, 1\n"
    status, log = run(HEADER + "".join(rows))
    assert status == 1
    assert "2 malformed rows, the first is row 154: 'c150,0,1'" in log


def test_blocks_change_nothing(run, tmp_path, monkeypatch):
    labels = ["/m/drop", "/m/rain,/t/hum"]
    lines = [f'c{i}, {i}.000, {i + 1}.500, "{labels[i % 2]}"' for i in range(99)]
    run("\ufeff" + HEADER + "\r\n".join(lines))
    whole = rows_of(tmp_path / "labels.parquet")
    for size in (7, 64, 1000):
        monkeypatch.setattr("data_prep.segments._BLOCK_BYTES", size)
        run("\ufeff" + HEADER + "\r\n".join(lines), overwrite=True)
        assert rows_of(tmp_path / "labels.parquet") == whole
    assert [row[0] for row in whole] == [f"c{i}" for i in range(99)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"child_ids": []}]', '"child_ids": ["/t/hum"]}]'), "child_ids form a cycle"),
        (('"/m/steam"]', '"/m/fog"]'), "has the child '/m/fog', which is not in the file"),
        (('"id": "/t/hum"', '"id": "/m/rain"'), "the id '/m/rain' stands 2 times"),
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


def test_audioset_in_every_format(real_segments, tmp_path):
    """Real segments in each format against the set form, clip by clip."""
    ontology = Ontology.audioset()
    path = real_segments[0]
    for format in ("parquet", "csv", "npz"):
        flags = [f"--segments={path}", f"--output={tmp_path / 'labels'}.{format}"]
        assert main([*flags, f"--format={format}"]) == 0
    # AudioSet's own form, read as people read it, row by row.
    original = pd.read_csv(path, skiprows=3, header=None, skipinitialspace=True)
    pel = pd.read_csv(tmp_path / "labels.pel.csv", skiprows=3, header=None, skipinitialspace=True)
    pe_cml = pd.read_csv(
        tmp_path / "labels.pe_cml.csv",
        skiprows=3,
        header=None,
        skipinitialspace=True,
        keep_default_na=False,
    )
    table = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    with np.load(tmp_path / "labels.npz") as arrays:
        bits = {
            name: np.unpackbits(arrays[name], axis=1, count=632).astype(bool)
            for name in ("ol", "pel", "masked")
        }
    num_clips = 22_160 if len(real_segments) == 2 else 300
    assert len(table) == len(original) == len(pel) == len(pe_cml) == num_clips
    np.testing.assert_array_equal(original[[0, 1, 2]].to_numpy(), pe_cml[[0, 1, 2]].to_numpy())
    mids = np.array(ontology.mids)
    for clip, row in enumerate(table):
        labels = set(original[3][clip].split(","))
        positive, masked = relabel_set(labels, ontology, "pe_cml")
        assert row["clip_id"] == original[0][clip]
        assert (row["start_s"], row["end_s"]) == (original[1][clip], original[2][clip])
        assert set(row["ol"]) == labels
        assert set(row["pel"]) == positive
        assert set(row["masked"]) == masked
        for name in ("ol", "pel", "masked"):
            assert mids[bits[name][clip]].tolist() == row[name]  # in the ontology's order
        assert pel[3][clip] == pe_cml[3][clip] == ",".join(row["pel"])
        assert pe_cml[4][clip] == ",".join(row["masked"])
    # What we wrote is a segment file again.
    assert len(read_segments([tmp_path / "labels.pel.csv"], ontology)) == num_clips
    with pytest.raises(InputError, match=f"{num_clips} malformed rows"):
        read_segments([tmp_path / "labels.pe_cml.csv"], ontology)
