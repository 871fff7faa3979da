"""Label files of every form against what was written, and bad files."""

import csv
import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.relabel import relabel_files
from relabel_jax.errors import InputError
from relabel_jax.labels.label_files import labeling_files, read_label_file
from relabel_jax.labels.labelings import relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

MIDS = ("/m/a", "/m/b", "/t/c")
ONTOLOGY = Ontology.from_text(
    json.dumps([{"id": mid, "name": mid[-1].upper(), "child_ids": []} for mid in MIDS])
)
Clips = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]


@st.composite
def labelled_clips(draw) -> Clips:
    """By clip id, positive and masked mids without a common one."""
    kinds = st.lists(st.sampled_from("+?-"), min_size=len(MIDS), max_size=len(MIDS))
    ids = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,11}", fullmatch=True), min_size=1, unique=True)
    clips: Clips = {}
    for clip_id in draw(ids):
        kind = draw(kinds)
        clips[clip_id] = tuple(
            tuple(mid for mid, of_mid in zip(MIDS, kind, strict=True) if of_mid == wanted)
            for wanted in "+?"
        )
    return clips


def write_parquet(path, clips: Clips, names=("positive", "masked")):
    columns = {"clip_id": list(clips)}
    for number, name in enumerate(names):
        columns[name] = pa.array(
            [list(each[number]) for each in clips.values()], pa.list_(pa.string())
        )
    pq.write_table(pa.table(columns), path)


def write_csv(path, clips: Clips):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "positive", "masked"])
        writer.writerows([clip, *map(",".join, both)] for clip, both in clips.items())


def write_json(path, clips: Clips):
    data = [
        {"wav": f"/data/{clip}.wav", "labels": ",".join(positive), "masked": ",".join(masked)}
        for clip, (positive, masked) in clips.items()
    ]
    path.write_text(json.dumps({"data": data}))


WRITERS = {
    "a.parquet": write_parquet,
    "a.csv": write_csv,
    "a.csv.gz": write_csv,
    "a.json": write_json,
}


def as_clips(positive, masked, clip_ids) -> Clips:
    def mids(row):
        return tuple(MIDS[i] for i in np.flatnonzero(row))

    pairs = zip(positive.toarray(), masked.toarray(), strict=True)
    return {clip: (mids(p), mids(m)) for clip, (p, m) in zip(clip_ids, pairs, strict=True)}


