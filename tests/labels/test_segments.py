"""Segment files from various programs, and bad files."""

import csv
import gzip
import itertools

import numpy as np
import pytest
from segment_inputs import write_segment_files

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot, read_segments

ONTOLOGY = Ontology.from_text(
    '[{"id": "/m/a", "name": "A", "child_ids": ["/m/b"]},'
    ' {"id": "/m/b", "name": "B", "child_ids": []},'
    ' {"id": "/t/c", "name": "C", "child_ids": []}]'
)
HEADER = "# Segments csv created\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
ROWS = '-x_1, 30.000, 40.000, "/m/b,/t/c"\n_y, 0.000, 7.001, "/m/a"\n'


def read(tmp_path, *contents: str | bytes, **options):
    return read_segments(write_segment_files(tmp_path, contents), ONTOLOGY, **options)


@pytest.mark.parametrize(
    "content",
    [
        HEADER + ROWS,
        ROWS,
        gzip.compress((HEADER + ROWS).encode(), mtime=0),
        (HEADER + ROWS).replace("\n", "\r\n"),
        "\ufeff" + HEADER + ROWS,
        "\ufeff" + ROWS,
        (HEADER + ROWS).replace('"\n', '",,,\n'),
        (HEADER + ROWS).replace('"\n', '",\r\n'),
        (HEADER + ROWS).replace(", ", ","),
        (HEADER + ROWS).rstrip("\n"),
        (HEADER + ROWS).replace('"\n', '",\n').rstrip("\n"),
        # A spreadsheet's export: no blanks, quotes only where needed, commas everywhere.
        "\ufeff# Segments csv created,,,,,\r\n"
        '"# num_ytids=2",num_segs=2,,,,\r\n# YTID,start_seconds,end_seconds,positive_labels,,\r\n'
        '-x_1,30,40,"/m/b,/t/c",,\r\n_y,0,7.001,/m/a,,\r\n',
        # Repeated labels and another order give the same set.
        (HEADER + ROWS).replace("/m/b,/t/c", "/t/c,/m/b,/t/c"),
    ],
    ids=[
        "as_is",
        "no_header",
        "gzip",
        "crlf",
        "bom",
        "bom_no_header",
        "commas",
        "commas_crlf",
        "no_blanks",
        "no_last_newline",
        "comma_at_the_end",
        "spreadsheet",
        "twice",
    ],
)
def test_forms(tmp_path, content):
    segments = read(tmp_path, content)
    assert segments.clip_ids.to_pylist() == ["-x_1", "_y"]
    np.testing.assert_array_equal(segments.start_s, [30, 0])
    np.testing.assert_array_equal(segments.end_s, [40, 7.001])
    assert segments.labels.to_pylist() == [[1, 2], [0]]
    np.testing.assert_array_equal(multi_hot(segments.labels, 3), [[0, 1, 1], [1, 0, 0]])


def test_several_files(tmp_path):
    segments = read(tmp_path, HEADER + ROWS, gzip.compress(b'z, 1, 2, "/m/a"\n'))
    assert segments.clip_ids.to_pylist() == ["-x_1", "_y", "z"]
    assert segments.labels.to_pylist() == [[1, 2], [0], [0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + ROWS + 'z, 0, 1, "/m/q,/m/a"\n', "1 mids are not in the ontology (/m/q)"),
        (HEADER + ROWS + 'z, 0, 1, "/m/a,"\n', "1 mids are not in the ontology"),
        (HEADER + ROWS + "z, 0, 1\n", "1 malformed rows, the first is row 6: 'z,0,1'"),
        (HEADER + ROWS + "z\n", "1 malformed rows, the first is row 6: 'z'"),
        (HEADER + ROWS + "z, 0, 1, /m/a, /m/b\nq\n", "2 malformed rows, the first is row 6"),
        (HEADER + ROWS + 'z, zero, 1, "/m/a"\n', "1 rows have a start_s that is not a number"),
        (HEADER + ROWS + 'z, 0, -1, "/m/a"\n', "1 rows have a end_s that is not a number"),
        (HEADER + ROWS + 'z, 0, nan, "/m/a"\n', "1 rows have a end_s that is not a number"),
        (HEADER + ROWS + 'z, 0, 1, ""\n', "1 rows have no label, the first is row 6"),
        (HEADER + ROWS + ', 0, 1, "/m/a"\n', "1 rows have no clip id, the first is row 6"),
        (HEADER + ROWS + '_y, 0, 7.001, "/m/b"\n', "1 clip ids occur more than once (_y)"),
        (HEADER, "no segments"),
        ("", "no segments"),
        ("\n\n", "no segments"),
        (b"\x1f\x8b broken", "cannot read the segments"),
        (gzip.compress(ROWS.encode(), mtime=0)[:-9], "cannot read the segments"),
        (b'x, 0, 1, "/m/a"\n\xff\xfe, 0, 1, "/m/a"\n', "row 2 has the byte 0xff, which is not UTF"),
    ],
)
def test_refused(tmp_path, content, message):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/segments0.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_are_numbered_through_all_blocks(tmp_path):
    rows = [f'c{number}, 0, 1, "/m/b"\n' for number in range(200)]
    rows[150] = "c150, 0, 1\n"
    rows[160] = "c160, 0, 1\n"
    with pytest.raises(InputError, match=r"2 malformed rows, the first is row 154: 'c150,0,1'"):
        read(tmp_path, HEADER + "".join(rows), block_bytes=64)


