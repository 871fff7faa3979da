"""Files that hold many recordings: what is read, what is refused, and what is never touched."""

import csv
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep.build import build, main
from data_prep.recordings import audio_places, label_by_source
from data_prep.shards import Plan, write_shard
from data_prep.sources import Recording, open_source, read_recording
from relabel_jax.audio.decode import read_waveform, to_waveform
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

CHILDREN = {"/m/animal": ["/m/dog", "/m/cat"], "/m/dog": ["/m/bark"]}
MIDS = ["/m/animal", "/m/dog", "/m/cat", "/m/bark", "/m/music"]
NAMES = ["Animal", "Dog", "Cat", "Bark", "Music, all kinds"]
NUM_CLIPS = 40
KINDS = ["parquet", "tar", "h5"]


class Inputs:
    """The same clips in every form, below `folder`.

    PANNs' HDF5 holds 10 s at 32 kHz; so do all, of different lengths, padded with zeros there.
    """

    def __init__(self, folder: pathlib.Path, num_clips: int = NUM_CLIPS):
        rng = np.random.default_rng(0)
        self.folder = folder
        self.ids = [f"{'-_aY'[n % 4]}clip{n:03d}" for n in range(num_clips)]
        self.samples = {
            clip_id: rng.integers(-9_000, 9_000, 3_200 + 32 * n, np.int16)
            for n, clip_id in enumerate(self.ids)
        }
        self.labels = {
            clip_id: rng.choice(MIDS, rng.integers(1, 4), replace=False).tolist()
            for clip_id in self.ids
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.ontology = folder / "ontology.json"
        self.ontology.write_text(
            json.dumps(
                [
                    {"id": mid, "name": name, "child_ids": CHILDREN.get(mid, [])}
                    for mid, name in zip(MIDS, NAMES, strict=True)
                ]
            )
        )
        self.segments = folder / "segments.csv"
        self.segments.write_text(
            "".join(f'{c}, 0.000, 10.000, "{",".join(self.labels[c])}"\n' for c in self.ids)
        )
        # Another order than the ontology's.
        self.class_mids = MIDS[::-1]
        self.class_indices = folder / "class_labels_indices.csv"
        self.class_indices.write_text(
            "index,mid,display_name\n"
            + "".join(f'{n},{mid},"a, b"\n' for n, mid in enumerate(self.class_mids))
        )
        self.audio = folder / "audio"
        self.audio.mkdir()
        for clip_id in self.ids:
            (self.audio / f"{clip_id}.flac").write_bytes(self.flac(clip_id))

    def flac(self, clip_id: str) -> bytes:
        content = io.BytesIO()
        soundfile.write(content, self.samples[clip_id], 32_000, format="FLAC")
        return content.getvalue()

    def write(self, kind: str, ids: list[str] | None = None, name: str = "clips") -> pathlib.Path:
        path = self.folder / f"{name}.{kind}"
        getattr(self, f"write_{kind}")(path, self.ids if ids is None else ids)
        return path

    def write_parquet(self, path: pathlib.Path, ids: list[str]) -> None:
        rows = [
            {
                "video_id": clip_id,
                "audio": {"bytes": self.flac(clip_id), "path": f"audio/bal_train/{clip_id}.flac"},
                "labels": self.labels[clip_id],
                "human_labels": ["words"],
            }
            for clip_id in ids
        ]
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)

    def write_tar(self, path: pathlib.Path, ids: list[str]) -> None:
        with tarfile.open(path, "w") as tar:
            for number, clip_id in enumerate(ids):
                add(tar, f"some/folder/{clip_id}.flac", self.flac(clip_id))
                found = self.labels[clip_id]
                if len(found) == 1:
                    text = [found[0], str(self.class_mids.index(found[0]))][number % 2]
                    add(tar, f"some/folder/{clip_id}.cls", text.encode())
                else:
                    names = [NAMES[MIDS.index(mid)] for mid in found]
                    labels = [
                        {"labels": found},
                        found,
                        {"label": ",".join(found), "else": 1},
                        {"labels": names},
                        {"label": [self.class_mids.index(mid) for mid in found]},
                    ][number % 5]
                    add(tar, f"some/folder/{clip_id}.json", json.dumps(labels).encode())

    def write_h5(self, path: pathlib.Path, ids: list[str]) -> None:
        """As PANNs' pack_waveforms_to_hdf5 does; "" is a missing clip."""
        with h5py.File(path, "w") as file:
            file.create_dataset("audio_name", shape=(len(ids),), dtype="S20")
            file.create_dataset("waveform", shape=(len(ids), 320_000), dtype=np.int16)
            file.create_dataset("target", shape=(len(ids), len(MIDS)), dtype=bool)
            file.attrs.create("sample_rate", data=32_000, dtype=np.int32)
            for row, clip_id in enumerate(ids):
                if clip_id:
                    file["audio_name"][row] = f"Y{clip_id}.wav".encode()
                    samples = self.samples[clip_id]
                    file["waveform"][row, : len(samples)] = samples
                    for mid in self.labels[clip_id]:
                        file["target"][row, self.class_mids.index(mid)] = True

    def expected(self, kind: str, clip_id: str) -> np.ndarray:
        samples = self.samples[clip_id].astype(np.float32) / 32_768
        if kind == "h5":
            samples = np.pad(samples, (0, 320_000 - len(samples)))
        return to_waveform(samples, 32_000)[0]

    def arguments(self, audio, *, with_segments: bool) -> dict:
        labels = {"segments": [self.segments]} if with_segments else {}
        labels |= {} if with_segments else {"class_indices": self.class_indices}
        return labels | {"ontology": self.ontology, "audio": audio, "clips_per_shard": 6}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    inputs = Inputs(tmp_path_factory.mktemp("inputs") / "in")
    for kind in KINDS:
        inputs.write(kind)
    return inputs


