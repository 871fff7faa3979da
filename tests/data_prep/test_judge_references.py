"""References in the published form of AudioSet-Strong and FSD50K, and wrong ones."""

import json
import pathlib

import numpy as np
import pytest
from judging import ONTOLOGY, error_line, write_toy

from data_prep.judge import main
from data_prep.judge_references import Reference, read_reference
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

TOY = Ontology.from_text(ONTOLOGY)
MUSIC = Ontology.from_text("""[
    {"id": "/m/04rlf", "name": "Music", "child_ids": ["/m/g"]},
    {"id": "/m/g", "name": "Guitar", "child_ids": ["/m/z"]},
    {"id": "/m/z", "name": "Strum", "child_ids": []},
    {"id": "/m/h", "name": "Hum", "child_ids": []}]""")
STRONG = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel
a_30000\t0.000\t2.627\t/m/d
a_30000\t2.627\t10.000\t/m/d
b_0\t1.500\t3.250\t/m/s
b_0\t0.000\t3.250\t/t/h
y_0\t0.000\t3.250\t/m/e
"""
FRAMES = """segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent
a_30000\t0.000\t0.960\t/m/r\tPRESENT
a_30000\t0.960\t1.920\t/m/r\tNOT_PRESENT
a_30000\t0.960\t1.920\t/m/e\tNOT_PRESENT
b_0\t0.960\t1.920\t/m/r\tNOT_PRESENT
b_0\t1.920\t2.880\t/m/r\tNOT_PRESENT
"""
RATINGS = {
    "a": {"/m/r": [1.0, 0.5], "/m/w": [0.5, -1, 1.0], "/m/e": [-1, -1, 0]},
    "b": {"/m/s": [1.0, -1], "/t/h": [0, 0], "/m/d": [-1]},
}


def read(folder: pathlib.Path, name: str, text: str, ontology: Ontology = TOY) -> Reference:
    (folder / name).write_text(text)
    return read_reference(folder / name, ontology)


def said(reference: Reference, ontology: Ontology = TOY) -> dict[str, tuple[str, str]]:
    """By clip, the names of the true classes and of the false ones, by their first letters."""
    letters = np.array([name.strip("<")[0] for name in ontology.display_names])
    result = {}
    for row, clip in enumerate(reference.labels.clip_ids.to_pylist()):
        number = reference.labels.set_numbers[[row]]
        true = reference.labels.positive_sets[number].toarray()[0]
        everything = type(reference.labels.positive_sets)(np.ones((1, len(ontology)), bool))
        decided = reference.decided(everything, number).toarray()[0]
        assert not (true & ~decided).any()
        result[clip] = "".join(letters[true]), "".join(letters[decided & ~true])
    return result


def test_strong_events(tmp_path):
    """Drop entails Rain and Water; Steam leaves open whether it comes from Water or Engine."""
    reference = read(tmp_path, "audioset_eval_strong.tsv", STRONG)
    assert said(reference) == {
        "a_30000": ("WRD", "ESH"),
        "b_0": ("SH", "RD"),
        "y_0": ("E", "WRDSH"),
    }


def test_strong_events_have_no_detail_in_music(tmp_path):
    text = STRONG.partition("\n")[0] + "\na_0\t0\t1\t/m/04rlf\nb_0\t0\t1\t/m/h\nc_0\t0\t1\t/m/z\n"
    reference = read(tmp_path, "strong.tsv", text, MUSIC)
    assert said(reference, MUSIC) == {
        "a_0": ("M", "H"),
        "b_0": ("H", "MGS"),
        "c_0": ("MGS", "H"),
    }


def test_strong_frames(tmp_path):
    reference = read(tmp_path, "audioset_eval_strong_framed_posneg.tsv", FRAMES)
    assert said(reference) == {"a_30000": ("R", "E"), "b_0": ("", "R")}


def test_strong_ids_have_the_start_of_the_segment(tmp_path):
    write_toy(tmp_path)
    segments = read_segments([tmp_path / "segments.csv"], TOY)
    reference = read(tmp_path, "strong.tsv", STRONG)
    assert reference.rows(segments).tolist() == [0, 1, -1, -1, -1]
    later = read(tmp_path, "strong.tsv", STRONG.replace("a_30000", "a_20000"))
    assert later.rows(segments).tolist() == [-1, 1, -1, -1, -1]


def test_fsd50k_labels(tmp_path):
    text = 'fname,labels,mids\na,"Rain,Water","/m/r,/m/w"\nb,Steam,/m/s\n'
    assert said(read(tmp_path, "eval.csv", text)) == {"a": ("WR", "S"), "b": ("S", "WR")}
    text = 'fname,labels,mids,split\na,"Rain,Water","/m/r,/m/w",train\nb,Steam,/m/s,val\n'
    reference = read(tmp_path, "dev.csv", text)
    assert said(reference) == {"a": ("WR", ""), "b": ("S", "")}
    assert not reference.has_negatives


def test_fsd50k_ratings(tmp_path):
    """More votes decide; as many for as against, and unsure ones, leave the class open."""
    reference = read(tmp_path, "pp_pnp_ratings_FSD50K.json", json.dumps(RATINGS))
    assert said(reference) == {"a": ("WR", "E"), "b": ("", "D")}


def test_a_reference_without_negatives_is_said(tmp_path, capsys):
    (tmp_path / "dev.csv").write_text('fname,labels,mids,split\na,Rain,"/m/r,/m/w",train\n')
    assert main([*write_toy(tmp_path), f"--against={tmp_path / 'dev.csv'}"]) == 0
    assert "precision is always 100%" in capsys.readouterr().err


HEADER = STRONG.partition("\n")[0]
FRAME_HEADER = FRAMES.partition("\n")[0]
BAD = {
    "three_fields.tsv": (f"{HEADER}\na_0\t0\t1\t/m/r\na_0\t0\t/m/r\n", "#3"),
    "maybe.tsv": (f"{FRAME_HEADER}\na_0\t0\t1\t/m/r\tMAYBE\n", "line 2: present is 'MAYBE'"),
    "no_header.tsv": ("a_0\t0\t1\t/m/r\n", "line 1 is 'a_0"),
    "no_rows.tsv": (f"{HEADER}\n", "0 rows"),
    "no_mids.csv": ("fname,labels\na,Rain\n", "no column 'mids'"),
    "broken.json": ('{"a": {"/m/r": [1.0,\n]}}', "line 2"),
    "number.json": ('{"a": 3}', "the value of 'a' is 3"),
    "two.json": ('{"a": {"/m/r": [2]}}', "the ratings of /m/r in 'a' are [2]"),
    "list.json": ("[1]", "is not a data file of AST or PSLA"),
    "wav.json": ('{"data": [{"wav": "a.wav"}]}', "is not a data file of AST or PSLA"),
    "other.csv": ('q, 0, 1, "/m/r"\n', "no clip is in the segments and in the reference"),
    "unknown.tsv": (f"{HEADER}\na_0\t0\t1\t/m/no\n", "1 mids are not in the ontology (/m/no)"),
    "unknown.json": ('{"a": {"/m/no": [1]}}', "1 mids are not in the ontology (/m/no)"),
    "unknown.csv": ("fname,labels,mids\na,No,/m/no\n", "1 mids are not in the ontology (/m/no)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_reference(tmp_path, capsys, name):
    text, message = BAD[name]
    (tmp_path / name).write_text(text)
    line = error_line([*write_toy(tmp_path), f"--against={tmp_path / name}"], capsys)
    assert line.startswith(f"error: {tmp_path / name}: ")
    assert message in line


def test_unknown_mids_can_be_dropped(tmp_path, capsys):
    (tmp_path / "strong.tsv").write_text(f"{STRONG}a_30000\t0\t1\t/g/new\n")
    flags = [*write_toy(tmp_path), f"--against={tmp_path / 'strong.tsv'}"]
    assert "--unknown=drop" in error_line(flags, capsys)
    assert main([*flags, "--unknown=drop"]) == 0
    assert "dropped 1 labels of the reference: 1 mids are not in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--labelings=pel,mine", "'mine' is none of ol, pel, pe_cml, hlp, entailed"),
        ("--replicates=0", "--replicates=0: expected at least 1"),
        ("--labeling_files=ol=x.csv", "the name 'ol' is taken"),
        ("--against=nowhere.tsv", "nowhere.tsv: cannot read the reference"),
    ],
)
def test_wrong_flags(tmp_path, capsys, flag, message):
    flags = write_toy(tmp_path)
    assert message in error_line([*flags, f"--against={tmp_path / 'truth.csv'}", flag], capsys)


def test_a_label_that_is_positive_and_masked(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("clip_id,positive,masked\nb,/m/s,\na,/m/r,/m/r\n")
    flags = [*write_toy(tmp_path), f"--against={tmp_path / 'truth.csv'}"]
    line = error_line([*flags, f"--labeling_files=mine={tmp_path / 'mine.csv'}"], capsys)
    assert "'a', row 2" in line