@pytest.mark.parametrize("block_bytes", [7, 64, 1000])
def test_blocks_change_nothing(tmp_path, block_bytes):
    labels = ["/m/a", "/m/b,/t/c"]
    lines = [f'c{i}, {i}.000, {i + 1}.500, "{labels[i % 2]}"' for i in range(99)]
    segments = read(tmp_path, "\ufeff" + HEADER + "\r\n".join(lines), block_bytes=block_bytes)
    assert segments.clip_ids.to_pylist() == [f"c{i}" for i in range(99)]
    assert segments.start_s.tolist() == list(range(99))
    assert segments.end_s.tolist() == [i + 1.5 for i in range(99)]
    assert segments.labels.to_pylist() == [[[0], [1, 2]][i % 2] for i in range(99)]


@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ({}, "or remove these labels"),
        ({"unknown": "refuse"}, "or drop these labels (--unknown=drop)"),
    ],
)
def test_the_hint_is_a_flag_of_the_command(tmp_path, flags, hint):
    (tmp_path / "segments.csv").write_text(ROWS + 'z, 0, 1, "/m/q"\n')
    with pytest.raises(InputError) as caught:
        read_segments([tmp_path / "segments.csv"], ONTOLOGY, **flags)
    assert str(caught.value).endswith(hint)


def test_a_clip_in_two_files_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"segments0\.csv, .*segments1\.csv: 2 clip ids occur"):
        read(tmp_path, ROWS, ROWS)


@pytest.mark.parametrize("length", [3, 8, 11])
def test_duplicates_among_many(tmp_path, length):
    ids = [f"{number:0{length}}" for number in range(900)]
    rows = [f'{clip_id}, 0, 1, "/m/a"\n' for clip_id in ids]
    assert len(read(tmp_path, "".join(rows))) == 900
    with pytest.raises(InputError) as caught:
        read(tmp_path, "".join([*rows, rows[7], rows[9]]))
    assert f"2 clip ids occur more than once ({ids[7]}, {ids[9]})" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv: cannot read the segments: .*No such file"):
        read_segments([tmp_path / "nowhere.csv"], ONTOLOGY)


def test_the_sample_row_by_row(segments_sample):
    """Against Python's csv module; the mids of a clip are in the ontology's order."""
    with open(segments_sample, newline="") as file:
        rows = list(csv.reader(itertools.islice(file, 3, None), skipinitialspace=True))
    ontology = Ontology.audioset()
    segments = read_segments([segments_sample], ontology)
    assert segments.clip_ids.to_pylist() == [row[0] for row in rows]
    assert segments.start_s.tolist() == [float(row[1]) for row in rows]
    assert segments.end_s.tolist() == [float(row[2]) for row in rows]
    expected = [sorted(map(ontology.mids.index, row[3].split(","))) for row in rows]
    assert segments.labels.to_pylist() == expected


@pytest.mark.parametrize(
    ("name", "num_clips", "labels_per_clip"),
    [("balanced_train_segments.csv", 22_160, 2.386), ("eval_segments.csv", 20_371, 2.543)],
)
def test_audioset(audioset_dir, name, num_clips, labels_per_clip):
    """Counts of AudioSet's files."""
    segments = read_segments([audioset_dir / name], Ontology.audioset())
    assert len(segments) == num_clips
    assert len(segments.labels.flatten()) / num_clips == pytest.approx(labels_per_clip, abs=5e-4)