def contents(data_dir: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file()}


def records(data_dir: pathlib.Path) -> dict[str, dict]:
    builder = tfds.builder_from_directory(data_dir)
    return {
        record["clip_id"].decode(): record | {"split": split}
        for split in builder.info.splits
        for record in builder.as_data_source(split)
    }


def rejects(data_dir: pathlib.Path) -> list[dict[str, str]]:
    with open(data_dir / "rejects.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reasons(data_dir: pathlib.Path) -> dict[str, str]:
    return {row["clip_id"]: row["reason"] for row in rejects(data_dir)}


def plan_only(arguments: dict, data_dir: pathlib.Path) -> Plan:
    """The plan of a build that has not begun to read recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "write_shards", lambda *_, **__: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            build(**arguments, output_dir=data_dir)
    return Plan.open(data_dir)


class Stop(Exception):
    pass


def build_here(output_dir: pathlib.Path, **arguments) -> None:
    """A build without worker processes: each costs a second to start."""

    def write_shards(plan, pending, **_):
        for shard in pending:
            write_shard(plan, shard, on_clip=lambda position: None, fatal={})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "write_shards", write_shards)
        build(**arguments, output_dir=output_dir)


@pytest.mark.parametrize("with_segments", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_records(inputs, tmp_path, kind, with_segments):
    """Right samples and labels of every clip, the same bytes for any number of workers."""
    arguments = inputs.arguments(inputs.folder / f"clips.{kind}", with_segments=with_segments)
    build_here(**arguments, output_dir=tmp_path / "1")
    if with_segments:
        build(**arguments, output_dir=tmp_path / "2", num_workers=2)
        assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert rejects(tmp_path / "1") == []
    found = records(tmp_path / "1")
    assert sorted(found) == sorted(inputs.ids)
    for clip_id, record in found.items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected(kind, clip_id))
        assert {MIDS[n] for n in np.flatnonzero(record["ol"])} == set(inputs.labels[clip_id])
    index = pq.read_table(tmp_path / "1" / "clips.parquet").to_pylist()
    assert [(row["clip_id"], row["split"]) for row in index] == [
        (clip_id, record["split"]) for clip_id, record in found.items()
    ]
    assert {(row["start_s"], row["end_s"]) for row in index} == {(0, 10)}


def test_a_tar_gives_the_bytes_that_the_folder_gives(inputs, tmp_path):
    folder = inputs.arguments(inputs.audio, with_segments=True)
    build_here(**folder, output_dir=tmp_path / "folder")
    tar = inputs.arguments(inputs.folder / "clips.tar", with_segments=True)
    build_here(**tar, output_dir=tmp_path / "tar")
    shards = [contents(tmp_path / name) for name in ("folder", "tar")]
    assert shards[0] == shards[1]
    assert sum("array_record" in name for name in shards[0]) >= 5


def test_a_row_group_stays_together(inputs, tmp_path):
    """Else a shard would read a whole row group for each of its clips."""
    arguments = inputs.arguments(inputs.folder / "clips.parquet", with_segments=True)
    plan = plan_only(arguments, tmp_path / "set")
    num_groups = -(-NUM_CLIPS // 7)
    last: dict[str, int] = {}
    visits = 0
    for shard in plan.shards:
        groups = [int(m.split(":")[0]) for m in plan.clips(shard)["member"].to_pylist()]
        rows = [int(m.split(":")[1]) for m in plan.clips(shard)["member"].to_pylist()]
        runs = [n for n, group in enumerate(groups) if n == 0 or group != groups[n - 1]]
        assert len({groups[n] for n in runs}) == len(runs)  # each group once
        places = list(zip(groups, rows, strict=True))
        for one, other in itertools.pairwise(places):
            assert one[0] != other[0] or one[1] < other[1]
        visits += len(runs)
        last[shard.split] = shard.count
    # once for each split, and once more where a shard ends within a group
    assert visits <= num_groups * len(SPLITS) + sum(last.values())
    # in another place the same shards
    moved = inputs.folder / "elsewhere"
    moved.mkdir()
    (moved / "other.parquet").write_bytes((inputs.folder / "clips.parquet").read_bytes())
    arguments["audio"] = moved / "other.parquet"
    again = plan_only(arguments, tmp_path / "again")
    assert [plan.clips(s)["member"] for s in plan.shards] == [
        again.clips(s)["member"] for s in again.shards
    ]


def test_rows_of_a_row_group_in_any_order(inputs):
    source = open_source(str(inputs.folder / "clips.parquet"))
    members = [entry.recording.member for entry in source.entries(False)]
    for number in [3, 5, 6, 4, 0, 39, 38, 7, 7, 13, 14]:
        mono, rate_hz = source.read(members[number])
        assert rate_hz == 32_000
        np.testing.assert_array_equal(np.rint(mono * 32_768), inputs.samples[inputs.ids[number]])


def test_several_places(inputs, tmp_path):
    """A folder with recordings and files of each kind; the first that has a clip provides it."""
    other = Inputs(tmp_path / "other")
    for kind, ids in (("tar", other.ids[:10]), ("parquet", other.ids[5:20]), ("h5", other.ids)):
        other.write(kind, ids)
    for clip_id in other.ids[2:]:
        (other.audio / f"{clip_id}.flac").unlink()
    places = f"{other.audio},{other.folder}/*.tar,{other.folder}/clips.p*,{other.folder}/clips.h5"
    assert [os.path.basename(place) for place in audio_places(places)] == [
        *("audio", "clips.tar", "clips.parquet", "clips.h5")
    ]
    plan = plan_only(other.arguments(places, with_segments=True), tmp_path / "set")
    found = {
        clip_id: os.path.splitext(path.decode())[1]
        for shard in plan.shards
        for clip_id, path in zip(
            *(plan.clips(shard)[name].to_pylist() for name in ("clip_id", "path")), strict=True
        )
    }
    expected = [".flac"] * 2 + [".tar"] * 8 + [".parquet"] * 10 + [".h5"] * 20
    assert [found[clip_id] for clip_id in other.ids] == expected
    # all of it by the folder: recordings of their own come first, then files by name
    other.write("tar", other.ids[:10], "a")
    plan = plan_only(other.arguments(other.folder, with_segments=True), tmp_path / "again")
    paths = {p.decode() for s in plan.shards for p in plan.clips(s)["path"].to_pylist()}
    assert {os.path.basename(path) for path in paths} == {
        *(f"{clip_id}.flac" for clip_id in other.ids[:2]),
        *("a.tar", "clips.parquet", "clips.h5"),
    }


def test_missing_clips_of_panns_are_reported_and_silent_ones_stored(tmp_path, capfd):
    inputs = Inputs(tmp_path, 8)
    inputs.samples[inputs.ids[3]] = np.zeros(320_000, np.int16)
    rows = [*inputs.ids[:5], "", "", *inputs.ids[5:7]]
    path = inputs.write("h5", rows)
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "a")
    assert reasons(tmp_path / "a") == {inputs.ids[7]: "no_file"}
    assert "2 places without a recording (missing clips)" in capfd.readouterr().err
    build_here(**inputs.arguments(path, with_segments=False), output_dir=tmp_path / "b")
    assert rejects(tmp_path / "b") == [
        {"clip_id": "", "source": "", "reason": "missing", "detail": f"{path}: row {n} has no name"}
        for n in (5, 6)
    ]
    assert "(missing 2)" in capfd.readouterr().err
    for name in "ab":
        found = records(tmp_path / name)
        assert sorted(found) == sorted(inputs.ids[:7])
        assert not found[inputs.ids[3]]["waveform"].any()


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 32_000])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_other_forms_of_panns_files(tmp_path, rate_hz, dtype):
    """Later versions pack float32; some files have no sample rate, but all have 10 s."""
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 10 * rate_hz))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio_name"] = ["Ya.wav", "Yb.wav"]  # of variable length
        scaled = samples * 32_768 if dtype == np.int16 else samples
        file.create_dataset("waveform", data=scaled.astype(dtype), chunks=(1, rate_hz))
    first, second = open_source(str(tmp_path / "x.h5")).entries(False)
    assert (first.name, first.clip_id, second.clip_id) == ("Ya", "a", "b")
    waveform, duration_s = read_recording(second.recording.path, second.recording.member)
    exact = (samples[1] * 32_768).astype(np.int16) / 32_768 if dtype == np.int16 else samples[1]
    expected, _ = to_waveform(exact.astype(np.float32), rate_hz)
    np.testing.assert_array_equal(waveform, expected)
    assert duration_s == 10


def refused(arguments: dict, output_dir: pathlib.Path, capfd) -> str:
    """The one line that the command prints."""
    flags = arguments | {"output_dir": output_dir}
    if "segments" in flags:
        flags["segments"] = ",".join(map(str, flags["segments"]))
    capfd.readouterr()
    assert main([f"--{name}={value}" for name, value in flags.items()]) == 1
    lines = [
        line
        for line in capfd.readouterr().err.splitlines()
        if line and not line.startswith(("listing:", "warning: "))
    ]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_labels_that_are_numbers_need_their_meaning(inputs, tmp_path, capfd):
    arguments = inputs.arguments(inputs.folder / "clips.h5", with_segments=False)
    del arguments["class_indices"]
    error = refused(arguments, tmp_path / "set", capfd)
    assert "its labels are class numbers" in error
    assert "--class_indices=class_labels_indices.csv" in error
    for text, message in (
        ("index,mid\n0,/m/dog\n2,/m/cat\n", "no index '1'"),
        ("mid\n/m/dog\n", "no column 'index'"),
    ):
        (tmp_path / "indices.csv").write_text(text)
        arguments["class_indices"] = tmp_path / "indices.csv"
        assert message in refused(arguments, tmp_path / "set", capfd)


def test_sources_without_labels(inputs, tmp_path, capfd):
    arguments = inputs.arguments(inputs.audio, with_segments=False)
    error = refused(arguments, tmp_path / "set", capfd)
    assert "no labelled recordings; give --segments=CSV" in error
    arguments |= {"paths": inputs.folder / "paths.csv"}
    assert "--paths needs --segments" in refused(arguments, tmp_path / "set", capfd)


def test_bad_labels_are_left_out(tmp_path):
    inputs = Inputs(tmp_path, 1)
    flac = inputs.flac(inputs.ids[0])
    labels = {
        **{"good.json": b'{"labels": ["Dog"]}', "bom.json": b'\xef\xbb\xbf["/m/dog"]'},
        **{"name.cls": b" Music, all kinds\n", "mids.cls": b"/m/dog ; /m/cat"},
        **{"other.json": b'{"text": "a dog"}', "number.json": b"[99]", "true.json": b"[true]"},
        **{"unknown.json": b'["/m/unheard"]', "broken.json": b'{"labels": [', "text.cls": b"\xff"},
        **{"nested.json": b'{"labels": [["/m/dog"]]}', "null.json": b'{"labels": null}'},
        **{"deep.json": b"[" * 100_000, "long.json": b" " * (1 << 20) + b'["/m/dog"]'},
        **{"near.json": b'["Dogs"]', "negative.json": b"[-1]", "empty.json": b""},
        **{"digits.json": b"[" + b"9" * 5_000 + b"]", "digits2.cls": b"9" * 5_000},
    }
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in labels.items():
            add(tar, name, content)  # before the recording
            add(tar, f"{name.partition('.')[0]}.flac", flac)
        add(tar, "none.flac", flac)
    arguments = inputs.arguments(tmp_path / "x.tar", with_segments=False)
    build_here(**arguments, output_dir=tmp_path / "set")
    assert {
        clip_id: {MIDS[n] for n in np.flatnonzero(record["ol"])}
        for clip_id, record in records(tmp_path / "set").items()
    } == {
        **{"good": {"/m/dog"}, "bom": {"/m/dog"}, "name": {"/m/music"}},
        **{"mids": {"/m/dog", "/m/cat"}},
    }
    expected = dict.fromkeys(
        (name.partition(".")[0] for name in list(labels)[4:]), "bad_labels"
    ) | {"other": "no_labels", "none": "no_labels"}
    assert reasons(tmp_path / "set") == expected
    details = {row["clip_id"]: row["detail"] for row in rejects(tmp_path / "set")}
    assert "no class number 99 of 5" in details["number"]
    assert "did you mean 'Dog'?" in details["near"]
    assert f"{tmp_path}/x.tar:" in details["unknown"]


def test_of_clips_with_one_id_the_first_is_taken(tmp_path, capfd):
    inputs = Inputs(tmp_path, 10)
    inputs.write("parquet", inputs.ids[:6], "a")
    inputs.labels = {clip_id: ["/m/music"] for clip_id in inputs.ids}
    inputs.write("parquet", inputs.ids[4:], "b")
    ontology = Ontology.from_json(inputs.ontology)
    segments, recordings = label_by_source(f"{tmp_path}/?.parquet", ontology, None)
    assert segments.clip_ids.to_pylist() == inputs.ids
    assert [pathlib.Path(each.path).stem for each in recordings] == ["a"] * 6 + ["b"] * 4
    assert segments.labels.to_pylist()[6:] == [[4]] * 4
    assert "2 recordings have the id of an earlier one" in capfd.readouterr().err


# Damage


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file(tmp_path, capfd, kind):
    """One line; the clips of it that can still be found are read, the others are listed."""
    inputs = Inputs(tmp_path)
    inputs.write(kind, inputs.ids[:10], "a")
    broken = inputs.write(kind, inputs.ids[10:], "b")
    size = broken.stat().st_size
    os.truncate(broken, size * 2 // 3)
    audio = f"{tmp_path}/?.{kind}"
    build_here(**inputs.arguments(audio, with_segments=True), output_dir=tmp_path / "x")
    found, missing = records(tmp_path / "x"), reasons(tmp_path / "x")
    assert sorted([*found, *missing]) == sorted(inputs.ids)
    assert set(inputs.ids[:10]) <= set(found)
    for clip_id, record in found.items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected(kind, clip_id))
    assert set(missing.values()) <= {"no_file", "unreadable"}
    if kind == "tar":
        assert 25 < len(found) < 40
        assert list(missing.values()).count("unreadable") <= 1  # the one that is cut in two
    else:
        assert len(missing) == 30
    warnings = [w for w in capfd.readouterr().err.splitlines() if w.startswith("warning: ")]
    assert len(warnings) == 1
    assert str(broken) in warnings[0]
    details = [row["detail"] for row in rejects(tmp_path / "x") if row["reason"] == "no_file"]
    assert all(str(broken) in detail for detail in details)

    build_here(**inputs.arguments(audio, with_segments=False), output_dir=tmp_path / "y")
    warnings = [w for w in capfd.readouterr().err.splitlines() if w.startswith("warning: ")]
    assert len(warnings) == 1
    assert str(broken) in warnings[0]
    assert sorted(records(tmp_path / "y")) == sorted(found)
    assert [r["clip_id"] for r in rejects(tmp_path / "y") if str(broken) in r["detail"]][-1] == ""

    # nothing else: one line, and nothing is begun
    arguments = inputs.arguments(broken, with_segments=True)
    inputs.segments.write_text(f'{inputs.ids[39]}, 0, 10, "/m/dog"\n')
    assert str(broken) in refused(arguments, tmp_path / "z", capfd)
    assert not (tmp_path / "z" / ".build" / "plan.arrow").exists()


def test_many_damaged_files(tmp_path):
    """Beside each missing clip stands the first of them, not all."""
    inputs = Inputs(tmp_path, 4)
    for n in range(50):
        (tmp_path / f"x{n:02}.parquet").write_bytes(b"PAR1 and no more")
    inputs.write("tar", inputs.ids[:1])
    audio = f"{tmp_path}/clips.tar,{tmp_path}/x*.parquet"
    build_here(**inputs.arguments(audio, with_segments=True), output_dir=tmp_path / "set")
    for row in rejects(tmp_path / "set"):
        assert "50 damaged files, the first: " in row["detail"]
        assert row["detail"].count(".parquet") == 2  # of --audio, and the first


@pytest.mark.parametrize("audio", ["", "AUDIO,"])
def test_an_empty_name_is_not_the_current_folder(tmp_path, capfd, audio):
    inputs = Inputs(tmp_path, 2)
    arguments = inputs.arguments(audio.replace("AUDIO", str(inputs.audio)), with_segments=True)
    assert "an empty name; expected folders or files" in refused(arguments, tmp_path / "s", capfd)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"no audio at all " * 999, bytes(10_240)])
def test_a_file_that_is_something_else(tmp_path, capfd, kind, content):
    inputs = Inputs(tmp_path, 4)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(content)
    error = refused(inputs.arguments(path, with_segments=True), tmp_path / "set", capfd)
    assert "no recording of any of the 4 clips" in error
    refused(inputs.arguments(path, with_segments=False), tmp_path / "set", capfd)


@pytest.mark.parametrize("kind", ["parquet", "h5"])
def test_a_file_of_another_form(tmp_path, capfd, kind):
    inputs = Inputs(tmp_path, 4)
    path = tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"video_id": ["a"], "sound": [b"b"]}), path)
    else:
        with h5py.File(path, "w") as file:
            file["audio_name"] = ["a"]
            file["target"] = np.zeros((1, 5), bool)
    error = refused(inputs.arguments(path, with_segments=True), tmp_path / "set", capfd)
    assert f"{path}: " in error
    assert "expected" in error


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([5] * 12, r"target has the shape \(12,\); expected \[clips, classes\]"),
        (np.ones((11, 5), bool), "a row for each of the 12 of audio_name"),
        (np.ones((12, 4), bool), "has labels of 4 classes, but --class_indices has 5"),
    ],
)
def test_targets_of_another_label_set(tmp_path, capfd, target, message):
    inputs = Inputs(tmp_path, 12)
    path = inputs.write("h5")
    with h5py.File(path, "r+") as file:
        del file["target"]
        file["target"] = target
    assert re.search(
        message, refused(inputs.arguments(path, with_segments=False), tmp_path / "set", capfd)
    )
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "unused")


def test_ids_that_begin_with_y(tmp_path):
    """In a file where not all names do it is no prefix."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio_name"] = ["Yabcdefghi1.wav", "", "Zabcdefghi1.wav"]
        file["waveform"] = np.zeros((3, 80_000), np.int16)
    entries = list(open_source(str(tmp_path / "x.h5")).entries(False))
    assert [entry.clip_id for entry in entries] == ["Yabcdefghi1", "", "Zabcdefghi1"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"video_id": [1, 2]}, "video_id is int64; expected strings"),
        ({"video_id": [b"a", b"b"]}, "video_id is binary; expected strings"),
        ({"labels": ["/m/dog,/m/cat", "/m/dog"]}, "labels is string; expected lists of mids"),
        ({"labels": [[0.5], [1.0]]}, "labels is list<.*double>; expected lists"),
    ],
)
def test_parquet_columns_of_another_type(tmp_path, capfd, columns, message):
    inputs = Inputs(tmp_path, 2)
    path = inputs.write("parquet")
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    error = refused(inputs.arguments(path, with_segments=False), tmp_path / "set", capfd)
    assert f"{path}: " in error
    assert re.search(message, error)


