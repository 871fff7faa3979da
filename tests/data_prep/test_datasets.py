"""FSD50K and ESC-50 from their archives' layout to a data set."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from data_prep.build import build
from data_prep.datasets import ESC50_MIDS, main, read_esc50
from data_prep.recordings import read_columns
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

pytestmark = pytest.mark.slow

# ESC-50's README, in its order: the columns of animals, nature, human, indoors, outdoors.
ESC50_CLASSES = [
    "dog",
    "rooster",
    "pig",
    "cow",
    "frog",
    "cat",
    "hen",
    "insects",
    "sheep",
    "crow",
    "rain",
    "sea_waves",
    "crackling_fire",
    "crickets",
    "chirping_birds",
    "water_drops",
    "wind",
    "pouring_water",
    "toilet_flush",
    "thunderstorm",
    "crying_baby",
    "sneezing",
    "clapping",
    "breathing",
    "coughing",
    "footsteps",
    "laughing",
    "brushing_teeth",
    "snoring",
    "drinking_sipping",
    "door_wood_knock",
    "mouse_click",
    "keyboard_typing",
    "door_wood_creaks",
    "can_opening",
    "washing_machine",
    "vacuum_cleaner",
    "clock_alarm",
    "clock_tick",
    "glass_breaking",
    "helicopter",
    "chainsaw",
    "siren",
    "car_horn",
    "engine",
    "train",
    "church_bells",
    "airplane",
    "fireworks",
    "hand_saw",
]

# The meaning of each class's name in AudioSet's display names.
ESC50_NAMES = {
    "airplane": "Fixed-wing aircraft, airplane",
    "brushing_teeth": "Toothbrush",
    "can_opening": "Burst, pop",
    "car_horn": "Vehicle horn, car horn, honking",
    "chirping_birds": "Chirp, tweet",
    "church_bells": "Church bell",
    "clock_alarm": "Alarm clock",
    "clock_tick": "Clock; Tick",
    "coughing": "Cough",
    "cow": "Cattle, bovinae",
    "crackling_fire": "Fire; Crackle",
    "crickets": "Cricket",
    "crying_baby": "Baby cry, infant cry",
    "door_wood_creaks": "Door; Creak",
    "door_wood_knock": "Knock",
    "drinking_sipping": "Digestive",
    "footsteps": "Walk, footsteps",
    "glass_breaking": "Glass; Shatter",
    "hand_saw": "Sawing",
    "hen": "Chicken, rooster",
    "insects": "Insect",
    "keyboard_typing": "Computer keyboard",
    "laughing": "Laughter",
    "mouse_click": "Clicking",
    "pouring_water": "Water; Pour",
    "rooster": "Crowing, cock-a-doodle-doo",
    "sea_waves": "Waves, surf",
    "sneezing": "Sneeze",
    "toilet_flush": "Toilet flush",
    "vacuum_cleaner": "Vacuum cleaner",
    "washing_machine": "Mechanisms",
    "water_drops": "Drip",
}


@pytest.fixture
def ontology_json(tmp_path):
    """AudioSet's ontology as a file."""
    path = tmp_path / "ontology.json"
    path.write_text(Ontology.audioset().text)
    return path


def test_esc50_classes_are_the_ontologys():
    ontology = Ontology.audioset()
    assert sorted(ESC50_MIDS) == sorted(ESC50_CLASSES)
    for category, mids in ESC50_MIDS.items():
        names = [ontology.display_names[ontology.index[mid]] for mid in mids]
        expected = ESC50_NAMES.get(category, category.replace("_", " ").capitalize())
        assert "; ".join(names) == expected
    assert len(set(ESC50_MIDS.values())) == 50


def test_esc50_classes_are_those_of_the_raters(audioset_dir):
    # All except one are among the raters' 527 classes. None of the 527 fits drinking.
    used = set(read_columns(audioset_dir / "class_labels_indices.csv", "display_name", "mid"))
    assert {mid for mids in ESC50_MIDS.values() for mid in mids} - used == {"/m/0160x5"}


def test_esc50_classes_agree_with_labels_that_others_gave(realaudio_dir):
    """The mids of realaudio, from ESC-50's names: the same, more general or more specific."""
    ontology = Ontology.audioset()
    classes = read_columns(realaudio_dir / "clips_detail.csv", "class_in_source")
    source = read_columns(realaudio_dir / "labels.csv", "source")
    mids = read_columns(realaudio_dir / "labels.csv", "mids")

    def with_ancestors(labels):
        numbers = [ontology.index[mid] for mid in labels]
        return set(numbers).union(*(ontology.ancestor_sets[number] for number in numbers))

    other: set[str] = set()
    compared: set[str] = set()
    for clip_id in [clip_id for clip_id in source if source[clip_id] == "esc50"]:
        ours = with_ancestors(ESC50_MIDS[classes[clip_id]])
        theirs = with_ancestors(mids[clip_id].split(";"))
        compared.add(classes[clip_id])
        if not (ours <= theirs or theirs <= ours):
            other.add(classes[clip_id])
    assert len(compared) >= 40
    assert other == {"drinking_sipping"}  # Digestive here, Liquid there


def write_esc50(folder):
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    (folder / "audio").mkdir(parents=True)
    (folder / "meta").mkdir()
    for number, category in enumerate(ESC50_CLASSES):
        fold = number % 5 + 1
        name = f"{fold}-{100 + number}-A-{number}.wav"
        rows.append(f"{name},{fold},{number},{category},False,{100 + number},A")
        soundfile.write(folder / "audio" / name, np.full(4_410, 0.1), 44_100)
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")


