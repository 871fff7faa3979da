"""Data sets whose sample rate and length differ from the paper's, or are not recorded."""

import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.signal
import soundfile
import tensorflow_datasets as tfds
from building import command, contents, make_inputs, plan_only, refused, rejects

from data_prep.build import build, main
from data_prep.plan import Plan
from data_prep.verify import main as verify_main
from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat
from relabel_jax.data.data_set import check_format, open_data_set
from relabel_jax.errors import InputError

pytestmark = pytest.mark.slow

FORMAT = WaveformFormat(16_000, 3.0)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Recordings of 2 s and of 4 s, of noise that ends at 3 kHz."""
    arguments = make_inputs(tmp_path_factory.mktemp("inputs"), 16)
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(arguments["audio"].iterdir())):
        rate_hz = soundfile.info(path).samplerate
        noise = 0.1 * rng.standard_normal(rate_hz * (2 if number % 2 else 4))
        low_pass = scipy.signal.firwin(1_001, 3_000, fs=rate_hz)
        soundfile.write(path, scipy.signal.fftconvolve(noise, low_pass, mode="same"), rate_hz)
    return arguments | {"sample_rate_hz": 16_000, "duration_s": 3}


@pytest.fixture(scope="module")
def data_dir(arguments, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data") / "set"
    assert main(command(arguments, data_dir, num_workers=1)[3:]) == 0
    return data_dir


def independently(path: pathlib.Path) -> np.ndarray:
    """float64[48_000]: 3 s at 16 kHz by scipy's polyphase resampler."""
    samples, rate_hz = soundfile.read(path)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)
    factor = np.gcd(16_000, rate_hz)
    up, down = 16_000 // factor, rate_hz // factor
    if rate_hz != 16_000:
        width = max(up, down)
        low_pass = scipy.signal.firwin(2 * 96 * width + 1, 1 / width, window=("kaiser", 10))
        samples = scipy.signal.resample_poly(samples, up, down, window=low_pass)
    samples = samples[:48_000]
    return np.pad(samples, (0, 48_000 - len(samples)))


def test_16_khz_and_3_s(arguments, data_dir, capfd):
    assert rejects(data_dir) == {}
    assert verify_main([f"--data_dir={data_dir}", "--num_workers=1"]) == 0
    data_set = open_data_set(data_dir)
    assert data_set.waveform_format == FORMAT
    waveforms = data_set.read_waveforms(np.arange(16))
    assert waveforms.dtype == np.int16
    assert waveforms.shape == (16, 48_000)
    files = list(arguments["audio"].iterdir())
    for clip_id, waveform in zip(data_set.clip_ids, waveforms, strict=True):
        (path,) = (path for path in files if clip_id in path.name)
        expected = independently(path)
        difference = waveform / 32_768 - expected
        # A recording of 4 s is cut in the middle of its sound, one of 2 s ends in silence.
        assert np.std(difference) < np.std(expected) / 1_000
        assert waveform[32_200:].any() == (soundfile.info(path).duration == 4)


def test_tfds_knows_the_format(data_dir):
    builder = tfds.builder_from_directory(data_dir)
    assert builder.info.features["waveform"].shape == (48_000,)
    assert "waveforms of 3 s at 16000 Hz" in builder.info.description
    record = next(iter(builder.as_data_source("train")))
    assert record["waveform"].shape == (48_000,)


def test_the_format_is_an_input_of_the_plan(arguments, data_dir, tmp_path, capfd):
    assert Plan.open(data_dir).waveform_format == FORMAT
    for flag, value in (("sample_rate_hz", 8_000), ("duration_s", 3.5)):
        error = refused(arguments, data_dir, capfd, **{flag: value})
        assert f"was begun with another --{flag};" in error
    build(**arguments, output_dir=tmp_path / "again", num_workers=1)
    assert contents(tmp_path / "again") == contents(data_dir)


def test_a_format_makes_another_fingerprint(arguments, data_dir, tmp_path):
    build(**arguments | {"duration_s": 2.5}, output_dir=tmp_path / "set", num_workers=1)
    fingerprints = {open_data_set(each).fingerprint for each in (data_dir, tmp_path / "set")}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sample_rate_hz": 999}, "--sample_rate_hz=999: expected at least 1000 Hz"),
        ({"duration_s": 0}, "--duration_s=0: expected seconds, more than 0"),
        ({"duration_s": -1}, "--duration_s=-1: expected seconds, more than 0"),
        ({"duration_s": 1e-5}, "--duration_s=1e-05: expected seconds, more than 0"),
        ({"duration_s": "nan"}, "--duration_s=nan: expected seconds, more than 0"),
        ({"duration_s": "inf"}, "at most 33554 at 16000 Hz"),
        ({"duration_s": 1e6}, "at most 33554 at 16000 Hz"),
    ],
)
def test_formats_that_are_refused(arguments, tmp_path, capfd, flags, message):
    assert message in refused(arguments, tmp_path / "set", capfd, **flags)
    assert not (tmp_path / "set").exists()