def test_parquet_values_that_are_damaged(tmp_path, capfd):
    """A label that is null; a byte of a name that is no text, which ends the file."""
    inputs = Inputs(tmp_path, 14)
    path = inputs.write("parquet")
    table = pq.read_table(path)
    labels = table["labels"].to_pylist()
    labels[3] = [labels[3][0], None]
    labels = pa.array(labels, pa.list_(pa.string()))
    table = table.set_column(table.column_names.index("labels"), "labels", labels)
    pq.write_table(table, path, row_group_size=7, compression="none", use_dictionary=False)
    content = path.read_bytes()
    name = inputs.ids[9].encode()
    path.write_bytes(content.replace(name, b"\xff" + name[1:]))
    build_here(**inputs.arguments(path, with_segments=False), output_dir=tmp_path / "set")
    assert sorted(records(tmp_path / "set")) == sorted({*inputs.ids[:7]} - {inputs.ids[3]})
    assert reasons(tmp_path / "set") == {inputs.ids[3]: "bad_labels", "": "unreadable"}
    assert f"warning: {path}: row group 1: " in capfd.readouterr().err


def test_damage_within_a_parquet_file(tmp_path):
    """Only the clips of the damaged row group are lost."""
    inputs = Inputs(tmp_path, 20)
    path = inputs.write("parquet")
    place = pq.ParquetFile(path).metadata.row_group(1).column(1)
    assert place.path_in_schema == "audio.bytes"
    content = bytearray(path.read_bytes())
    for start in (place.dictionary_page_offset, place.data_page_offset):
        content[start : start + 10] = bytes(10)
    path.write_bytes(content)
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "set")
    lost = reasons(tmp_path / "set")
    assert lost == dict.fromkeys(inputs.ids[7:14], "unreadable")
    for clip_id, record in records(tmp_path / "set").items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected("parquet", clip_id))


