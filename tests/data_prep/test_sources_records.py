"""Files that hold many recordings: which clips are read from them, and in which order."""

import csv
import itertools
import os
import tarfile

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from building import build_here, contents, plan_only
from packed import KINDS, MIDS, NUM_CLIPS, PackedInputs, add, reasons, records, reject_rows

from data_prep.build import build
from data_prep.listing import audio_places
from data_prep.sources import Recording, open_source, read_recording
from data_prep.sources.webdataset import TarSource
from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.resample import to_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.labels.views import SPLITS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    inputs = PackedInputs(tmp_path_factory.mktemp("inputs") / "in")
    for kind in KINDS:
        inputs.write(kind)
    return inputs


@pytest.mark.parametrize("with_segments", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_records(inputs, tmp_path, kind, with_segments):
    """Every clip has the right samples and labels; the bytes do not depend on the workers."""
    arguments = inputs.arguments(inputs.folder / f"clips.{kind}", with_segments=with_segments)
    build_here(**arguments, output_dir=tmp_path / "1")
    if with_segments:
        build(**arguments, output_dir=tmp_path / "2", num_workers=2)
        assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert reject_rows(tmp_path / "1") == []
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
    """Otherwise a shard would read a whole row group for each of its clips."""
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
    # files in another folder give the same shards
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
    other = PackedInputs(tmp_path / "other")
    for kind, ids in (("tar", other.ids[:10]), ("parquet", other.ids[5:20]), ("h5", other.ids)):
        other.write(kind, ids)
    for clip_id in other.ids[2:]:
        (other.audio / f"{clip_id}.flac").unlink()
    places = f"{other.audio},{other.folder}/*.tar,{other.folder}/clips.p*,{other.folder}/clips.h5"
    assert [os.path.basename(place) for place in audio_places(places)] == [
        "audio",
        "clips.tar",
        "clips.parquet",
        "clips.h5",
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
    # all in the folder: single recordings come first, then files by name
    # (two tars with the same keys would be ambiguous)
    (other.folder / "clips.tar").rename(other.folder / "a.tar")
    plan = plan_only(other.arguments(other.folder, with_segments=True), tmp_path / "again")
    paths = {p.decode() for s in plan.shards for p in plan.clips(s)["path"].to_pylist()}
    assert {os.path.basename(path) for path in paths} == {
        *(f"{clip_id}.flac" for clip_id in other.ids[:2]),
        "a.tar",
        "clips.parquet",
        "clips.h5",
    }


def test_missing_clips_of_panns_are_reported_and_silent_ones_stored(tmp_path, capfd):
    inputs = PackedInputs(tmp_path, 8)
    inputs.samples[inputs.ids[3]] = np.zeros(320_000, np.int16)
    rows = [*inputs.ids[:5], "", "", *inputs.ids[5:7]]
    path = inputs.write("h5", rows)
    build_here(**inputs.arguments(path, with_segments=True), output_dir=tmp_path / "a")
    assert reasons(tmp_path / "a") == {inputs.ids[7]: "no_file"}
    assert "2 places without a recording (missing clips)" in capfd.readouterr().err
    build_here(**inputs.arguments(path, with_segments=False), output_dir=tmp_path / "b")
    assert reject_rows(tmp_path / "b") == [
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
    waveform, duration_s = read_recording(
        second.recording.path, second.recording.member, PAPER_FORMAT
    )
    exact = (samples[1] * 32_768).astype(np.int16) / 32_768 if dtype == np.int16 else samples[1]
    expected, _ = to_waveform(exact.astype(np.float32), rate_hz, PAPER_FORMAT)
    np.testing.assert_array_equal(waveform, expected)
    assert duration_s == 10


def test_ids_that_begin_with_y(tmp_path):
    """If not all names in a file begin with Y, it is not a prefix."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["audio_name"] = ["Yabcdefghi1.wav", "", "Zabcdefghi1.wav"]
        file["waveform"] = np.zeros((3, 80_000), np.int16)
    entries = list(open_source(str(tmp_path / "x.h5")).entries(False))
    assert [entry.clip_id for entry in entries] == ["Yabcdefghi1", "", "Zabcdefghi1"]


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
        waveform, _ = read_recording(entry.recording.path, entry.recording.member, PAPER_FORMAT)
        np.testing.assert_array_equal(waveform, inputs.expected("tar", inputs.ids[0]))


@pytest.mark.parametrize("max_bytes", [0, 1 << 26])
def test_real_recordings_read_alike_from_a_tar(realaudio_dir, tmp_path, max_bytes):
    """Every format of the real recordings decodes from an open file as from its path."""
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
    source = TarSource(str(tmp_path / "x.tar"), max_bytes)
    entries = list(source.entries(False))
    assert len(entries) == len(chosen)
    for entry, path in zip(entries, chosen.values(), strict=True):
        assert isinstance(entry.recording, Recording)
        mono, rate_hz = source.read(entry.recording.member, PAPER_FORMAT.read_s)
        found = to_waveform(mono, rate_hz, PAPER_FORMAT)
        expected = read_waveform(str(realaudio_dir / path), PAPER_FORMAT)
        np.testing.assert_array_equal(found[0], expected[0])
        assert found[1] == expected[1]
