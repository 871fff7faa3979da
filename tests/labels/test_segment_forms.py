"""Segment files as spreadsheets, editors and scripts leave them: read right, or refused."""

import csv
import gzip
import io
import json
import pathlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_inputs import write_segment_files

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segment_layout import HEADER_NAMES
from relabel_jax.labels.segments import GroupedSegments, read_segments
from relabel_jax.labels.segments_csv import write_segments

NAMES = {"/m/a": "Speech", "/m/b": "Male speech, man speaking", "/t/c": "Dentist's drill"}
ONTOLOGY = Ontology.from_text(
    json.dumps([{"id": mid, "name": name, "child_ids": []} for mid, name in NAMES.items()])
)
MIDS = list(NAMES)
HEADER = "# Segments csv created\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
DOCS = pathlib.Path(__file__).parents[2] / "docs" / "data.md"
CASES = pathlib.Path(__file__).parents[3] / "shared" / "cases" / "csv"
Row = tuple[str, float, float, tuple[int, ...]]


def read(folder, content: str | bytes, **options) -> list[Row]:
    return rows_of(read_segments(write_segment_files(folder, (content,)), ONTOLOGY, **options))


def rows_of(segments: GroupedSegments) -> list[Row]:
    columns = (
        segments.clip_ids.to_pylist(),
        segments.start_s.tolist(),
        segments.end_s.tolist(),
        map(tuple, segments.labels.to_pylist()),
    )
    return list(zip(*columns, strict=True))


X = ("x", 30.0, 40.0, (1, 2))
Y = ("y", 0.5, 7.001, (0,))
ROWS = 'x, 30.000, 40.000, "/m/b,/t/c"\ny, 0.500, 7.001, "/m/a"\n'
PLAIN_HEADER = "YTID,start_seconds,end_seconds,positive_labels\n"

# By the row of the table in docs/data.md, files with the rows X and Y.
FORMS: dict[str, list[str | bytes]] = {
    "AudioSet's own": [HEADER + ROWS, ROWS, (HEADER + ROWS).replace(", ", ",")],
    "gzip": [gzip.compress((HEADER + ROWS).encode())],
    "line ends": [
        (HEADER + ROWS).replace("\n", "\r\n"),
        (HEADER + ROWS).replace("\n", "\r"),
        (HEADER + ROWS).replace("\n", "\n   \n"),
    ],
    "encoding": [
        "\ufeff" + HEADER + ROWS,
        (HEADER + ROWS).encode("utf-16"),
        (HEADER + ROWS).encode("utf-16-le"),
        (HEADER + ROWS).encode("utf-16-be"),
    ],
    "header": [
        PLAIN_HEADER + ROWS,
        ',YTID,start,end,labels\n0,x,30.0,40.0,"/m/b,/t/c"\n1,y,0.5,7.001,/m/a\n',
        'labels,video id,End_S,start_s,"split"\n"/m/b,/t/c",x,40,30,train\n/m/a,y,7.001,.5,\n',
        '"YTID","start_ms","end_ms","labels"\nx,30000,40000,"/m/b,/t/c"\ny,500,7001,/m/a\n',
    ],
    "joined files": [
        HEADER + ROWS.replace("\n", "\n" + HEADER, 1),
        PLAIN_HEADER + ROWS.replace("\n", "\n\ufeff" + PLAIN_HEADER, 1),
        "\ufeff" + HEADER + ROWS.replace("\n", "\n\ufeff" + HEADER, 1),
    ],
    "delimiter": [
        "x;30;40;/m/b,/t/c\ny;0,5;7,001;/m/a\n",
        PLAIN_HEADER.replace(",", ";") + "x;30;40;/m/b,/t/c\ny;0,5;7,001;/m/a;\n",
        HEADER + 'x\t30.000\t40.000\t"/m/b,/t/c"\ny\t.5\t7.001\t/m/a\t\t\n',
        "x|30|40|/m/b,/t/c\ny|.5|7.001|/m/a\n",
    ],
    "quotes and blanks": [
        HEADER + "x, 30, 40, '/m/b,/t/c'\ny, 0.5, 7.001, '/m/a'\n",
        HEADER + '"x","30.000","40.000","/m/b,/t/c"\n"y","0.5","7.001","/m/a"\n',
        HEADER + '  x , 30.000 , 40.000, " /m/b,/t/c " \n"y" , .5, "7.001" ,"/m/a"\n',
        HEADER + 'x, 30, 40, "/m/b,/t/c",,,\ny, 0.5, 7.001, "/m/a",,,\n',
    ],
    "times": [
        HEADER + 'x, 3e1, +40., "/m/b,/t/c"\ny, .5, 7.001, "/m/a"\n',
        HEADER + 'x, 0:30, 00:00:40, "/m/b,/t/c"\ny, 0:00.5, 0:07.001, "/m/a"\n',
        HEADER + 'x, "30,000", "40,0", "/m/b,/t/c"\ny, "0,5", "7,001", "/m/a"\n',
    ],
    "labels": [
        HEADER + 'x, 30, 40, "Dentist\'s drill,Male speech, man speaking"\ny, .5, 7.001, speech\n',
        HEADER + 'x, 30, 40, "/m/b;/t/c"\ny, .5, 7.001, "/m/a;/m/a"\n',
        HEADER + 'x, 30, 40, "/m/b, /t/c"\ny, .5, 7.001, "/m/a "\n',
        HEADER + "x, 30, 40, /m/b /t/c\ny, .5, 7.001, /m/a\n",
        HEADER + "x, 30, 40, \"['/m/b', '/t/c']\"\ny, .5, 7.001, \"['Speech']\"\n",
        HEADER + 'x, 30, 40, "Male speech, man speaking;/t/c"\ny, .5, 7.001, Speech\n',
    ],
}


