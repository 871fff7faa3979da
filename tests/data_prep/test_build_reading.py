"""Channels that cancel, partial recordings, whole videos, and the decoders of a data set."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from building import build_here, contents, plan_only, refused

from data_prep import plan
from data_prep.build import build
from data_prep.verify import main as verify_main
from data_prep.verify import verify
from relabel_jax.audio.decode import decoders, read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.data.data_set import open_data_set
from relabel_jax.data.layout import stored_decoders
from relabel_jax.errors import InputError

RATE_HZ = 16_000
START_S = {"opposite": 0, "plain": 0, "video": 30, "short_video": 30, "cut": 30}
FORMATS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "ogg": "OGG"}  # one is cut in each


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Recordings whose clips need a decision, and the arguments of build."""
    folder = tmp_path_factory.mktemp("inputs")
    audio = folder / "audio"
    audio.mkdir()
    noise = 0.2 * np.random.default_rng(0).standard_normal(RATE_HZ * 50)
    left = noise[: RATE_HZ * 5]
    soundfile.write(audio / "opposite.flac", np.stack([left, -left], axis=1), RATE_HZ)
    soundfile.write(audio / "plain.flac", left, RATE_HZ)
    soundfile.write(audio / "video.ogg", noise, RATE_HZ)
    soundfile.write(audio / "short_video.flac", noise[: RATE_HZ * 28], RATE_HZ)
    soundfile.write(audio / "cut.flac", noise[RATE_HZ * 30 : RATE_HZ * 40], RATE_HZ)
    for extension, name in FORMATS.items():
        path = audio / f"half_{extension}.{extension}"
        soundfile.write(path, noise[: RATE_HZ * 8], RATE_HZ, format=name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    starts_s = START_S | {f"half_{extension}": 0 for extension in FORMATS}
    (folder / "segments.csv").write_text(
        "".join(f'{name}, {s}, {s + 10}, "/m/09x0r"\n' for name, s in starts_s.items())
    )
    return {"segments": [folder / "segments.csv"], "audio": audio, "clips_per_shard": 4}


@pytest.fixture(scope="module")
def data_dir(arguments, tmp_path_factory):
    """A build with the defaults."""
    data_dir = tmp_path_factory.mktemp("data") / "set"
    build_here(data_dir, **arguments)
    return data_dir


def waveforms(data_dir) -> dict[str, np.ndarray]:
    data_set = open_data_set(data_dir)
    found = data_set.read_waveforms(np.arange(len(data_set.clip_ids)))
    return dict(zip(data_set.clip_ids.tolist(), found, strict=True))


def reject_lines(data_dir) -> dict[str, str]:
    lines = (data_dir / "rejects.csv").read_text().splitlines()[1:]
    return {line.partition(",")[0]: line for line in lines}


def test_the_index_and_the_summary_say_it(arguments, data_dir, tmp_path, capfd):
    index = pq.read_table(data_dir / "clips.parquet")
    partial = index.filter(index["partial"])["clip_id"].to_pylist()
    assert set(partial) == {f"half_{extension}" for extension in FORMATS}
    assert stored_decoders(index.schema) == decoders()
    info = json.loads((data_dir / "dataset_info.json").read_text())
    assert info["description"].endswith(f"Decoded by {decoders()}.")
    build(**arguments, output_dir=data_dir, num_workers=1)
    text = capfd.readouterr().err
    for line in (
        "warning: 1 clips are silent or nearly so, because their channels cancel: --mono=loudest",
        "warning: 4 clips are of recordings with a missing or damaged part: --partial=",
        "warning: 2 clips are the beginnings of whole videos, but their segments begin later: --t",
    ):
        assert text.count(line) == 1
    assert verify(data_dir, num_workers=1) == []


@pytest.mark.slow
def test_other_decisions_by_processes_and_by_parts(arguments, data_dir, tmp_path, capfd):
    others = arguments | {"mono": "loudest", "partial": "reject", "trim": True}
    build(**others, output_dir=tmp_path / "set", num_workers=1)
    text = capfd.readouterr().err
    assert "cut from whole videos  1\n" in text
    assert "are silent" not in text
    assert "whole videos, but" not in text
    rejected = reject_lines(tmp_path / "set")
    assert rejected.keys() == {f"half_{extension}" for extension in FORMATS} | {"short_video"}
    for extension in FORMATS:
        assert "partial,a part of it is missing or damaged (" in rejected[f"half_{extension}"]
    assert "too_short,the video ends before the clip begins at 30 s" in rejected["short_video"]

    found, before = waveforms(tmp_path / "set"), waveforms(data_dir)
    path = str(arguments["audio"] / "video.ogg")
    whole, _ = soundfile.read(path, dtype="float32")
    soundfile.write(tmp_path / "part.wav", whole[RATE_HZ * 30 : RATE_HZ * 40], RATE_HZ, "FLOAT")
    part, _ = read_waveform(str(tmp_path / "part.wav"), PAPER_FORMAT)
    np.testing.assert_array_equal(found["video"], part)
    np.testing.assert_array_equal(before["video"], read_waveform(path, PAPER_FORMAT)[0])
    assert not before["opposite"].any()
    np.testing.assert_array_equal(found["opposite"], before["plain"])
    np.testing.assert_array_equal(found["cut"], before["cut"])
    for part_number in ("2/2", "1/2"):
        build(**others, output_dir=tmp_path / "parts", num_workers=1, part=part_number)
    assert contents(tmp_path / "parts") == contents(tmp_path / "set")


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        ({"mono": "left"}, "--mono"),
        ({"partial": "reject"}, "--partial"),
        ({"trim": True}, "--trim"),
    ],
)
def test_a_build_is_finished_with_the_same_decisions(arguments, data_dir, more, flag):
    with pytest.raises(InputError, match=f"was begun with another {flag}; give the same again"):
        build(**arguments | more, output_dir=data_dir, num_workers=1)


