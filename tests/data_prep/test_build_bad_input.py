"""Bad recordings are listed; bad inputs and folders are refused in one line."""

import csv
import os
import pathlib
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import tensorflow_datasets as tfds
from building import REPOSITORY, command, make_inputs, refused, rejects

from data_prep.build import build, main
from data_prep.plan import Plan
from data_prep.working_folder import working_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), 60)


@pytest.fixture(scope="module")
def data_dir(arguments, tmp_path_factory):
    """An undisturbed build."""
    data_dir = tmp_path_factory.mktemp("data") / "set"
    build(**arguments, output_dir=data_dir, num_workers=1)
    return data_dir


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
        "-clip000": "no_file",
        "_clip001": "empty",
        "aclip002": "unreadable",
        "Yclip003": "not_finite",
        "-clip004": "unreadable",
        "-clip008": "unreadable",
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
    rejects_path = tmp_path / "set" / "rejects.csv"
    assert f"why they were rejected {rejects_path}" in error
    assert error.splitlines()[-1] == (
        "warning: 50.0% of the clips were rejected; the most common reason is unreadable (3): "
        f"{rejects_path} says why, clip by clip"
    )


def test_a_bad_recording_does_not_hide_a_good_one(tmp_path):
    arguments = make_inputs(tmp_path, 8)
    audio = arguments["audio"]
    (audio / "-clip000.wav").write_text("preferred, but no audio")
    (audio / "-clip004.wav").write_bytes(b"")
    (audio / "-clip004.flac").write_text("no audio either")
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    with open(tmp_path / "set" / "rejects.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["clip_id"] == "-clip004"
    assert row["reason"] == "empty"
    assert row["source"] == str(audio / "-clip004.wav")
    assert f"{audio / '-clip004.flac'}: " in row["detail"]


def test_a_shard_and_a_split_without_a_good_recording(tmp_path):
    arguments = make_inputs(tmp_path, 12) | {"clips_per_shard": 2}
    rows = [(f"{'-_aY'[n % 4]}clip{n:03d}", ["train", "test"][n < 2]) for n in range(12)]
    (tmp_path / "splits.csv").write_text(
        "clip_id,split\n" + "".join(f"{clip_id},{split}\n" for clip_id, split in rows)
    )
    for file in ("-clip000.flac", "Y_clip001.flac"):
        (arguments["audio"] / file).write_bytes(b"")
    arguments["splits"] = tmp_path / "splits.csv"
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    assert list(tfds.builder_from_directory(tmp_path / "set").info.splits) == ["train"]
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)

    plan = Plan.open(tmp_path / "set")  # now one shard of several
    bad = [os.fsdecode(path) for path in plan.clips(plan.shards[1])["path"].to_pylist()]
    for path in bad:
        pathlib.Path(path).write_bytes(b"")
    build(**arguments, output_dir=tmp_path / "again", num_workers=1)
    source = tfds.builder_from_directory(tmp_path / "again").as_data_source("train")
    index = pq.read_table(tmp_path / "again" / "clips.parquet")["clip_id"].to_pylist()
    assert [record["clip_id"].decode() for record in source] == index
    assert len(index) == 8


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("splits", "clip_id,split\n-clip000,eval\n", "split 'eval'; expected one of train"),
        ("splits", "clip_id,split\na,test\na,test\n", "1 clips occur more than once"),
        ("splits", "-clip000,test\n", "no column 'clip_id'"),
        ("paths", "clip_id,file\n", "no column 'path'"),
        ("segments", 'a, 0, 10, "/m/unheard"\n', "1 mids are not in the ontology (/m/unheard)"),
        ("segments", "a, 0, 10\n", "1 malformed rows"),
        ("segments", 'a, 0, 10, "/m/dog"\na, 0, 10, "/m/cat"\n', "occur more than once (a)"),
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
    build(
        **arguments, output_dir=tmp_path / "set", num_workers=1
    )  # none of these has spoiled the folder


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
    with working_folder(data_dir):
        assert "another build is at work there" in refused(arguments, data_dir, capfd)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's rlimits")
def test_a_disk_without_room(tmp_path):
    """A limit on the size of files: what ArrayRecord and the rest see is a write that fails."""
    arguments = make_inputs(tmp_path, 12, duration_s=10) | {"clips_per_shard": 12}
    flags = command(arguments, tmp_path / "set", num_workers=1)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))"
    run = subprocess.run(
        [*flags[:1], "-c", f"{limit}\nfrom data_prep.build import main\nexit(main())", *flags[3:]],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "cannot write" in run.stderr.splitlines()[-1]
    assert "File too large" in run.stderr.splitlines()[-1]
    assert not list((tmp_path / "set").glob("*-train.array_record*"))
    assert not list((tmp_path / "set" / ".build").glob("*.tmp"))
    assert subprocess.run(flags, cwd=REPOSITORY, capture_output=True).returncode == 0