@pytest.mark.parametrize("kind", KINDS)
def test_recordings_that_are_damaged_inside(tmp_path, kind):
    inputs = Inputs(tmp_path, 12)
    good = inputs.flac
    bad = {
        **{inputs.ids[1]: b"", inputs.ids[2]: b"no audio" * 99},
        **{inputs.ids[3]: good(inputs.ids[3])[:3_000]},
    }
    inputs.flac = lambda clip_id: bad.get(clip_id, good(clip_id))
    path = inputs.write(kind)
    expected = {
        **{inputs.ids[1]: "empty", inputs.ids[2]: "unreadable", inputs.ids[3]: "unreadable"}
    }
    if kind == "h5":
        with h5py.File(path, "r+") as file:
            waveforms = file["waveform"][:].astype(np.float32)
            waveforms[5, 7] = np.nan
            del file["waveform"]
            file["waveform"] = waveforms / 32_768
        expected = {inputs.ids[5]: "not_finite"}
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == expected
    for row in rejects(tmp_path / "set"):
        assert row["source"].startswith(f"{path}:")
        assert row["clip_id"] in row["source"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_changes_after_the_plan_is_never_read_wrongly(tmp_path, kind):
    inputs = Inputs(tmp_path, 12)
    path = inputs.write(kind)
    arguments = inputs.arguments(path, with_segments=True)
    plan_only(arguments, tmp_path / "set")
    inputs.write(kind, [*inputs.ids[:4], *inputs.ids[5:8]])
    build_here(**arguments, output_dir=tmp_path / "set")
    found = records(tmp_path / "set")
    assert sorted(found) == sorted(inputs.ids[:4])
    for clip_id, record in found.items():
        np.testing.assert_array_equal(record["waveform"], inputs.expected(kind, clip_id))
    assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[4:], "changed")