@pytest.mark.parametrize(("form", "number"), [(f, n) for f in FORMS for n in range(len(FORMS[f]))])
def test_forms(form, number, tmp_path):
    assert read(tmp_path, FORMS[form][number]) == [X, Y]


def test_the_documents_list_the_forms():
    table = DOCS.read_text().partition("## Forms of segment files")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    assert listed[1:] == [*FORMS, "AudioSet-Strong", "JSON of AST"]
    names = set(re.findall(r"`(\w+)`", table))
    for column, known in HEADER_NAMES.items():
        if column != "masked":
            assert set(known) <= {name.lower().replace("_", "") for name in names}, column


@st.composite
def tables(draw) -> list[Row]:
    ids = st.text("abcXYZ019-_ ,;'é", min_size=1, max_size=8).filter(
        lambda text: text == text.strip() and text[0] not in "'"
    )
    rows = []
    for clip_id in draw(st.lists(ids, min_size=1, max_size=6, unique=True)):
        start = draw(st.integers(0, 600_000)) / 1000
        length = draw(st.integers(1000, 10_000)) / 1000
        labels = draw(st.sets(st.sampled_from(range(len(MIDS))), min_size=1))
        rows.append((clip_id, start, round(start + length, 3), tuple(sorted(labels))))
    return rows


