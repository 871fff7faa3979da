"""The list of recordings that an embedding begins with, and files that change after it."""

import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from relabel_jax.audio.places import path_of_text
from relabel_jax.errors import InputError
from relabel_jax.inference import recordings
from relabel_jax.inference.folder import embed
from relabel_jax.inference.output import Output
from relabel_jax.inference.parts import PartWriter, assemble
from relabel_jax.inference.recording_list import RecordingList


def write(path, duration_s=1.0, level=0.25):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(8_000 * duration_s), level), 8_000)


@pytest.fixture
def audio(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav", "d.wav"):
        write(tmp_path / "audio" / name)
    return tmp_path / "audio"


def test_the_list_is_that_of_the_start(audio, tmp_path, capsys):
    (audio / "broken.wav").symlink_to(tmp_path / "nowhere")
    begun = RecordingList(tmp_path / "parts")
    assert begun.begin({"hop_s": 1}, str(audio)) == 5
    names = ["a.wav", "b.wav", "broken.wav", "c.wav", "d.wav"]
    assert [os.path.basename(each.path) for _, each in begun.read()] == names
    assert [number for number, _ in begun.read(3)] == [3, 4]
    assert begun.changed(str(audio)) == set()
    assert capsys.readouterr().err == ""

    write(audio / "new.wav")
    write(audio / "sub" / "new.wav")
    (audio / "a.wav").unlink()
    write(audio / "c.wav", 2)
    write(tmp_path / "nowhere.wav")
    os.replace(tmp_path / "nowhere.wav", tmp_path / "nowhere")
    changed = begun.changed(str(audio))
    assert changed == {str(audio / "c.wav"), str(audio / "broken.wav")}
    (line,) = capsys.readouterr().err.splitlines()
    assert f"2 new (the first {audio}/new.wav), 1 gone ({audio}/a.wav), 2 changed (the f" in line
    assert line.endswith(f"delete {tmp_path}/parts to begin again")
    assert begun.begin({"hop_s": 1}, str(audio)) == 5
    assert [os.path.basename(each.path) for _, each in begun.read()] == names


def test_same_size_and_later_time_is_a_change(audio, tmp_path):
    begun = RecordingList(tmp_path / "parts")
    begun.begin({}, str(audio))
    os.utime(audio / "b.wav", ns=(0, os.stat(audio / "b.wav").st_mtime_ns + 1))
    assert begun.changed(str(audio)) == {str(audio / "b.wav")}


def test_what_is_refused(audio, tmp_path):
    begun = RecordingList(tmp_path / "parts")
    begun.begin({"hop_s": 1}, str(audio))
    with pytest.raises(InputError, match="was begun with hop_s 1, not 2"):
        begun.begin({"hop_s": 2}, str(audio))
    plan = tmp_path / "parts" / "plan.json"
    plan.write_text('{"hop_s": 1, "num_recordings": 4}')
    with pytest.raises(InputError, match="was begun by an older version; delete"):
        begun.begin({"hop_s": 1}, str(audio))
    shutil.rmtree(audio)
    with pytest.raises(InputError, match="audio: no such file or folder"):
        begun.changed(str(audio))


def test_rows_of_a_recording_that_changed_are_left_out(audio, tmp_path):
    """It was replaced after it was in a complete part."""
    begun = RecordingList(tmp_path / "parts")
    begun.begin({}, str(audio))
    writer = PartWriter(
        tmp_path / "parts",
        begun.read(),
        0,
        part_rows=3,
        embedding_size=2,
        classes=(),
        num_scores=0,
    )
    for number in range(4):
        for start_s in (0.0, 10.0):
            writer.add(number, start_s, np.full(2, number, np.float32), np.zeros(0, np.float32))
        writer.end(number, None)
    assert writer.write_complete([]) == 4
    writer.close()
    write(audio / "b.wav", 2)
    output = tmp_path / "e.parquet"
    assemble(tmp_path / "parts", output, 4, "network", begun.changed(str(audio)))
    paths = pq.read_table(output)["path"].to_pylist()
    assert [os.path.basename(path) for path in paths] == [f"{each}.wav" for each in "aaccdd"]
    lines = (tmp_path / "e.parquet.rejects.csv").read_text().splitlines()
    assert lines[1:] == [f"{audio}/b.wav,changed,the file was replaced after it was embedded"]
    done = Output.open(output, "network", 0)
    assert (done.num_rows, done.rejected) == (6, [f"{audio}/b.wav"])


@pytest.mark.slow
def test_a_recording_that_changes_is_rejected(small_base, audio, tmp_path, monkeypatch):
    """Before its turn, or while it is decoded."""
    output = tmp_path / "e.parquet"
    read_samples = recordings.read_samples

    class Killed(Exception):
        pass

    def killed_at_the_third(path, waveform_format):
        if path.endswith("c.wav"):
            raise Killed
        return read_samples(path, waveform_format)

    with monkeypatch.context() as patch:
        patch.setattr(recordings, "read_samples", killed_at_the_third)
        with pytest.raises(Killed):
            embed(small_base, f"{audio}/*.wav", output, num_workers=1, part_rows=1)

    def replaced_while_it_is_read(path, waveform_format):
        if path.endswith("d.wav"):
            write(audio / "d.wav", 1, 0.125)
        return read_samples(path, waveform_format)

    monkeypatch.setattr(recordings, "read_samples", replaced_while_it_is_read)
    write(audio / "a.wav", 12)
    write(audio / "new.wav", 1)
    summary = embed(small_base, f"{audio}/*.wav", output, num_workers=1, part_rows=1)
    assert summary == {"recordings": 4, "rejects": 2, "windows": 2}
    paths = pq.read_table(output)["path"].to_pylist()
    assert [os.path.basename(path) for path in paths] == ["b.wav", "c.wav"]
    rejects = (tmp_path / "e.parquet.rejects.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1] for line in rejects] == ["changed", "changed"]


@pytest.mark.slow
def test_names_that_are_not_utf8_do_not_coincide(small_base, tmp_path):
    folder = tmp_path / "audio"
    names = [b"x\xff.wav", b"x\xfe.wav", rb"x\xff.wav", "x\ufffd.wav".encode()]
    write(folder / "sound.wav")
    content = (folder / "sound.wav").read_bytes()
    (folder / "sound.wav").unlink()
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(content)
    embed(small_base, folder, tmp_path / "e.parquet")
    paths = pq.read_table(tmp_path / "e.parquet")["path"].to_pylist()
    assert len(set(paths)) == 4
    assert {os.fsencode(os.path.basename(path_of_text(path))) for path in paths} == set(names)