@pytest.mark.parametrize("is_named", [True, False])
def test_a_file_that_is_gone_after_the_plan(tmp_path, is_named):
    inputs = Inputs(tmp_path, 12)
    folder = tmp_path / "packed"
    folder.mkdir()
    for n, kind in enumerate((*KINDS, "parquet")):
        inputs.write(kind, [inputs.ids[n]], f"packed/k{n}")
        (inputs.audio / f"{inputs.ids[n]}.flac").unlink()
    paths = sorted(folder.iterdir())
    places = paths if is_named else [folder]
    arguments = inputs.arguments(",".join(map(str, [*places, inputs.audio])), with_segments=True)
    plan_only(arguments, tmp_path / "set")
    for path in paths[:3]:
        path.unlink()
    if is_named:  # as a folder that is gone: no fault of its clips
        with pytest.raises(InputError, match=r"k0.*: the recordings were here when the build"):
            build_here(**arguments, output_dir=tmp_path / "set")
    else:
        build_here(**arguments, output_dir=tmp_path / "set")
        assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[:3], "unreadable")


def test_a_comma_in_the_name_of_the_folder(tmp_path):
    """It does not name two places, which are not there when a recording cannot be read."""
    inputs = Inputs(tmp_path, 6)
    folder = inputs.audio.rename(tmp_path / "a, b")
    (folder / f"{inputs.ids[0]}.flac").write_bytes(b"no audio")
    arguments = inputs.arguments(folder, with_segments=True)
    plan_only(arguments, tmp_path / "set")
    (folder / f"{inputs.ids[1]}.flac").unlink()
    build_here(**arguments, output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[:2], "unreadable")