@pytest.mark.parametrize("name", WRITERS)
@given(clips=labelled_clips())
def test_every_form_is_read_as_written(name, clips, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / name
    WRITERS[name](path, clips)
    file = read_label_file(path, ONTOLOGY)
    assert file.clip_ids.to_pylist() == list(clips)
    in_another_order = sorted(clips)
    assert as_clips(*file.labels(in_another_order), in_another_order) == clips
    assert file.digest == read_label_file(path, ONTOLOGY).digest


@pytest.mark.parametrize("labeling", ["pel", "pe_cml"])
def test_reads_the_csv_that_relabel_writes(labeling, real_segments, tmp_path):
    ontology = Ontology.audioset()
    relabel_files(segments=real_segments, output=tmp_path / "x.csv", format="csv")
    file = read_label_file(tmp_path / f"x.{labeling}.csv", ontology)
    segments = read_segments(real_segments, ontology)
    rows = range(0, len(segments), 97)
    clip_ids = [segments.clip_ids[row].as_py() for row in rows]
    positive, masked = (matrix.toarray() for matrix in file.labels(clip_ids))
    for number, row in enumerate(rows):
        original = {ontology.mids[i] for i in segments.labels[row].as_py()}
        expected = relabel_set(original, ontology, labeling)
        for matrix, mids in zip((positive, masked), expected, strict=True):
            assert {ontology.mids[i] for i in np.flatnonzero(matrix[number])} == mids


def test_a_parquet_file_of_several_labelings(tmp_path):
    clips = {"x": (("/m/a",), ("/m/b",))}
    path = tmp_path / "a.parquet"
    write_parquet(path, clips, names=("mine", "mine_masked"))
    assert as_clips(*read_label_file(path, ONTOLOGY, "mine").labels(["x"]), ["x"]) == clips
    with pytest.raises(InputError, match="columns clip_id and yours or positive, found clip_id, m"):
        read_label_file(path, ONTOLOGY, "yours")


def test_clips_are_found_under_their_usual_names(tmp_path):
    write_json(tmp_path / "a.json", {"Y-abc": (("/m/a",), ()), "Ydef": ((), ())})
    file = read_label_file(tmp_path / "a.json", ONTOLOGY)
    names = ["-abc", "Y-abc", "audio/Y-abc.flac", "-abc.wav", "def", "abc"]
    assert file.rows(names).tolist() == [0, 0, 0, 0, 1, -1]
    with pytest.raises(InputError, match=r"has no labels for 2 of the 3 clips \(abc, x\)"):
        file.labels(["abc", "def", "x"])


@pytest.mark.parametrize(
    "name",
    [
        "{}_30.0-40.0.wav",
        "Y{}_30.000_40.000",
        "{}_000030.mp4",
        "{}_30",
        "{}_30000",
        "Live [{}].mp3",
    ],
)
def test_clips_are_found_under_names_with_times(tmp_path, name):
    """A file without times takes any, unless several names would mean the same clip."""
    (tmp_path / "timed.csv").write_text('ab_c, 30, 40, "/m/a"\ndef, 0, 10, "/m/b"\n')
    write_csv(tmp_path / "plain.csv", {"ab_c": (("/m/a",), ()), "def": ((), ())})
    for file in ("timed.csv", "plain.csv"):
        labels = read_label_file(tmp_path / file, ONTOLOGY)
        assert labels.rows([name.format("ab_c"), "def"]).tolist() == [0, 1]
    timed, plain = (
        read_label_file(tmp_path / f"{each}.csv", ONTOLOGY) for each in ("timed", "plain")
    )
    assert timed.rows(["ab_c_70.0-80.0", "ab_c_30_41", "def_0"]).tolist() == [-1, -1, 1]
    assert plain.rows(["ab_c_70.0-80.0"]).tolist() == [0]
    assert plain.rows(["ab_c_70.0-80.0", "ab_c_30", "def_0"]).tolist() == [-1, -1, 1]


def test_unknown_mids_are_refused_or_counted(tmp_path):
    write_csv(tmp_path / "a.csv", {"x": (("/m/a", "/m/no"), ()), "y": (("/m/no",), ("/m/b",))})
    with pytest.raises(InputError, match=r"1 mids are not in the ontology \(/m/no\)"):
        read_label_file(tmp_path / "a.csv", ONTOLOGY)
    file = read_label_file(tmp_path / "a.csv", ONTOLOGY, unknown="drop")
    assert file.dropped == {"/m/no": 2}
    assert as_clips(*file.labels("xy"), "xy") == {"x": (("/m/a",), ()), "y": ((), ("/m/b",))}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            'clip_id,positive,masked\nx,"/m/a",\ny,"/m/a,/m/b","/t/c,/m/b"\n',
            r"the clip 'y', row 2 of the clips, has /m/b \(B\) as positive and as masked",
        ),
        ("a.csv", "clip_id,positive\nx,/m/a\nx,/m/b\n", r"1 clips occur more than once \(x\)"),
        ("a.csv", "clip_id,labels\nx,/m/a\n", "columns clip_id, labels; expected clip_id,positive"),
        ("a.csv", "clip_id,positive\n", "has no clips"),
        ("a.csv", "", "no segments"),
        ("a.csv", "x, 0.000, 10.000\n", "malformed rows"),
        ("a.json", '{"data": [{"wav": "x.wav"}]}', "is not a data file of AST or PSLA"),
        ("a.json", "[", "is not a data file of AST or PSLA"),
        ("a.json", '{"data": []}', "has no clips"),
        ("a.parquet", "PAR1", "cannot read the labels"),
        ("a.npz", "", r"expected a file that ends in .parquet, .csv"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as refused:
        read_label_file(tmp_path / name, ONTOLOGY)
    assert str(refused.value).startswith(str(tmp_path / name))
    assert "\n" not in str(refused.value)


def test_bad_parquet_columns(tmp_path):
    path = tmp_path / "a.parquet"
    for column, message in (
        (["/m/a"], "the column positive is string; expected lists of mids"),
        ([None], "the column positive has 1 empty rows"),
    ):
        pq.write_table(pa.table({"clip_id": ["x"], "positive": column}), path)
        with pytest.raises(InputError, match=message):
            read_label_file(path, ONTOLOGY)
    with pytest.raises(InputError, match="cannot read the labels"):
        read_label_file(tmp_path / "gone.parquet", ONTOLOGY)


def test_names_of_labelings():
    assert labeling_files("") == {}
    parsed = labeling_files("psla=a,b/c.json,mine_2=/x=y.csv")
    assert {name: str(path) for name, path in parsed.items()} == {
        "psla": "a,b/c.json",
        "mine_2": "/x=y.csv",
    }
    for text, message in (
        ("pel=x.csv", "the name 'pel' is taken"),
        ("a=x.csv,a=y.csv", "the name 'a' is taken"),
        ("truth=x.csv", "the name 'truth' is taken"),
        ("A=x.csv", "'A' cannot be a name"),
        ("a_masked=x.csv", "'a_masked' cannot be a name"),
        ("x.csv", "is not NAME=FILE"),
        ("a=", "is not NAME=FILE"),
    ):
        with pytest.raises(InputError, match=message):
            labeling_files(text)
