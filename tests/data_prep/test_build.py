"""From recordings to a data set: contents, resume after kills, bad input."""

import csv
import json
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import tensorflow_datasets as tfds

from data_prep import build as build_module
from data_prep import workers as workers_module
from data_prep.build import build, main
from data_prep.segments import multi_hot, read_segments
from data_prep.shards import Plan
from data_prep.workers import Workers
from relabel_jax.audio.decode import read_waveform
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS, hashed_splits

REPOSITORY = pathlib.Path(__file__).parents[2]

CHILDREN = {
    **{"/m/root": ["/m/animal", "/m/home"], "/m/animal": ["/m/dog", "/m/cat"]},
    **{"/m/home": ["/m/cat", "/m/door"], "/m/dog": ["/m/bark"]},
}
MIDS = ["/m/root", "/m/animal", "/m/home", "/m/dog", "/m/cat", "/m/door", "/m/bark", "/m/music"]


def make_inputs(folder: pathlib.Path, num_clips: int, duration_s: float = 0.5) -> dict:
    """Recordings, ontology and segments; the arguments of build."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    (folder / "ontology.json").write_text(
        json.dumps([{"id": m, "name": m[3:], "child_ids": CHILDREN.get(m, [])} for m in MIDS])
    )
    rows = ["# made for a test", "# ", "# YTID, start_seconds, end_seconds, positive_labels"]
    for number in range(num_clips):
        clip_id = f"{'-_aY'[number % 4]}clip{number:03d}"
        mids = rng.choice(MIDS, rng.integers(1, 4), replace=False)
        rows.append(f'{clip_id}, {number}.000, {number + 10}.000, "{",".join(mids)}"')
        rate_hz = [8_000, 16_000, 44_100, 48_000][number % 4]
        samples = 0.2 * rng.standard_normal((round(duration_s * rate_hz), 1 + number % 2))
        name = [clip_id, f"Y{clip_id}", f"{clip_id}_{number}", f"{clip_id}_{number}_{number + 10}"]
        soundfile.write(folder / "audio" / f"{name[number % 4]}.flac", samples, rate_hz)
    (folder / "segments.csv").write_text("\n".join(rows) + "\n")
    return {
        "ontology": folder / "ontology.json",
        "segments": [folder / "segments.csv"],
        "audio": folder / "audio",
        "clips_per_shard": 5,
    }


def command(arguments: dict, output_dir: pathlib.Path, **more) -> list[str]:
    flags = arguments | {"segments": ",".join(map(str, arguments["segments"]))} | more
    flags["output_dir"] = output_dir
    return [
        *(sys.executable, "-m", "data_prep.build"),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def contents(data_dir: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file()}


def rejects(data_dir: pathlib.Path) -> dict[str, str]:
    with open(data_dir / "rejects.csv", newline="") as file:
        return {row["clip_id"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), 60)


@pytest.fixture(scope="module")
def data_dir(arguments, tmp_path_factory):
    """An undisturbed build."""
    data_dir = tmp_path_factory.mktemp("data") / "set"
    build(**arguments, output_dir=data_dir, num_workers=2)
    return data_dir


def test_tfds_opens_it_without_tensorflow(arguments, data_dir):
    assert not {"tensorflow", "jax"} & imported_by("import data_prep.build, data_prep.workers")
    ontology = Ontology.from_json(arguments["ontology"])
    segments = read_segments(arguments["segments"], ontology)
    labels = multi_hot(segments.labels, len(ontology))
    pel, masked = relabel(labels, ontology.is_ancestor, "pe_cml")
    row_of = {clip_id: row for row, clip_id in enumerate(segments.clip_ids.to_pylist())}
    splits = hashed_splits(list(row_of))
    files = {path.stem: path for path in arguments["audio"].iterdir()}

    builder = tfds.builder_from_directory(data_dir)
    index = iter(pq.read_table(data_dir / "clips.parquet").to_pylist())
    for number, split in enumerate(SPLITS):
        assert builder.info.splits[split].num_examples == (splits == number).sum() > 0
        for record in builder.as_data_source(split):
            clip_id = record["clip_id"].decode()
            row = row_of.pop(clip_id)
            assert splits[row] == number
            assert record["waveform"].dtype == np.int16
            stems = (clip_id, f"Y{clip_id}", f"{clip_id}_{row}", f"{clip_id}_{row}_{row + 10}")
            path = files[stems[row % 4]]
            np.testing.assert_array_equal(record["waveform"], read_waveform(str(path))[0])
            for name, expected in (("ol", labels), ("pel", pel), ("masked", masked)):
                assert record[name].dtype == bool
                np.testing.assert_array_equal(record[name], expected[row])
            assert next(index) == {
                **{"clip_id": clip_id, "split": split, "start_s": row, "end_s": row + 10},
                "ol": segments.labels[row].as_py(),
            }
    assert not row_of
    assert next(index, None) is None
    assert (data_dir / "ontology.json").read_text() == ontology.text
    assert rejects(data_dir) == {}


def imported_by(statement: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", f"{statement}, sys; print(*sys.modules)"],
        **{"cwd": REPOSITORY, "capture_output": True, "text": True, "check": True},
    )
    return set(run.stdout.split())


def test_shards_are_balanced(data_dir):
    info = json.loads((data_dir / "dataset_info.json").read_text())
    for split in info["splits"]:
        lengths = [int(length) for length in split["shardLengths"]]
        assert max(lengths) <= 5
        assert max(lengths) - min(lengths) <= 1
        assert len(lengths) == -(-sum(lengths) // 5)
        assert len(list(data_dir.glob(f"*-{split['name']}.array_record-*"))) == len(lengths)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_number_of_workers_does_not_change_a_byte(arguments, data_dir, tmp_path, num_workers):
    build(**arguments, output_dir=tmp_path / "set", num_workers=num_workers)
    assert contents(tmp_path / "set") == contents(data_dir)


def test_the_seed_changes_splits_and_shards(arguments, data_dir, tmp_path):
    build(**arguments, output_dir=tmp_path / "set", split_seed=1)
    ids = [
        pq.read_table(each / "clips.parquet")["clip_id"] for each in (data_dir, tmp_path / "set")
    ]
    assert ids[0] != ids[1]
    assert set(ids[0].to_pylist()) == set(ids[1].to_pylist())


def test_a_complete_data_set_is_left_alone(arguments, data_dir, capfd):
    before = {path: path.stat().st_mtime_ns for path in data_dir.iterdir() if path.is_file()}
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert "complete already, nothing to do" in capfd.readouterr().err
    assert before == {
        path: path.stat().st_mtime_ns for path in data_dir.iterdir() if path.is_file()
    }


def children_of(pid: int) -> list[int]:
    """Worker processes (multiprocessing has a helper process besides)."""
    workers = []
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
        except FileNotFoundError:
            continue
    return workers


def start(arguments: dict, data_dir: pathlib.Path) -> subprocess.Popen:
    return subprocess.Popen(
        command(arguments, data_dir, num_workers=2), cwd=REPOSITORY, stderr=subprocess.PIPE
    )


def wait_for(process: subprocess.Popen, data_dir: pathlib.Path, num_shards: int) -> None:
    """Until so many shards are done, or just the plan, and a random moment longer."""
    while process.poll() is None:
        if (data_dir / ".build" / "plan.arrow").exists() and (
            len(list(data_dir.glob(".build/*-*.json"))) >= num_shards
        ):
            time.sleep(random.Random(num_shards).uniform(0, 0.05))
            return
        time.sleep(0.001)


@pytest.fixture(scope="module")
def slower(tmp_path_factory):
    """Arguments and the undisturbed data set of a build that takes long enough to be killed."""
    folder = tmp_path_factory.mktemp("slower")
    arguments = make_inputs(folder / "inputs", 30, duration_s=10) | {"clips_per_shard": 3}
    build(**arguments, output_dir=folder / "undisturbed", num_workers=2)
    return arguments, folder / "undisturbed"


def test_a_killed_build_is_finished_by_the_same_command(slower, tmp_path):
    arguments, undisturbed = slower
    data_dir = tmp_path / "set"
    written: dict[str, int] = {}
    for num_shards in (0, 3, 7):
        process = start(arguments, data_dir)
        wait_for(process, data_dir, num_shards)
        process.kill()
        process.communicate(timeout=60)  # until its workers are gone too
        assert process.returncode == -signal.SIGKILL
        for path in data_dir.glob("*.array_record*"):  # complete, and never written again
            assert path.read_bytes() == (undisturbed / path.name).read_bytes()
        for path in data_dir.glob(".build/*-*.json"):
            assert written.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert len(written) >= 7
    build(**arguments, output_dir=data_dir, num_workers=2)
    assert contents(data_dir) == contents(undisturbed)
    assert not list((data_dir / ".build").glob("*.tmp"))


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="finds workers in Linux's /proc")
def test_a_killed_worker_is_replaced(slower, tmp_path):
    arguments, undisturbed = slower
    process = start(arguments, tmp_path / "set")
    for num_shards in (0, 3, 7):
        wait_for(process, tmp_path / "set", num_shards)
        while not (workers := children_of(process.pid)):
            time.sleep(0.001)
        os.kill(workers[0], signal.SIGKILL)
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0, error
    assert contents(tmp_path / "set") == contents(undisturbed)


def test_what_is_missing_is_built_again(arguments, data_dir, tmp_path):
    build(**arguments, output_dir=tmp_path / "set")
    shards = sorted((tmp_path / "set").glob("*.array_record*"))
    shards[0].unlink()
    shards[3].write_bytes(b"")
    build(**arguments, output_dir=tmp_path / "set")
    assert contents(tmp_path / "set") == contents(data_dir)
    for name in ("clips.parquet", "features.json", "rejects.csv"):  # killed near the end
        (tmp_path / "set" / name).unlink()
    build(**arguments, output_dir=tmp_path / "set")
    assert contents(tmp_path / "set") == contents(data_dir)


def test_a_clip_that_kills_its_worker_is_left_out(tmp_path, monkeypatch, capfd):
    """The worker is killed each time that it opens one clip, as a crash of the decoder would."""
    arguments = make_inputs(tmp_path / "inputs", 20) | {"clips_per_shard": 20}
    build_dir = tmp_path / "set"
    plans: list[Plan] = []

    def stop_after_the_plan(plan, *_, **__):
        plans.append(plan)
        raise InputError("enough")

    monkeypatch.setattr(build_module, "write_shards", stop_after_the_plan)
    with pytest.raises(InputError, match="enough"):
        build(**arguments, output_dir=build_dir)
    monkeypatch.undo()
    (plan,) = plans
    shard = max(plan.shards, key=lambda shard: plan.clips(shard).num_rows)
    position = 6
    clip_id = plan.clips(shard)["clip_id"][position].as_py()
    slow = os.fsdecode(plan.clips(shard)["path"][position].as_py())
    noise = np.random.default_rng(0).uniform(-1, 1, (11 * 96_000, 8))
    soundfile.write(slow, noise, 96_000, subtype="PCM_24")  # tenths of a second in the decoder

    done = deaths = 0

    def on_clips(number):
        nonlocal done, deaths
        done += number
        if done == position and deaths < 3:
            (worker,) = multiprocessing.active_children()
            worker.kill()
            deaths += 1

    monkeypatch.setattr(workers_module, "_TICK_S", 0.01)
    with Workers(plan, num_workers=1) as workers:
        workers.write_shards([shard], on_clips)
    assert deaths == 3
    build(**arguments, output_dir=build_dir)
    assert rejects(build_dir) == {clip_id: "crash"}
    assert "SIGKILL" in (build_dir / "rejects.csv").read_text()
    assert pq.read_table(build_dir / "clips.parquet").num_rows == 19
    assert "rejected               1 (crash 1)" in capfd.readouterr().err


def test_bad_recordings_are_listed_and_the_build_goes_on(tmp_path, capfd):
    arguments = make_inputs(tmp_path, 12)
    audio = arguments["audio"]
    (audio / "-clip000.flac").unlink()
    (audio / "Y_clip001.flac").write_bytes(b"")
    (audio / "aclip002_2.flac").write_text("no audio")
    (audio / "Yclip003_3_13.flac").unlink()
    soundfile.write(audio / "Yclip003.wav", [0.5, np.nan], 8_000, subtype="FLOAT")
    (audio / "-clip004.flac").write_bytes((audio / "-clip004.flac").read_bytes()[:-2_000])
    (audio / "-clip008.flac").rename(audio / b"caf\xe9".decode(errors="surrogateescape"))
    folder = audio / b"caf\xe9s".decode(errors="surrogateescape")
    folder.mkdir()
    (folder / "-clip008.wav").write_text("no audio in a folder whose name is not UTF-8")
    assert main(command(arguments, tmp_path / "set")[3:]) == 0
    expected = {
        **{"-clip000": "no_file", "_clip001": "empty", "aclip002": "unreadable"},
        **{"Yclip003": "not_finite", "-clip004": "unreadable", "-clip008": "unreadable"},
    }
    assert rejects(tmp_path / "set") == expected
    assert list(rejects(tmp_path / "set")) == list(expected)  # in the order of the segments
    written = pq.read_table(tmp_path / "set" / "clips.parquet")["clip_id"].to_pylist()
    assert len(written) == 6
    assert not expected.keys() & set(written)
    source = tfds.builder_from_directory(tmp_path / "set").info.splits
    assert sum(split.num_examples for split in source.values()) == 6
    error = capfd.readouterr().err
    assert "rejected               6 (empty 1, no_file 1, not_finite 1, unreadable 3)" in error
    assert str(tmp_path / "set" / "rejects.csv") in error


def test_a_shard_and_a_split_without_a_good_recording(tmp_path):
    arguments = make_inputs(tmp_path, 12) | {"clips_per_shard": 2}
    rows = [(f"{'-_aY'[n % 4]}clip{n:03d}", ["train", "test"][n < 2]) for n in range(12)]
    (tmp_path / "splits.csv").write_text(
        "clip_id,split\n" + "".join(f"{clip_id},{split}\n" for clip_id, split in rows)
    )
    for file in ("-clip000.flac", "Y_clip001.flac"):
        (arguments["audio"] / file).write_bytes(b"")
    arguments["splits"] = tmp_path / "splits.csv"
    build(**arguments, output_dir=tmp_path / "set")
    assert list(tfds.builder_from_directory(tmp_path / "set").info.splits) == ["train"]
    build(**arguments, output_dir=tmp_path / "set")

    plan = Plan.open(tmp_path / "set")  # now one shard of several
    bad = [os.fsdecode(path) for path in plan.clips(plan.shards[1])["path"].to_pylist()]
    for path in bad:
        pathlib.Path(path).write_bytes(b"")
    build(**arguments, output_dir=tmp_path / "again")
    source = tfds.builder_from_directory(tmp_path / "again").as_data_source("train")
    index = pq.read_table(tmp_path / "again" / "clips.parquet")["clip_id"].to_pylist()
    assert [record["clip_id"].decode() for record in source] == index
    assert len(index) == 8


def test_splits_override(arguments, tmp_path, capfd):
    (tmp_path / "splits.csv").write_text(
        "clip_id,split\n-clip000,test\n_clip001,validation\nunknown,train\n"
    )
    build(**arguments, output_dir=tmp_path / "set", splits=tmp_path / "splits.csv")
    index = pq.read_table(tmp_path / "set" / "clips.parquet").to_pylist()
    splits = {row["clip_id"]: row["split"] for row in index}
    assert (splits.pop("-clip000"), splits.pop("_clip001")) == ("test", "validation")
    assert list(splits.values()) == [SPLITS[number] for number in hashed_splits(list(splits))]
    assert "1 clips are not in the segments, the first is 'unknown'" in capfd.readouterr().err


def refused(arguments, output_dir, capfd, **more) -> str:
    """The one line that the command prints."""
    assert main(command(arguments, output_dir, **more)[3:]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("splits", "clip_id,split\n-clip000,dev\n", "split 'dev'; expected one of train"),
        ("splits", "clip_id,split\na,test\na,test\n", "1 clips stand more than once"),
        ("splits", "-clip000,test\n", "no column 'clip_id'"),
        ("paths", "clip_id,file\n", "no column 'path'"),
        ("segments", 'a, 0, 10, "/m/unheard"\n', "1 mids are not in the ontology (/m/unheard)"),
        ("segments", "a, 0, 10\n", "1 malformed rows"),
        ("segments", 'a, 0, 10, "/m/dog"\na, 0, 10, "/m/cat"\n', "stand more than once (a)"),
        ("ontology", "{", "not JSON"),
    ],
)
def test_bad_inputs(arguments, tmp_path, capfd, flag, text, message):
    (tmp_path / "bad").write_text(text)
    value = [tmp_path / "bad"] if flag == "segments" else tmp_path / "bad"
    error = refused(arguments | {flag: value}, tmp_path / "set", capfd)
    assert f"{tmp_path}/bad: " in error
    assert message in error
    error = (
        refused(arguments | {flag: [tmp_path / "no"]}, tmp_path / "set", capfd)
        if (flag == "segments")
        else refused(arguments | {flag: tmp_path / "no"}, tmp_path / "set", capfd)
    )
    assert f"{tmp_path}/no: cannot read" in error


def test_nothing_to_build(arguments, tmp_path, capfd):
    (tmp_path / "audio").mkdir()
    empty = arguments | {"audio": tmp_path / "audio"}
    assert "no recording of any of the 60 clips" in refused(empty, tmp_path / "set", capfd)
    assert "cannot list" in refused(arguments | {"audio": "/nowhere"}, tmp_path / "set", capfd)
    without = {name: value for name, value in arguments.items() if name != "audio"}
    assert "give --audio=FOLDER" in refused(without, tmp_path / "set", capfd)
    assert "--num_workers=0" in refused(arguments, tmp_path / "set", capfd, num_workers=0)
    build(**arguments, output_dir=tmp_path / "set")  # none of these has spoiled the folder


def test_no_readable_recording_at_all(tmp_path, capfd):
    arguments = make_inputs(tmp_path, 4)
    for path in arguments["audio"].iterdir():
        path.write_bytes(b"")
    assert main(command(arguments, tmp_path / "set")[3:]) == 1
    assert "none of the 4 clips could be written" in capfd.readouterr().err
    assert set(rejects(tmp_path / "set").values()) == {"empty"}
    assert not (tmp_path / "set" / "clips.parquet").exists()
    assert not (tmp_path / "set" / "dataset_info.json").exists()


def test_other_inputs_are_refused(arguments, data_dir, tmp_path, capfd):
    error = refused(arguments, data_dir, capfd, split_seed=7, clips_per_shard=9)
    assert "was begun with another --clips_per_shard, --split_seed;" in error
    (tmp_path / "other.csv").write_text('-clip000, 0, 10, "/m/dog"\n')
    error = refused(arguments | {"segments": [tmp_path / "other.csv"]}, data_dir, capfd)
    assert "was begun with another --segments;" in error


def test_folders_that_cannot_be_written(arguments, data_dir, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert "file: cannot write there" in refused(arguments, tmp_path / "file", capfd)
    (tmp_path / "clips.parquet").touch()
    assert "that this command did not build" in refused(arguments, tmp_path, capfd)
    with build_module.working_folder(data_dir):
        assert "another build is at work there" in refused(arguments, data_dir, capfd)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's rlimits")
def test_a_disk_without_room(tmp_path):
    """A limit on the size of files: what ArrayRecord and the rest see is a write that fails."""
    arguments = make_inputs(tmp_path, 12, duration_s=10) | {"clips_per_shard": 12}
    flags = command(arguments, tmp_path / "set", num_workers=1)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
    run = subprocess.run(
        [*flags[:1], "-c", f"{limit}\nfrom data_prep.build import main\nexit(main())", *flags[3:]],
        **{"cwd": REPOSITORY, "capture_output": True, "text": True, "check": False},
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "cannot write" in run.stderr.splitlines()[-1]
    assert "File too large" in run.stderr.splitlines()[-1]
    assert not list((tmp_path / "set").glob("*-train.array_record*"))
    assert not list((tmp_path / "set" / ".build").glob("*.tmp"))
    assert subprocess.run(flags, cwd=REPOSITORY, capture_output=True).returncode == 0


def test_real_recordings(realaudio_dir, audioset_dir, tmp_path):
    """Every one of 1,246 recordings is there; none of them is damaged."""
    build(
        ontology=audioset_dir / "ontology.json",
        segments=[realaudio_dir / "segments.csv"],
        paths=realaudio_dir / "labels.csv",
        output_dir=tmp_path / "set",
    )
    assert rejects(tmp_path / "set") == {}
    builder = tfds.builder_from_directory(tmp_path / "set")
    index = pq.read_table(tmp_path / "set" / "clips.parquet")
    assert sum(split.num_examples for split in builder.info.splits.values()) == len(index) == 1_246
    with open(realaudio_dir / "clips_detail.csv", newline="") as file:
        detail = {row["clip_id"]: row for row in csv.DictReader(file)}
    silent = 0
    for split in SPLITS:
        for record in builder.as_data_source(split):
            duration_s = float(detail[record["clip_id"].decode()]["duration_s"])
            assert not record["waveform"][round((duration_s + 0.2) * 8_000) :].any()
            silent += np.abs(record["waveform"]).max() <= 4  # of 32,768
    assert silent == 4  # as the recordings' README has it