def without_format(data_dir: pathlib.Path) -> None:
    """An index in the form of version 0.1, without the format."""
    index = pq.read_table(data_dir / "clips.parquet")
    pq.write_table(index.replace_schema_metadata(None), data_dir / "clips.parquet")
    (data_dir / "sha256.json").unlink()  # such versions did not write it


def test_a_data_set_that_does_not_say_its_format_has_the_papers(tmp_path):
    arguments = make_inputs(tmp_path, 8)
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    before = open_data_set(tmp_path / "set")
    assert before.waveform_format == PAPER_FORMAT
    without_format(tmp_path / "set")
    data_set = open_data_set(tmp_path / "set")
    assert data_set.waveform_format == PAPER_FORMAT
    assert data_set.fingerprint == before.fingerprint
    assert data_set.read_waveforms(np.arange(8)).shape == (8, 80_000)
    assert verify_main([f"--data_dir={tmp_path / 'set'}", "--num_workers=1"]) == 0


def test_a_plan_that_does_not_say_its_format_is_finished_by_the_same_command(tmp_path, capfd):
    arguments = make_inputs(tmp_path, 8)
    build(**arguments, output_dir=tmp_path / "set", num_workers=1)
    expected = contents(tmp_path / "set")
    plan = plan_only(arguments, tmp_path / "old")
    path = tmp_path / "old" / ".build" / "plan.arrow"
    with pa.ipc.open_file(pa.BufferReader(path.read_bytes())) as file:
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        metadata = dict(file.schema.metadata)
    assert plan.inputs["--sample_rate_hz"] == "8000"
    for text in (b', "--sample_rate_hz": "8000"', b', "--duration_s": "10.0"'):
        assert metadata[b"about"].count(text) == 1
        metadata[b"about"] = metadata[b"about"].replace(text, b"")
    with pa.ipc.new_file(str(path), batches[0].schema.with_metadata(metadata)) as file:
        for batch in batches:
            file.write_batch(batch)
    path.with_name("sha256.json").unlink()
    capfd.readouterr()
    assert "another --duration_s;" in refused(arguments, tmp_path / "old", capfd, duration_s=5)
    build(**arguments, output_dir=tmp_path / "old", num_workers=1)
    assert contents(tmp_path / "old") == expected


@pytest.mark.parametrize(
    "text", ["", "[]", '{"sample_rate_hz": 8000}', '{"sample_rate_hz": 1, "duration_s": Infinity}']
)
def test_a_damaged_format(data_dir, tmp_path, text):
    index = pq.read_table(data_dir / "clips.parquet")
    copy = shutil.copytree(data_dir, tmp_path / "set")
    (copy / "sha256.json").unlink()  # or the index would not be read
    metadata = {"relabel_jax.waveform_format": text}
    pq.write_table(index.replace_schema_metadata(metadata), copy / "clips.parquet")
    with pytest.raises(InputError, match=r"cannot read the clip index \(its metadata relabel_jax"):
        open_data_set(copy)
    assert verify_main([f"--data_dir={copy}", "--num_workers=1"]) == 1


def test_an_index_that_says_another_format_than_the_records(data_dir, tmp_path, capfd):
    copy = shutil.copytree(data_dir, tmp_path / "set")
    without_format(copy)
    with pytest.raises(InputError, match="cannot read a record"):
        open_data_set(copy).read_waveforms(np.arange(1))
    capfd.readouterr()
    assert verify_main([f"--data_dir={copy}", "--num_workers=1"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("features.json: is not the schema of records over the 8 classes")
    assert lines[0].endswith("with waveforms of 10 s at 8000 Hz")


def test_another_format_than_a_network_takes(data_dir):
    data_set = open_data_set(data_dir)
    check_format(data_set, FORMAT, "the network logmel_cnn")
    with pytest.raises(InputError) as caught:
        check_format(data_set, PAPER_FORMAT, "the network waveform_cnn")
    assert str(caught.value) == (
        f"{data_dir}: has waveforms of 3 s at 16000 Hz, but the network waveform_cnn takes 10 s at "
        "8000 Hz; build a data set with data_prep.build --sample_rate_hz=8000 --duration_s=10"
    )