def test_unknown_decisions(arguments, tmp_path):
    for more in ({"mono": "right"}, {"partial": "drop"}):
        with pytest.raises(InputError, match=r"expected one of (mean, loudest, left|keep, reject)"):
            build(**arguments | more, output_dir=tmp_path / "set", num_workers=1)


def without_decoders(data_dir) -> None:
    """Makes the plan one of an older version, which names no decoders and has no digest."""
    path = data_dir / ".build" / "plan.arrow"
    with pa.ipc.open_file(pa.BufferReader(path.read_bytes())) as file:
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        metadata = dict(file.schema.metadata)
    about = json.loads(metadata[b"about"])
    assert about.pop("decoders") == decoders()
    metadata[b"about"] = json.dumps(about).encode()
    with pa.ipc.new_file(str(path), batches[0].schema.with_metadata(metadata)) as file:
        for batch in batches:
            file.write_batch(batch)
    (path.parent / "sha256.json").unlink()


def test_a_build_never_mixes_decoders(arguments, tmp_path, capfd, monkeypatch):
    build_here(tmp_path / "set", **arguments)
    others = "libsndfile 1.0.0, FFmpeg 1 (PyAV 1), soxr 1"
    monkeypatch.setattr(plan, "decoders", lambda: others)  # as after an update
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)  # nothing to do
    next((tmp_path / "set").glob("*.array_record*")).unlink()
    capfd.readouterr()
    text = refused(arguments, tmp_path / "set", capfd)
    assert f"was begun with {decoders()}; here are {others}" in text
    assert "install those versions, or choose another --output_dir" in text
    assert verify_main([f"--data_dir={tmp_path / 'set'}", "--repair"]) == 1
    assert "was begun with libsndfile" in capfd.readouterr().err


def test_a_plan_of_an_older_version_is_finished(arguments, data_dir, tmp_path):
    plan_only(arguments, tmp_path / "set")
    without_decoders(tmp_path / "set")
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    index = pq.read_table(tmp_path / "set" / "clips.parquet")
    assert index.equals(pq.read_table(data_dir / "clips.parquet"))
    assert stored_decoders(index.schema) == ""
    # Outcomes and indexes of older versions say nothing of partial recordings.
    for path in (tmp_path / "set" / ".build").glob("*.json"):
        outcome = json.loads(path.read_text())
        fields = ("num_records", "num_bytes", "duration_s", "rejects")
        path.write_text(json.dumps({name: outcome[name] for name in fields}))
    pq.write_table(index.drop_columns(["partial"]), tmp_path / "set" / "clips.parquet")
    (tmp_path / "set" / "sha256.json").unlink()
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    assert verify(tmp_path / "set", num_workers=1) == []
    assert len(open_data_set(tmp_path / "set").clip_ids) == 9
