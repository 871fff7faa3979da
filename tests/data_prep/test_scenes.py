"""The command `scenes`: its sound, its files, its restarts, and the chain to a data set."""

import collections
import csv
import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from scene_inputs import MIDS, files_of, make_recordings, tone

from data_prep import build, raters, scenes
from data_prep.scenes_draw import Event, Scene, ScenesSpec
from data_prep.scenes_files import Recording
from data_prep.scenes_sound import Mixer, survey
from relabel_jax.errors import Rejected
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot, read_segments

RATE_HZ = 16_000
FLAGS = ["--num_clips=8,3,4", "--seed=7"]


def run(recordings: pathlib.Path, output_dir: pathlib.Path, *flags: str) -> int:
    table = recordings / "labels.csv"
    places = [f"--recordings={recordings}", f"--labels={table}", f"--output_dir={output_dir}"]
    return scenes.main([*places, *FLAGS, "--num_workers=1", *flags])


def rows_of(path: pathlib.Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> pathlib.Path:
    return make_recordings(tmp_path_factory.mktemp("recordings") / "audio").parent


@pytest.fixture(scope="module")
def made(recordings, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("scenes") / "made"
    assert run(recordings, folder) == 0
    return folder


def rms(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


@pytest.mark.parametrize("rate_hz", [8_000, RATE_HZ])
def test_an_event_has_its_place_and_its_level(tmp_path, rate_hz):
    """Against levels that are measured in the mixture, before, in and after the event."""
    loud = np.concatenate([0.02 * tone(700, 6, 44_100), tone(700, 9, 44_100)])
    soundfile.write(tmp_path / "long.wav", loud, 44_100)
    sound = survey(str(tmp_path / "long.wav"), rate_hz)
    assert sound.num_samples == 15 * rate_hz
    assert sound.level_db == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.1)
    recording = Recording("long", "long.wav", 0, "g", ("/m/06mb1",), ("Rain",), sound)
    spec = ScenesSpec((1, 0, 0), sample_rate_hz=rate_hz)
    event = Event(0, 3 * rate_hz, 5 * rate_hz, 4 * rate_hz, 20.0)
    scene = Scene("x", 0, 0, (event,))
    mixed = Mixer(spec, [recording], tmp_path, tmp_path).mix(scene) / 32767
    assert mixed.shape == (10 * rate_hz,)
    background = rms(np.concatenate([mixed[: 3 * rate_hz], mixed[7 * rate_hz :]]))
    inside = mixed[int(4.1 * rate_hz) : int(6.9 * rate_hz)]
    assert 20 * np.log10(rms(inside) / background) == pytest.approx(20.04, abs=0.3)
    # The recording's quiet second comes first: nothing but the background is heard there.
    before = mixed[int(3.1 * rate_hz) : int(3.9 * rate_hz)]
    assert 20 * np.log10(rms(before) / background) < 1
    assert 10 ** (-15 / 20) - 1e-3 <= np.abs(mixed).max() <= 10 ** (-1 / 20) + 1e-3


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"no sound" * 99, "unreadable"), (np.zeros(9000), "silent")],
)
def test_recordings_that_cannot_be_used(tmp_path, content, reason):
    path = tmp_path / "x.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, 8_000)
    rejected = survey(str(path), RATE_HZ)
    assert isinstance(rejected, Rejected)
    assert rejected.reason == reason


def test_the_files_say_the_same(made, recordings):
    """The truth, from the events and the table of labels alone."""
    ontology = Ontology.audioset()
    split_of = {row["clip_id"]: row["split"] for row in rows_of(made / "splits.csv")}
    assert collections.Counter(split_of.values()) == {"train": 8, "validation": 3, "test": 4}
    table = {row["path"]: row for row in rows_of(recordings / "labels.csv")}
    used = {row["recording"]: row for row in rows_of(made / "recordings.csv")}
    assert used.keys() == table.keys()
    splits_of_group = collections.defaultdict(set)
    for row in used.values():
        splits_of_group[row["group"]].add(row["split"])
    assert len(splits_of_group) == 5
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert set().union(*splits_of_group.values()) == {"train", "validation", "test"}

    expected, lists = collections.defaultdict(set), collections.defaultdict(list)
    for row in rows_of(made / "events.csv"):
        assert used[row["recording"]]["split"] == split_of[row["clip_id"]]
        for mid in table[row["recording"]]["mids"].split(";"):
            label = ontology.find(mid)
            expected[row["clip_id"]] |= {label, *ontology.ancestor_sets[label]}
            name = ontology.display_names[label]
            lists[row["clip_id"]].append(f"{row['onset_s']}\t{row['offset_s']}\t{name}")
    truth = read_segments([made / "truth.csv"], ontology)
    assert truth.clip_ids.to_pylist() == list(split_of)
    for clip_id, labels in zip(split_of, truth.labels.to_pylist(), strict=True):
        assert set(labels) == expected[clip_id]
        lines = (made / "events" / f"{clip_id}.txt").read_text().splitlines()
        assert sorted(lines) == sorted(lists[clip_id])
        info = soundfile.info(made / "audio" / f"{clip_id}.flac")
        assert (info.samplerate, info.channels, info.frames) == (RATE_HZ, 1, 10 * RATE_HZ)
    assert len(list((made / "audio").iterdir())) == len(split_of)


