"""The tables of labels that scenes take: FSD50K's, ESC-50's, others, and wrong ones."""

import pytest
from scene_inputs import MIDS, make_recordings

from data_prep.scenes_recordings import find_files, read_labels
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.ontology import Ontology


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology.audioset()


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names_of(recording, ontology) -> list[str]:
    return [ontology.display_names[label] for label in recording.labels]


def test_fsd50k(tmp_path, ontology):
    folder = tmp_path / "FSD50K.ground_truth"
    dev = written(
        folder / "dev.csv",
        "fname,labels,mids,split\n"
        '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n'
        '16399,"Bark,Dog","/m/05tny_,/m/0bt9lr",val\n',
    )
    evaluation = written(
        folder / "eval.csv", 'fname,labels,mids\n37199,"Rain,Water","/m/06mb1,/m/0838f"\n'
    )
    table = read_labels([dev, evaluation], ontology)
    assert [(each.name, each.group) for each in table] == [
        ("64760", "train"),
        ("16399", "val"),
        ("37199", "eval"),
    ]
    # Its tables have the ancestors too, which follow.
    assert names_of(table[0], ontology) == ["Electric guitar"]
    audio = {"64760": "dev_audio", "16399": "dev_audio", "37199": "eval_audio"}
    for name, part in audio.items():
        written(tmp_path / f"FSD50K.{part}" / f"{name}.wav", "x")
    paths = [path for _, path in find_files(table, tmp_path)]
    assert paths == [str(tmp_path / f"FSD50K.{audio[each.name]}/{each.name}.wav") for each in table]


def test_esc50(tmp_path, ontology):
    table = written(
        tmp_path / "esc50.csv",
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
        "5-9032-A-0.wav,5,39,glass_breaking,False,9032,A\n",
    )
    rows = read_labels([table], ontology)
    assert [each.group for each in rows] == ["1", "5"]
    assert names_of(rows[0], ontology) == ["Dog"]
    assert set(names_of(rows[1], ontology)) == {"Glass", "Shatter"}
    by_source = read_labels([table], ontology, group_column="src_file")
    assert [each.group for each in by_source] == ["100032", "9032"]


def test_names_and_a_class_map(tmp_path, ontology):
    table = written(
        tmp_path / "labels.csv",
        'path;label_names\na.wav;"Roaring cats (lions, tigers);Roar"\nb.wav;miaow\n',
    )
    class_map = written(tmp_path / "map.csv", 'label,mids\nmiaow,"/m/01yrx;/m/07qrkrw"\n')
    first, second = read_labels([table], ontology, class_map=class_map)
    assert set(names_of(first, ontology)) == {"Roaring cats (lions, tigers)", "Roar"}
    assert set(names_of(second, ontology)) == {"Cat", "Meow"}
    assert [first.group, second.group] == ["a.wav", "b.wav"]  # each is its own group


def test_unknown_labels_are_dropped_on_demand(tmp_path, ontology):
    table = written(
        tmp_path / "labels.csv", f"path,mids\na.wav,/m/zzz;{MIDS['dog']}\nb.wav,/m/zzz\n"
    )
    (kept,) = read_labels([table], ontology, unknown="drop")
    assert names_of(kept, ontology) == ["Dog"]
    with pytest.raises(InputError, match="no recording has a label of the ontology"):
        read_labels([written(table, "path,mids\nb.wav,/m/zzz\n")], ontology, unknown="drop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,mids\na.wav,/m/zzz\n", "line 2: the ontology has no class '/m/zzz'"),
        ("path,label\na.wav,miaow\n", "or name its mids by --class_map"),
        ("path,mids\na.wav,\n", "line 2: mids is empty; expected labels"),
        ("path,mids\n,/m/06mb1\n", "line 2: path is empty; expected a recording"),
        ("path,mids\na.wav,/m/06mb1\na.wav,/m/06mb1\n", "line 3: 'a.wav' occurs twice"),
        ("path,mids\n", "has no rows; expected a header line and a row a recording"),
        ("", "has no rows"),
        ("file,mids\na.wav,/m/06mb1\n", "none of the columns path, filename, fname, clip_id"),
        ("path,class\na.wav,Rain\n", "none of the columns mids, label_names"),
        ("path,mids\na.wav\n", "line 2: mids is empty"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(tmp_path, ontology, text, message):
    table = written(tmp_path / "labels.csv", text)
    with pytest.raises(InputError) as error:
        read_labels([table], ontology)
    assert str(error.value).startswith(f"{table}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_group_column_that_no_table_has(tmp_path, ontology):
    table = written(tmp_path / "labels.csv", "path,mids\na.wav,/m/06mb1\n")
    with pytest.raises(InputError, match=r"--group_column=author: no file of --labels has this"):
        read_labels([table], ontology, group_column="author")


def test_files_are_found_only_in_the_folder_and_only_if_one_fits(tmp_path, ontology):
    table = make_recordings(tmp_path / "audio", num_groups=1)
    written(tmp_path / "secret.wav", "x")
    written(tmp_path / "audio" / "copies" / "-dog0_0.wav", "x")
    names = ["../secret.wav", str(tmp_path / "secret.wav"), "gone.wav", "-dog0_0.wav", "-dog0_1"]
    rows = ["path,mids", *(f"{name},/m/06mb1" for name in names)]
    recordings = read_labels([written(tmp_path / "labels.csv", "\n".join(rows))], ontology)
    found = [path for _, path in find_files(recordings, tmp_path / "audio")]
    reasons = [path.reason if isinstance(path, Rejected) else path for path in found]
    assert reasons[:4] == ["no_file", "no_file", "no_file", "ambiguous"]
    assert reasons[4] == str(tmp_path / "audio/dog/-dog0_1.flac")
    every = [path for _, path in find_files(read_labels([table], ontology), tmp_path / "audio")]
    assert not any(isinstance(path, Rejected) for path in every)
