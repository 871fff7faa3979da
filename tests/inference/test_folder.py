"""The embed command: what is written, what is rejected, killed and started again, long files."""

import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.places import Search
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.embed import main
from relabel_jax.errors import InputError
from relabel_jax.inference import recordings
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.folder import embed
from relabel_jax.inference.parts import NETWORK_KEY

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).parents[2]


def write(path, duration_s, rate_hz=8_000, seed=0, subtype="PCM_16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(duration_s * rate_hz))
    soundfile.write(path, samples, rate_hz, subtype=subtype)


@pytest.fixture
def audio(tmp_path):
    """Recordings and what cannot be read, in folders."""
    folder = tmp_path / "audio"
    for i in range(20):
        write(folder / f"{i % 3}" / f"{i:02}.wav", 0.5 + 0.3 * i, seed=i)
    write(folder / "long.flac", 23, 16_000)
    (folder / "1" / "damaged.flac").write_bytes(b"fLaC" + bytes(100))
    (folder / "1" / "empty.wav").touch()
    soundfile.write(folder / "1" / "2samples.wav", [0.1, 0.2], 48_000)
    (folder / "notes.txt").write_text("no recording")
    write(folder / "2" / "nan.wav", 12, subtype="FLOAT")
    content = bytearray((folder / "2" / "nan.wav").read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    (folder / "2" / "nan.wav").write_bytes(content)
    return folder


def read_rejects(output):
    with open(f"{output}.rejects.csv", newline="") as file:
        return {os.path.basename(row["path"]): row["reason"] for row in csv.DictReader(file)}


def test_embed(small_base, audio, tmp_path, capsys):
    output = tmp_path / "out" / "e.parquet"
    arguments = [f"--checkpoint={small_base}", f"--audio={audio}", f"--output={output}"]
    assert main([*arguments, "--scores=3"]) == 0
    captured = capsys.readouterr()
    assert "23 windows of 21 recordings; 4 rejected, see" in captured.out
    assert f"relabel_jax.nearest --checkpoint={small_base} --embeddings={output}" in captured.out
    # Progress would be a line a minute.
    assert captured.err == f"{audio}: 1 file is not a recording (.txt 1)\n"
    rows = pq.read_table(output).to_pylist()
    listed = [path for path in Search().in_folder(audio) if path in {r["path"] for r in rows}]
    assert list(dict.fromkeys(row["path"] for row in rows)) == listed
    assert [row["start_s"] for row in rows if "long" in row["path"]] == [0, 10, 20]
    embedder = Embedder.load(small_base)
    network = pq.read_schema(output).metadata[NETWORK_KEY]
    assert network.decode() == embedder.fingerprint
    for row in rows:
        if "long" not in row["path"]:
            waveform, _ = read_waveform(row["path"], PAPER_FORMAT)
            expected = embedder.embed(waveform, 8_000)[0]
            np.testing.assert_allclose(row["embedding"], expected, atol=1e-5)
            scores = embedder.scores(waveform, 8_000)[0]
            best = np.argsort(-scores)[:3]
            np.testing.assert_allclose(row["scores"], scores[best], atol=1e-5)
            assert row["mids"] == [embedder.classes[i].mid for i in best]
            assert row["display_names"] == [embedder.classes[i].display_name for i in best]
    assert read_rejects(output) == {
        "damaged.flac": "unreadable",
        "empty.wav": "empty",
        "nan.wav": "not_finite",
        "2samples.wav": "empty",
    }
    assert sorted(path.name for path in output.parent.iterdir()) == [
        "e.parquet",
        "e.parquet.rejects.csv",
    ]


def test_killed_and_started_again(small_base, audio, tmp_path):
    expected, output = tmp_path / "expected.parquet", tmp_path / "e.parquet"
    embed(small_base, audio, expected, hop_s=0.05)
    program = (
        "import sys; from relabel_jax.inference.folder import embed; "
        "embed(*sys.argv[1:], hop_s=0.05, part_rows=20)"
    )
    arguments = [str(small_base), str(audio), str(output)]
    parts = tmp_path / "e.parquet.parts"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert done
    # Another command is refused, and a recording that is there meanwhile is not of this one.
    with pytest.raises(InputError, match=r"was begun with hop_s 0.05, not 1"):
        embed(small_base, audio, output, hop_s=1)
    write(audio / "later.wav", 1)
    first = min(done)
    first_row = pq.read_table(first).slice(0, 1)
    embed(small_base, audio, output, hop_s=0.05)
    found, wanted = pq.read_table(output), pq.read_table(expected)
    assert found.drop_columns("embedding") == wanted.drop_columns("embedding")
    np.testing.assert_allclose(
        np.stack(found["embedding"].to_numpy()),
        np.stack(wanted["embedding"].to_numpy()),
        atol=1e-5,
    )
    # The parts that were complete are used as they are.
    assert found.slice(0, 1)["embedding"].to_pylist() == first_row["embedding"].to_pylist()
    assert read_rejects(output) == read_rejects(expected)
    assert not parts.exists()


@pytest.mark.parametrize("moment", ["rejects", "output", "parts"])
def test_killed_at_the_end(small_base, audio, tmp_path, monkeypatch, moment):
    """Before one of the outputs has its name, and when the parts are being deleted."""
    expected, output = tmp_path / "expected.parquet", tmp_path / "e.parquet"
    summary = embed(small_base, audio, expected)
    parts = tmp_path / "e.parquet.parts"

    class Killed(BaseException):
        pass

    replace = os.replace

    def replace_or_die(source, target):
        if target == {"rejects": tmp_path / "e.parquet.rejects.csv", "output": output}.get(moment):
            raise Killed
        replace(source, target)

    def die(path):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_or_die)
        if moment == "parts":
            patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            embed(small_base, audio, output)
    assert parts.exists()
    assert output.exists() == (moment == "parts")
    if moment == "parts":
        before = output.stat().st_mtime_ns
        with pytest.raises(InputError, match=r"parts: was begun with hop_s 10.0, not 5"):
            embed(small_base, audio, output, hop_s=5)
    assert embed(small_base, audio, output) == summary
    assert pq.read_table(output).drop_columns("embedding") == (
        pq.read_table(expected).drop_columns("embedding")
    )
    assert read_rejects(output) == read_rejects(expected)
    assert not parts.exists()
    if moment == "parts":
        assert output.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="exists already"):
        embed(small_base, audio, output)