@pytest.mark.parametrize("delimiter", ",;\t|")
@pytest.mark.parametrize(
    "header", ["", HEADER, "index,YTID,start,end,labels", "id,start,end,label"]
)
@settings(max_examples=20)
@given(
    rows=tables(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    time=st.sampled_from(["{:.3f}", "{!r}", "{:.6e}"]),
    names=st.booleans(),
)
def test_every_dialect_gives_the_same_segments(
    delimiter, header, rows, encoding, line_end, quoting, time, names, tmp_path_factory
):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    if header == HEADER:
        text.write(header.replace("\n", line_end))
    elif header:
        writer.writerow(header.split(","))
    for clip_id, start, end, labels in rows:
        mids = ",".join(NAMES[MIDS[i]] if names else MIDS[i] for i in labels)
        number = ["7"] if header.startswith("index") else []
        writer.writerow([*number, clip_id, time.format(start), time.format(end), mids])
    path = tmp_path_factory.getbasetemp() / "dialect.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    assert rows_of(read_segments([path], ONTOLOGY)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + 'x, 40, 30, "/m/a"\n', "1 rows end before they start, the first is row 4: x,40"),
        (HEADER + 'x, 30, 30, "/m/a"\n', "rows end before they start"),
        (HEADER + 'x, 30, 40, "/m/a\ny, 0, 1, "/m/b"\n', "1 malformed rows, the first is row 4"),
        (HEADER + 'x, "1,000", "1,010", "/m/a"\n', "may be decimal or of thousands"),
        (HEADER + 'x, 30, 40000000, "/m/a"\n', "end_s above 10,000,000 s"),
        (HEADER + "x, 0:75, 1:90, /m/a\n", "start_s that is not a number of seconds"),
        (HEADER + 'x, 30000, 40000, "/m/a"\n', "if their times are milliseconds"),
        (HEADER + "x, 30, 40, 0\n", "the label '0' is a class number"),
        (HEADER + "x, 30, 40, Sneeze\n", "1 mids are not in the ontology (Sneeze)"),
        (PLAIN_HEADER + "x,30,40,/m/a,/m/b\n", "1 malformed rows, the first is row 2"),
        ("YTID,start,end,labels,masked\nx,30,40,/m/a,/m/b\n", "a header names masked labels"),
        (ROWS + "segment_id,start,end,label\nx_0,1,2,/m/a\n", "has headers of segments and of ev"),
        ("YTID,label\nx,/m/a\n", "2 malformed rows, the first is row 1: 'YTID,label'"),
        ("é, 30, 40, /m/a\n".encode("latin-1"), "row 1 has the byte 0xe9, which is not UTF-8"),
        (b"PK\x03\x04\x00\x00\x08", "it is a binary file"),
        (b"\x89PNG\r\n\x1a\n\x00", "row 1 has the byte 0x89"),
    ],
)
def test_refused(content, message, tmp_path):
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/segments0.csv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "clip_id", ["rain, heavy", "audio/1.wav", "007", "#tag", "café", "a;b", "it's", "#a b"]
)
def test_ids_are_kept_as_they_are(clip_id, tmp_path):
    row = f'"{clip_id}", 30, 40, "/m/a"\n'
    for content in (row, HEADER + row, HEADER + 'w, 0, 1, "/m/b"\n' + row):
        rows = read(tmp_path, content)
        assert rows[-1] == (clip_id, 30.0, 40.0, (0,))
    segments = read_segments([tmp_path / "segments0.csv"], ONTOLOGY)
    with open(tmp_path / "written.csv", "wb") as file:
        write_segments(
            file,
            clip_ids=segments.clip_ids,
            start_s=segments.start_s,
            end_s=segments.end_s,
            label_columns={"positive_labels": segments.label_sets},
            set_numbers=segments.set_numbers,
            mids=MIDS,
            title="Written",
        )
    assert rows_of(read_segments([tmp_path / "written.csv"], ONTOLOGY)) == rows


def test_comments_and_ids_that_begin_with_a_number_sign(tmp_path):
    content = '# x, 1, 2, "/m/a"\n#made by me\n#x, 30, 40, "/m/b"\n# y, 1, 2, "/m/a"\n'
    assert read(tmp_path, content) == [("#x", 30.0, 40.0, (1,))]


def test_class_numbers(tmp_path):
    content = HEADER + 'x, 30, 40, "1,2"\ny, 0.5, 7.001, 0\n'
    assert read(tmp_path, content, class_mids=MIDS) == [X, Y]
    with pytest.raises(InputError, match="'3' is not a class number of the 3"):
        read(tmp_path, "x, 30, 40, 3\n", class_mids=MIDS)