def test_esc50(ontology_json, tmp_path, capfd):
    write_esc50(tmp_path / "ESC-50-master")
    flags = ["--dataset=esc50", f"--input_dir={tmp_path}/ESC-50-master"]
    assert main([*flags, f"--output_dir={tmp_path}/meta", "--test_fold=1"]) == 0
    assert "50 clips (30 train, 10 validation, 10 test)" in capfd.readouterr().err
    splits = read_columns(tmp_path / "meta" / "splits.csv", "split")
    assert {clip_id[0]: split for clip_id, split in splits.items()} == {
        "1": "test",
        "2": "train",
        "3": "train",
        "4": "train",
        "5": "validation",
    }
    build(
        ontology=ontology_json,
        segments=[tmp_path / "meta" / "segments.csv"],
        audio=tmp_path / "ESC-50-master",
        paths=tmp_path / "meta" / "paths.csv",
        splits=tmp_path / "meta" / "splits.csv",
        output_dir=tmp_path / "set",
    )
    ontology = Ontology.audioset()
    index = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    assert len(index) == 50
    for row in index:
        category = ESC50_CLASSES[int(row["clip_id"].rsplit("-", 1)[1])]
        assert sorted(ontology.index[mid] for mid in ESC50_MIDS[category]) == row["ol"]
        assert row["split"] == splits[row["clip_id"]]
        assert (row["start_s"], row["end_s"]) == (0, 5)


def test_every_fold_is_tested_once_and_validated_once(tmp_path):
    write_esc50(tmp_path)
    of_fold = [{clip.clip_id: clip.split for clip in read_esc50(tmp_path, n)} for n in range(1, 6)]
    for clip_id in of_fold[0]:
        splits = sorted(splits[clip_id] for splits in of_fold)
        assert splits == ["test", "train", "train", "train", "validation"]


def write_fsd50k(folder):
    (folder / "FSD50K.ground_truth").mkdir(parents=True)
    # Rows of the published files, shortened.
    (folder / "FSD50K.ground_truth" / "dev.csv").write_text(
        "fname,labels,mids,split\n"
        '64760,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",train\n'
        '345111,"Electric_guitar,Guitar,Music","/m/02sgy,/m/0342h,/m/04rlf",val\n'
        "136,Crushing,/m/07plct2,train\n"
    )
    (folder / "FSD50K.ground_truth" / "eval.csv").write_text(
        'fname,labels,mids\n37199,"Electric_guitar,Guitar","/m/02sgy,/m/0342h"\n'
    )
    for part, fname in (("dev", 64760), ("dev", 345111), ("dev", 136), ("eval", 37199)):
        (folder / f"FSD50K.{part}_audio").mkdir(exist_ok=True)
        path = folder / f"FSD50K.{part}_audio" / f"{fname}.wav"
        soundfile.write(path, np.full(fname % 999 + 100, 0.1), 44_100)


def test_fsd50k(ontology_json, tmp_path):
    write_fsd50k(tmp_path / "FSD50K")
    flags = ["--dataset=fsd50k", f"--input_dir={tmp_path}/FSD50K"]
    assert main([*flags, f"--output_dir={tmp_path}/meta"]) == 0
    ontology = Ontology.audioset()
    segments = read_segments([tmp_path / "meta" / "segments.csv"], ontology)
    assert segments.clip_ids.to_pylist() == ["64760", "345111", "136", "37199"]
    assert [[ontology.mids[each] for each in row] for row in segments.labels.to_pylist()][2:] == [
        ["/m/07plct2"],
        ["/m/0342h", "/m/02sgy"],
    ]
    build(
        ontology=ontology_json,
        segments=[tmp_path / "meta" / "segments.csv"],
        audio=tmp_path / "FSD50K",
        paths=tmp_path / "meta" / "paths.csv",
        splits=tmp_path / "meta" / "splits.csv",
        output_dir=tmp_path / "set",
    )
    index = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    assert {row["clip_id"]: row["split"] for row in index} == {
        "64760": "train",
        "136": "train",
        "345111": "validation",
        "37199": "test",
    }


@pytest.mark.parametrize(
    ("dataset", "file", "text", "message"),
    [
        ("esc50", "meta/esc50.csv", None, "cannot read it"),
        ("esc50", "meta/esc50.csv", "filename,fold\n", "no column category"),
        ("esc50", "meta/esc50.csv", "filename,fold,category\nx.wav,1,dogs\n", "line 2: category"),
        ("esc50", "meta/esc50.csv", "filename,fold,category\nx.wav,6,dog\n", "line 2: fold is '6'"),
        ("esc50", "meta/esc50.csv", "filename,fold,category\n../x.wav,1,dog\n", "'../x.wav'"),
        ("esc50", "meta/esc50.csv", "filename,fold,category\n", "no clips"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "fname,mids\n", "no column split"),
        ("fsd50k", "FSD50K.ground_truth/eval.csv", "fname,mids\n../1,/m/02sgy\n", "'../1'"),
        ("fsd50k", "FSD50K.ground_truth/eval.csv", 'fname,mids\n1,"x"\n', "mids is 'x'"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "fname,mids,split\n1\n", "mids is None"),
    ],
)
def test_bad_archives(tmp_path, capfd, dataset, file, text, message):
    (write_esc50 if dataset == "esc50" else write_fsd50k)(tmp_path / "in")
    (tmp_path / "in" / file).unlink()
    if text is not None:
        (tmp_path / "in" / file).write_text(text)
    flags = [f"--dataset={dataset}", f"--input_dir={tmp_path}/in", f"--output_dir={tmp_path}/out"]
    assert main(flags) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()