def test_what_fails_in_a_thread_is_raised(small_base, audio, tmp_path, monkeypatch):
    """With the recording's name; and if the list of recordings is gone, nothing waits for ever."""
    output = tmp_path / "e.parquet"

    def fail(path, duration_s):
        raise MemoryError

    monkeypatch.setattr(recordings, "decode_blocks", fail)
    with pytest.raises(MemoryError) as caught:
        embed(small_base, audio, output)
    assert str(audio) in caught.value.__notes__[0]
    (tmp_path / "e.parquet.parts" / "recordings").unlink()
    with pytest.raises(InputError, match="recordings: cannot read it: No such file"):
        embed(small_base, audio, output)


def test_many_recordings_without_a_window_are_no_trap(small_base, tmp_path):
    """Nothing waits for a batch that never fills."""
    folder = tmp_path / "audio"
    write(folder / "a.wav", 1)
    for i in range(500):
        (folder / f"b{i:03}.wav").touch()
    write(folder / "c.wav", 1)
    summary = embed(small_base, folder, tmp_path / "e.parquet", part_rows=100)
    assert summary == {"recordings": 502, "rejects": 500, "windows": 2}


@pytest.mark.release
def test_an_hour_takes_the_memory_of_a_minute(small_base, tmp_path):
    """Peak memory beyond what the same program takes for a minute of sound."""
    program = (
        "import resource, sys, relabel_jax.embed as e; e.main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for minutes in (1, 60):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 16_000, 2, "PCM_16") as file:
            for i in range(minutes):
                noise = np.random.default_rng(i).integers(-9_000, 9_000, (60 * 16_000, 2))
                file.write(noise.astype(np.int16))
        arguments = [f"--checkpoint={small_base}", f"--audio={path}"]
        arguments += [f"--output={tmp_path / f'{minutes}.parquet'}"]
        run = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout.split()[-1]) * 1024)
        assert f"{6 * minutes} windows of 1 recordings" in run.stdout
    assert pq.read_metadata(tmp_path / "60.parquet").num_rows == 360
    # The recording is 115 MB as float32 at 8 kHz, 460 MB at 16 kHz and stereo.
    assert peaks[1] - peaks[0] < 60e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audio=nowhere"], "error: --audio: nowhere: no such file or folder\n"),
        (["--audio=EMPTY"], "no recordings below it; expected files that end in .wav"),
        (["--hop_s=0"], "error: --hop_s=0.0: expected more than 0 and at most 10 s"),
        (["--hop_s=11"], "error: --hop_s=11.0: expected"),
        (["--num_workers=0"], "error: --num_workers=0: expected a number of at least 1\n"),
        (["--num_workers=-1"], "error: --num_workers=-1: expected a number of at least 1\n"),
        (["--scores=1000"], "error: --scores=1000: expected at most"),
        (["--checkpoint=nowhere"], "error: nowhere: does not exist"),
        ([f"--checkpoint={'n' * 300}"], "cannot read it: File name too long"),
        (["--checkpoint=/dev/null/x"], "error: /dev/null/x: does not exist"),
        ([f"--output={'n' * 300}"], "cannot read it: File name too long"),
        (["--output=EMPTY"], "exists already"),
        (["--output=/proc/no/e.parquet"], "cannot write there"),
    ],
)
def test_refused(small_base, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.wav", 1)
    given = [f"--checkpoint={small_base}", f"--audio={tmp_path / 'a.wav'}"]
    given += [f"--output={tmp_path / 'e.parquet'}"]
    arguments = [each.replace("EMPTY", str(tmp_path / "empty")) for each in arguments]
    assert main([*given, *arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1] + "\n"
    assert message in error
    assert error.startswith("error: ")
    assert not (tmp_path / "e.parquet").exists()