def test_names_with_two_meanings_are_refused(tmp_path):
    nodes = [{"id": f"/m/{n}", "name": name} for n, name in enumerate(["A", "B", "A, B"])]
    path = tmp_path / "segments.csv"
    path.write_text('x, 0, 1, "A, B"\n')
    with pytest.raises(InputError, match=r"segments\.csv: the labels 'A,B' may mean \['/m/2'\] or"):
        read_segments([path], Ontology.from_text(json.dumps(nodes)))


def test_several_segments_of_a_recording(tmp_path, capsys):
    content = (
        'x, 30, 40, "/m/a"\ny, 0, 10, "/m/a"\nx, 0, 7.5, "/m/b"\nz, 1.5, 2, /m/a\nz, 1.5, 3, /m/b\n'
    )
    rows = read(tmp_path, content)
    ids = ["x_30000", "y", "x_0", "z_1500_2000", "z_1500_3000"]
    assert [row[0] for row in rows] == ids
    assert "4 segments of 2 recordings with several segments" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"1 clips would have the ids of others \(x_0\)"):
        read(tmp_path, content + "x_0, 3, 4, /m/a\n")


@pytest.mark.parametrize("extra", [False, True])
def test_audioset_strong(extra, tmp_path):
    rows = ["q_w_30000\t0.2\t3.1\t/m/b", "p_0\t0\t0.000\t/m/a", "q_w_30000\t4\t5\t/t/c"]
    rows += ["q_w_30000\t9\t10.5\t/m/b", "p_0\t1\t2\t/m/a"]
    header = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel"
    if extra:
        header += "\tpresent"
        rows = [f"{row}\tPRESENT" for row in rows] + ["p_0\t2\t3\t/t/c\tNOT_PRESENT"]
    (tmp_path / "strong.tsv").write_text("\n".join([header, *rows]))
    segments = read_segments([tmp_path / "strong.tsv"], ONTOLOGY)
    assert rows_of(segments) == [("q_w_30000", 30.0, 40.0, (1, 2)), ("p_0", 0.0, 10.0, (0,))]
    (tmp_path / "strong.tsv").write_text(f"{header}\nabc\t0\t1\t/m/a\n".replace("\tpresent", ""))
    with pytest.raises(InputError, match="1 rows have a segment_id without _MILLISECONDS"):
        read_segments([tmp_path / "strong.tsv"], ONTOLOGY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"wav": "x.wav"}], "is not a data file of AST or PSLA"),
        ([{"wav": "x.wav", "labels": "/m/a", "masked": "/m/b"}], "1 clips have masked labels"),
        ([{"wav": "x.wav", "labels": ""}], "1 clips have no labels, the first is number 1"),
        ([], "no segments"),
        (None, None),
    ],
)
def test_json_of_ast(data, message, tmp_path):
    path = tmp_path / "train.json"
    good = [{"wav": "/d/x.flac", "labels": "/m/b,/t/c"}, {"wav": "Yy.wav", "labels": "Speech"}]
    path.write_text(json.dumps({"data": good if data is None else data}))
    if data is None:
        rows = rows_of(read_segments([path], ONTOLOGY))
        assert rows == [("x", 0.0, 10.0, (1, 2)), ("Yy", 0.0, 10.0, (0,))]
    else:
        with pytest.raises(InputError, match=message):
            read_segments([path], ONTOLOGY)


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder ../shared/cases")
def test_the_shared_cases_are_read_or_refused():
    """What is read has the two clips that these files are made from, or their own odd id."""
    known = {"--PJHxphWEs": 30.0, "-0RWZT-miFs": 420.0}
    refused = set()
    for path in sorted(CASES.iterdir()):
        try:
            segments = read_segments([path], Ontology.audioset())
        except InputError:
            refused.add(path.stem)
            continue
        for clip_id, start_s, _, labels in rows_of(segments):
            assert start_s == known.get(clip_id, start_s)
            assert labels
    faults = ["dup_row", "empty_labels", "end_before_start", "long_digits", "ms", "unclosed_quote"]
    assert refused == {*faults, "latin1_malformed"}