def test_a_stopped_command_is_finished_to_the_same_bytes(made, recordings, tmp_path, capsys):
    again = tmp_path / "again"
    shutil.copytree(made, again)
    for path in sorted((again / "audio").iterdir())[::2]:
        path.unlink()
    (again / "audio" / ".x.flac.1234.tmp").write_text("half")
    for name in ("scenes.json", "truth.csv", "splits.csv", "events.csv"):
        (again / name).unlink()
    assert run(recordings, again) == 0
    assert files_of(again) == files_of(made)
    capsys.readouterr()
    assert run(recordings, again) == 0
    assert "is complete already" in capsys.readouterr().err
    assert run(recordings, again, "--draw=classes") == 1
    assert "was begun with other draw; give the same again" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(made, recordings, tmp_path):
    assert run(recordings, tmp_path / "two", "--num_workers=2") == 0
    assert files_of(tmp_path / "two") == files_of(made)


def test_bad_recordings_are_listed(recordings, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(recordings, bad)
    (bad / "dog" / "-dog0_0.wav").write_bytes(b"damaged")
    (bad / "dog" / "-dog1_1.flac").unlink()
    soundfile.write(bad / "dog" / "-dog2_2.ogg", np.zeros(8000), 8000)
    assert run(bad, tmp_path / "made", "--num_clips=2,1,1") == 0
    rejects = {row["clip_id"]: row["reason"] for row in rows_of(tmp_path / "made" / "rejects.csv")}
    assert rejects == {
        "dog/-dog0_0.wav": "unreadable",
        "dog/-dog1_1.flac": "no_file",
        "dog/-dog2_2.ogg": "silent",
    }
    used = {row["recording"] for row in rows_of(tmp_path / "made" / "recordings.csv")}
    assert used.isdisjoint(rejects)
    summary = json.loads((tmp_path / "made" / "scenes.json").read_text())["summary"]
    assert summary["rejected_recordings"] == 3
    assert sum(summary["recordings"].values()) == len(used)


def test_bad_input_gets_one_line_and_leaves_nothing(recordings, tmp_path, capsys):
    def refused(folder, *flags):
        assert run(folder, tmp_path / "made", *flags) == 1
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert line.startswith("error: ")
        return line

    assert "--num_workers=0: expected at least 1" in refused(recordings, "--num_workers=0")
    assert "no file of --labels has this column" in refused(recordings, "--group_column=x")
    assert not (tmp_path / "made").exists()

    lonely = tmp_path / "lonely"
    lonely.mkdir()
    soundfile.write(lonely / "a.wav", tone(500, 1, 8000), 8000)
    (lonely / "labels.csv").write_text(f"path,mids\na.wav,{MIDS['dog']}\n")
    assert "validation gets no recordings: there are 1 groups" in refused(lonely)
    (lonely / "a.wav").write_bytes(b"")
    assert "none of the 1 recordings of --labels can be used" in refused(lonely)

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert run(recordings, tmp_path / "mine") == 1
    assert "already exists and holds no scenes" in capsys.readouterr().err
    assert files_of(tmp_path / "mine") == {"notes.txt": b"mine"}


def test_a_recording_that_changes_in_between_is_named(recordings, tmp_path, capsys):
    changing = tmp_path / "changing"
    shutil.copytree(recordings, changing)
    assert run(changing, tmp_path / "made") == 0
    for path in (tmp_path / "made" / "audio").iterdir():
        path.unlink()
    (tmp_path / "made" / "scenes.json").unlink()
    for path in changing.rglob("*.wav"):
        soundfile.write(path, tone(500, 0.02, 8000), 8000)
    assert run(changing, tmp_path / "made") == 1
    assert "has changed since it was measured; put it back" in capsys.readouterr().err


def make_fsd50k(folder: pathlib.Path) -> list[pathlib.Path]:
    """Recordings in FSD50K's layout; returns its tables of labels."""
    ground_truth = folder / "FSD50K.ground_truth"
    ground_truth.mkdir(parents=True)
    rows = {"dev": ["fname,labels,mids,split"], "eval": ["fname,labels,mids"]}
    for number in range(20):
        part = "eval" if number % 4 == 0 else "dev"
        name, mid = list(MIDS.items())[number % len(MIDS)]
        audio = folder / f"FSD50K.{part}_audio"
        audio.mkdir(exist_ok=True)
        soundfile.write(
            audio / f"{1000 + number}.wav", tone(300 + 40 * number, 0.5, 44_100), 44_100
        )
        split = "" if part == "eval" else ",val" if number % 4 == 1 else ",train"
        rows[part].append(f'{1000 + number},{name},"{mid},/m/04rlf"{split}')
    for part, lines in rows.items():
        (ground_truth / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return [ground_truth / "dev.csv", ground_truth / "eval.csv"]


@pytest.mark.slow
def test_from_fsd50k_to_a_data_set(tmp_path, capsys):
    """scenes, raters, build: each clip is in its split, with what the raters said."""
    tables = make_fsd50k(tmp_path / "FSD50K")
    folder, data = tmp_path / "scenes", tmp_path / "data"
    scenes.make_scenes(
        recordings=tmp_path / "FSD50K",
        labels=tables,
        output_dir=folder,
        num_clips=(8, 3, 4),
        draw="audioset",
        sample_rate_hz=8_000,
        duration_s=2.5,
        num_workers=1,
    )
    assert "--duration_s=2.5 --output_dir=DATA" in capsys.readouterr().err
    splits = {row["recording"]: row["split"] for row in rows_of(folder / "recordings.csv")}
    assert [splits[str(1000 + number)] for number in range(4)] == [
        "test",
        "validation",
        "train",
        "train",
    ]
    segments = folder / "segments.csv"
    assert raters.main([f"--segments={folder}/truth.csv", f"--output={segments}"]) == 0
    flags = [f"--segments={segments}", f"--audio={folder}/audio", f"--splits={folder}/splits.csv"]
    flags += ["--duration_s=2.5", f"--output_dir={data}", "--num_workers=1"]
    assert build.main(flags) == 0
    for path in (folder / "audio").iterdir():
        assert soundfile.info(path).frames == 20_000
    index = pq.read_table(data / "clips.parquet").to_pydict()
    split_of = {row["clip_id"]: row["split"] for row in rows_of(folder / "splits.csv")}
    assert dict(zip(index["clip_id"], index["split"], strict=True)) == split_of
    ontology = Ontology.audioset()
    truth, rated = (
        multi_hot(read_segments([path], ontology).labels, len(ontology))
        for path in (folder / "truth.csv", segments)
    )
    assert (rated <= truth).all()
    assert rated.sum() < truth.sum()
    assert rows_of(data / "rejects.csv") == []


@pytest.mark.slow
def test_real_recordings(realaudio_dir, tmp_path):
    """A sixth of them: odd formats and rates, all seven roots, no group in two splits."""
    header, *lines = (realaudio_dir / "clips_detail.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join([header, *sorted(lines)[::6]]) + "\n")
    flags = [f"--recordings={realaudio_dir}", f"--labels={tmp_path}/labels.csv"]
    flags += [f"--output_dir={tmp_path}/made", "--num_clips=12,4,4", "--num_workers=1"]
    assert scenes.main(flags) == 0
    rows = rows_of(tmp_path / "made" / "recordings.csv")
    assert len(rows) > 200
    splits = collections.defaultdict(set)
    for row in rows:
        splits[row["group"]].add(row["split"])
    assert len(splits) > 180
    assert all(len(each) == 1 for each in splits.values())
    assert {row["reason"] for row in rows_of(tmp_path / "made" / "rejects.csv")} <= {"silent"}
    summary = json.loads((tmp_path / "made" / "scenes.json").read_text())["summary"]
    assert len(summary["roots"]) == 7
