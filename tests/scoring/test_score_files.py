"""Every form of a file of scores gives the same numbers, and bad files get one clear line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import RESULT
from score_inputs import (
    CLIP_IDS,
    FORMS,
    ONTOLOGY,
    measured,
    run,
    scores,
    write_form,
    write_inputs,
    write_scores,
)

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.labels.class_indices import class_indices_text
from relabel_jax.scoring.score_files import read_score_file


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same(tmp_path, capsys, form):
    values = scores()
    path = write_form(form, tmp_path, values)
    read = read_score_file(path, ONTOLOGY)
    np.testing.assert_array_equal(read.scores, values)
    np.testing.assert_array_equal(read.columns, range(6))
    (got,) = measured(tmp_path, capsys, path)["files"]
    plain = write_scores(tmp_path / "plain.npz", values)
    (expected,) = measured(tmp_path, capsys, plain)["files"]
    del got["path"], expected["path"]
    assert got == expected


def test_the_type_of_a_csv_column_is_not_that_of_its_first_rows(tmp_path):
    num_clips = 100_000  # 1.2 MB: more than the block from which Arrow takes the types
    rows = [f"a{number:07},{number % 2}\n" for number in range(num_clips)] + ["b,0.5\n"]
    (tmp_path / "a.csv").write_text("clip_id,Dog\n" + "".join(rows))
    read = read_score_file(tmp_path / "a.csv", ONTOLOGY)
    assert read.scores[-3:, 0].tolist() == [0, 1, 0.5]


def test_rows_and_columns_in_another_order(tmp_path, capsys):
    values = scores()
    rng = np.random.default_rng(0)
    clips, columns = rng.permutation(len(values)), rng.permutation(6)
    write_scores(tmp_path / "a.npz", values)
    write_scores(
        tmp_path / "b.npz",
        values[np.ix_(clips, columns)].astype(np.float64),
        clip_id=np.array(CLIP_IDS)[clips],
        mids=np.array(ONTOLOGY.display_names)[columns],
    )
    one, other = measured(tmp_path, capsys, tmp_path / "a.npz", tmp_path / "b.npz")["files"]
    del one["path"], other["path"]
    for of_file in (one, other):  # a mean over the classes depends on their order
        for of_labeling in of_file["labelings"].values():
            for field, value in of_labeling.items():
                if isinstance(value, float):
                    of_labeling[field] = round(value, 12)
    assert one == other


def test_the_order_of_unnamed_classes(tmp_path, capsys):
    values = scores()
    path = write_scores(tmp_path / "a.npz", values[:, ::-1], mids=None)
    status, _, error = run(tmp_path, capsys, path)
    assert status == 1
    assert "a.npz: has 6 classes without names; give their order with --classes=" in error
    rows = class_indices_text(ONTOLOGY, range(6)).splitlines()[1:]
    backwards = [f"{5 - int(row[0])}{row[1:]}\n" for row in rows]
    (tmp_path / "order.csv").write_text("index,mid,display_name\n" + "".join(backwards))
    named = write_scores(tmp_path / "b.npz", values)
    content = measured(tmp_path, capsys, path, named, classes=tmp_path / "order.csv")
    one, other = (of_file["labelings"]["pel"]["mAP"] for of_file in content["files"])
    assert one == pytest.approx(other, abs=1e-12)
    (tmp_path / "order.csv").write_text("index,mid,display_name\n0,/m/dog,Dog\n")
    status, _, error = run(tmp_path, capsys, path, classes=tmp_path / "order.csv")
    assert (status, error.count("\n")) == (1, 1)
    assert "has scores for 6 classes, but the rows of --classes name 1" in error


IDS = np.array(CLIP_IDS)


def bad(**where):
    values = scores()
    for value, place in where.items():
        values[place] = np.float32(value)
    return values


@pytest.mark.parametrize(
    ("values", "arrays", "message"),
    [
        (
            bad(nan=(3, 1)),
            {},
            "the clip 'clip-00003_' for /m/dog (Dog) is nan, and so are 0 others",
        ),
        (bad(inf=(0, 3)), {}, "the clip 'clip-00000_' for /m/cow (Cow, cattle) is inf"),
        (scores(), {"clip_id": IDS[[0, *range(59)]]}, "1 clips occur more than once (clip-00000_)"),
        (
            scores(),
            {"clip_id": np.array([f"Y{IDS[1]}.wav", *IDS[1:]])},
            "1 clips occur more than once, such as 'Yclip-00001_.wav' and 'clip-00001_'",
        ),
        (scores(), {"clip_id": IDS[:59]}, "has 59 clip ids, but scores of the shape [60, 6]"),
        (scores()[:, 0], {}, "has 60 clip ids, but scores of the shape [60]"),
        (scores()[:, :5], {}, "has scores for 5 classes, but the names in the file name 6"),
        (
            scores(),
            {"mids": np.array([*ONTOLOGY.mids[:5], "animal"])},
            "the class /m/animal (Animal) has more than one column",
        ),
        (scores(), {"mids": np.array(list("abcdef"))}, "the ontology has no class of these: a, b"),
        (scores(), {"clip_id": np.char.add("x", IDS)}, "no common clips: the 60 clips, such as 'x"),
        (scores(), {"clip_id": np.arange(60)}, "clip_id has the type int64 and the shape [60]"),
        (scores() > 0.5, {}, "the scores have the type bool; expected numbers"),
        (scores(), {"clip_id": None}, "expected an array of clip ids with the name clip_id or"),
        (scores(), {"scores": None}, "expected a matrix of scores with the name scores or"),
        (scores(), {"clip_id": IDS.astype(object)}, "cannot read the scores: Object arrays"),
    ],
)
def test_bad_scores(tmp_path, capsys, values, arrays, message):
    path = write_scores(tmp_path / "a.npz", values, **arrays)
    status, printed, error = run(tmp_path, capsys, path, output_dir=tmp_path / "OUT")
    assert (status, printed, error.count("\n")) == (1, "", 1), error
    assert f"{path}: " in error
    assert message in error
    assert not (tmp_path / "OUT").exists()


def table_of(**columns):
    return pa.table({"clip_id": CLIP_IDS[:2]} | columns)


MIDS = list(ONTOLOGY.mids)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (table_of(scores=[[0.5], [0.5, 0.1]]), "the lists in scores have between 1 and 2 values"),
        (
            table_of(scores=[[0.5] * 6] * 2, mids=[MIDS, MIDS[::-1]]),
            "the mids differ from row to row",
        ),
        (table_of(**{"/m/dog": ["a", "b"]}), "'clip-00000_' for /m/dog (Dog) is nan"),
        (table_of(**{"/m/dog": [0.5, None]}), "'clip-00001_' for /m/dog (Dog) is nan"),
        (table_of(**{"0": [0.5, 0.1]}), "has 1 classes without names"),
        (pa.table({"clip_id": [None, "a"], "/m/dog": [0.5, 0.1]}), "clip_id has 1 empty rows"),
        (pa.table({"id": ["a"], "/m/dog": [0.5]}), "expected a column of clip ids with the name"),
    ],
)
def test_bad_tables(tmp_path, capsys, table, message):
    pq.write_table(table, tmp_path / "a.parquet")
    status, _, error = run(tmp_path, capsys, tmp_path / "a.parquet")
    assert (status, error.count("\n")) == (1, 1)
    assert message in error


@pytest.mark.parametrize("name", ["a.npz", "a.h5", "a.parquet", "a.csv", "a.pkl"])
@pytest.mark.parametrize("content", [None, b"", b"\0damaged\n"])
def test_files_that_are_not_readable(tmp_path, capsys, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    status, _, error = run(tmp_path, capsys, tmp_path / name)
    assert (status, error.count("\n")) == (1, 1)
    assert f"{tmp_path / name}: " in error
    if name == "a.pkl":
        assert "expected a run folder, or a file that ends in .npz" in error


def test_hdf5_says_what_it_needs(tmp_path, capsys, monkeypatch):
    path = write_form("hdf5", tmp_path, scores())
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    write_inputs(tmp_path)
    status, _, error = run(tmp_path, capsys, path)
    assert status == 1
    assert "needs h5py: pip install '.[sources]'" in error


def test_the_scores_of_another_run_are_refused(tmp_path):
    folder = write_form("run", tmp_path, scores())
    path = folder / "test_scores.npz"
    (folder / "result.json").write_text(json.dumps(RESULT))
    digests.write_list(folder, {path.name: digests.of_file(path)})
    assert read_score_file(folder, ONTOLOGY).path == path
    write_scores(path, 1 - scores())
    with pytest.raises(InputError, match=r"test_scores.npz: is damaged or was exchanged"):
        read_score_file(folder, ONTOLOGY)
    (folder / "result.json").unlink()
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"run: is not finished"):
        read_score_file(folder, ONTOLOGY)