def test_a_recording_that_is_gone_with_its_folder(tmp_path):
    """Each has one of its own: no disk is gone."""
    inputs = Inputs(tmp_path, 6)
    for clip_id in inputs.ids:
        (inputs.audio / f"of {clip_id}").mkdir()
        name = f"{clip_id}.flac"
        (inputs.audio / name).rename(inputs.audio / f"of {clip_id}" / name)
    arguments = inputs.arguments(inputs.audio, with_segments=True)
    plan_only(arguments, tmp_path / "set")
    shutil.rmtree(inputs.audio / f"of {inputs.ids[0]}")
    (inputs.audio / f"of {inputs.ids[1]}" / f"{inputs.ids[1]}.flac").unlink()
    build_here(**arguments, output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == dict.fromkeys(inputs.ids[:2], "unreadable")


@pytest.mark.parametrize("is_emptied", [True, False])
def test_a_disk_that_is_gone_after_the_plan_of_a_list(tmp_path, is_emptied):
    """There is no --audio to look at."""
    inputs = Inputs(tmp_path, 6)
    inputs.audio.rename(tmp_path / "disk")
    rows = [f"{clip_id},disk/{clip_id}.flac\n" for clip_id in inputs.ids]
    (tmp_path / "paths.csv").write_text("".join(["clip_id,path\n", *rows]))
    arguments = inputs.arguments(None, with_segments=True) | {"paths": tmp_path / "paths.csv"}
    plan_only(arguments, tmp_path / "set")
    (tmp_path / "disk").rename(tmp_path / "away")
    if is_emptied:  # where it was mounted
        (tmp_path / "disk").mkdir()
    with pytest.raises(InputError, match=r"/disk: the recordings were here when the build began"):
        build_here(**arguments, output_dir=tmp_path / "set")
    if is_emptied:
        (tmp_path / "disk").rmdir()
    (tmp_path / "away").rename(tmp_path / "disk")
    (tmp_path / "disk" / f"{inputs.ids[0]}.flac").unlink()  # that is one bad clip
    build_here(**arguments, output_dir=tmp_path / "set")
    assert reasons(tmp_path / "set") == {inputs.ids[0]: "unreadable"}


# Names that would leave the folders


def everything(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_names_in_a_tar_are_never_paths(tmp_path):
    inputs = Inputs(tmp_path / "in", 1)
    secret = tmp_path / "secret.flac"
    soundfile.write(secret, np.full(800, 0.5), 8_000)
    flac = inputs.flac(inputs.ids[0])
    names = ["../../up.flac", "/abs.flac", f"{tmp_path}/in/direct.flac", "a/../../b.flac", "..flac"]
    with tarfile.open(tmp_path / "in" / "x.tar", "w") as tar:
        for name in names:
            add(tar, name, flac)
            add(tar, name.replace(".flac", ".json"), b'["/m/dog"]')
        for kind, key in ((tarfile.SYMTYPE, "soft"), (tarfile.LNKTYPE, "hard")):
            link = tarfile.TarInfo(f"{key}.flac")
            link.type, link.linkname = kind, str(secret)
            tar.addfile(link)
            link.name, link.linkname = f"{key}2.flac", "../secret.flac"
            tar.addfile(link)
            add(tar, f"{key}.json", b'["/m/dog"]')
        for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE):
            odd = tarfile.TarInfo("odd.flac")
            odd.type = kind
            tar.addfile(odd)
    before = everything(tmp_path)
    build_here(
        **inputs.arguments(tmp_path / "in" / "x.tar", with_segments=False),
        output_dir=tmp_path / "out" / "set",
    )
    found = records(tmp_path / "out" / "set")
    assert sorted(found) == ["abs", "b", "direct", "up"]
    for record in found.values():
        np.testing.assert_array_equal(record["waveform"], inputs.expected("tar", inputs.ids[0]))
    new = everything(tmp_path) - before
    assert all(name.split(os.sep)[0] == "out" for name in new)
    assert all(name.startswith("out/set") for name in new - {"out"})


@pytest.mark.parametrize("clip_id", ["../../etc/x", "/etc/x", "..", "a/b", "a\nb", "x" * 300])
@pytest.mark.parametrize("kind", ["parquet", "h5"])
def test_ids_are_never_paths(tmp_path, kind, clip_id):
    inputs = Inputs(tmp_path / "in", 2)
    old = inputs.ids[0]
    inputs.ids[0] = clip_id if kind == "parquet" else clip_id[:15]
    for values in (inputs.samples, inputs.labels):
        values[inputs.ids[0]] = values.pop(old)
    path = inputs.write(kind)
    before = everything(tmp_path)
    arguments = inputs.arguments(path, with_segments=False)
    build_here(**arguments, output_dir=tmp_path / "out" / "set")
    assert sorted(records(tmp_path / "out" / "set")) == sorted(inputs.ids)
    assert all(n.startswith("out") for n in everything(tmp_path) - before)


def test_a_path_in_a_parquet_file_is_never_opened(tmp_path):
    inputs = Inputs(tmp_path, 3)
    secret = inputs.audio / f"{inputs.ids[0]}.flac"
    rows = [
        {"video_id": "path", "audio": {"bytes": None, "path": str(secret)}, "labels": ["/m/dog"]},
        {"video_id": "null", "audio": None, "labels": ["/m/dog"]},
        {"video_id": None, "audio": None, "labels": None},
        {
            "video_id": "good",
            "audio": {"bytes": inputs.flac(inputs.ids[1]), "path": None},
            "labels": ["/m/dog"],
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    arguments = inputs.arguments(tmp_path / "x.parquet", with_segments=False)
    build_here(**arguments, output_dir=tmp_path / "set")
    assert list(records(tmp_path / "set")) == ["good"]
    assert reasons(tmp_path / "set") == {"path": "empty", "null": "empty", "": "missing"}


@pytest.mark.parametrize("what", ["external link", "soft link", "external storage", "virtual"])
@pytest.mark.parametrize("name", ["waveform", "audio_name"])
def test_an_hdf5_file_never_reads_another(tmp_path, capfd, what, name):
    inputs = Inputs(tmp_path, 2)
    inputs.write("h5", name="other")
    path = inputs.write("h5")
    with h5py.File(path, "r+") as file:
        shape, dtype = file[name].shape, file[name].dtype
        file.move(name, "moved")
        if what == "external link":
            file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
        elif what == "soft link":
            file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
            file[name] = h5py.SoftLink(f"/link/{name}")
        elif what == "external storage":
            secret = [(str(tmp_path / "other.h5"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset(name, shape, dtype, external=secret)
        else:
            layout = h5py.VirtualLayout(shape=shape, dtype=dtype)
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", name, shape=shape)
            file.create_virtual_dataset(name, layout)
    error = refused(inputs.arguments(path, with_segments=True), tmp_path / "set", capfd)
    assert "in the file itself" in error


# What else may be wrong


def test_an_extra_that_is_not_installed(inputs, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    arguments = inputs.arguments(inputs.folder / "clips.h5", with_segments=True)
    error = refused(arguments, tmp_path / "set", capfd)
    assert "clips.h5: needs h5py: pip install 'relabel-jax[sources]'" in error


def test_a_compressed_tar_and_other_files_are_refused(inputs, tmp_path, capfd):
    for name in ("x.tar.gz", "x.wav", "x.zip"):
        (tmp_path / name).touch()
        arguments = inputs.arguments(tmp_path / name, with_segments=True)
        error = refused(arguments, tmp_path / "set", capfd)
        assert f"{name}: cannot list the recordings: not a folder, nor a file with many" in error
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        add(tar, "a.flac", inputs.flac(inputs.ids[0]))
    arguments = inputs.arguments(tmp_path / "x.tar", with_segments=True)
    assert "damaged after 0 recordings" in refused(arguments, tmp_path / "set", capfd)


def test_other_sources_are_refused(inputs, tmp_path, capfd):
    arguments = inputs.arguments(inputs.folder / "clips.tar", with_segments=True)
    build_here(**arguments, output_dir=tmp_path / "set")
    arguments["audio"] = f"{inputs.folder}/clips.tar,{inputs.folder}/clips.h5"
    assert "was begun with another --audio;" in refused(arguments, tmp_path / "set", capfd)


@pytest.mark.parametrize(
    "name", ["long" * 60, "é", "a b", "x:y", b"caf\xe9".decode(errors="surrogateescape")]
)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_member_names_in_every_form_of_tar(inputs, tmp_path, name, form):
    if form == tarfile.USTAR_FORMAT:
        name = name[:80]
    flac = inputs.flac(inputs.ids[0])
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as tar:
        add(tar, "first.txt", b"x")
        add(tar, f"dir/{name}.flac", flac)
        add(tar, "last.flac", flac)
    entries = list(open_source(str(tmp_path / "x.tar")).entries(False))
    assert [entry.name for entry in entries] == [
        name.encode(errors="surrogateescape").decode(errors="backslashreplace"),
        "last",
    ]
    for entry in entries:
        waveform, _ = read_recording(entry.recording.path, entry.recording.member)
        np.testing.assert_array_equal(waveform, inputs.expected("tar", inputs.ids[0]))


@pytest.mark.parametrize("max_bytes", [0, 1 << 26])
def test_real_recordings_read_alike_from_a_tar(realaudio_dir, tmp_path, monkeypatch, max_bytes):
    """Every format of the real recordings: by an open file, in memory or not, as by its path."""
    monkeypatch.setattr("data_prep.sources.webdataset._MAX_BYTES_IN_MEMORY", max_bytes)
    with open(realaudio_dir / "clips_detail.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = {
        (row["format"], row["subtype"], row["channels"], row["sample_rate"]): row["path"]
        for row in rows
    }
    assert len(chosen) >= 25
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in chosen.values():
            tar.add(realaudio_dir / path, path)
    entries = list(open_source(str(tmp_path / "x.tar")).entries(False))
    assert len(entries) == len(chosen)
    for entry, path in zip(entries, chosen.values(), strict=True):
        assert isinstance(entry.recording, Recording)
        found = read_recording(entry.recording.path, entry.recording.member)
        expected = read_waveform(str(realaudio_dir / path))
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]
