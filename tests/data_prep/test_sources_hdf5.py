"""HDF5 files in the layouts of PANNs, PaSST and CED: rates, scales, packed bits."""

import io

import h5py
import numpy as np
import pytest
import soundfile
from packed import PackedInputs, check, listed, refused

from data_prep.sources import SourceOptions, open_source, read_recording
from relabel_jax.audio.decode import decode
from relabel_jax.audio.resample import to_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.errors import InputError, Rejected


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return PackedInputs(tmp_path_factory.mktemp("inputs") / "in", 6)


def mp3(samples: np.ndarray) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, samples, 32_000, format="MP3")
    return content.getvalue()


def write_mp3s(path, names, contents, targets) -> None:
    """Like PaSST's create_h5pymp3_dataset.py."""
    packed = np.packbits(targets, axis=-1)
    with h5py.File(path, "w") as file:
        file.create_dataset("audio_name", shape=(len(names),), dtype="S20")
        file.create_dataset("mp3", shape=(len(names),), dtype=h5py.vlen_dtype(np.dtype("uint8")))
        file.create_dataset("target", shape=packed.shape, dtype=packed.dtype)
        for row, name in enumerate(names):
            file["audio_name"][row] = name
            file["mp3"][row] = np.frombuffer(contents[row], np.uint8)
            file["target"][row] = packed[row]


@pytest.mark.parametrize("prefix", ["Y", "07/Y"])
def test_packed_mp3s(inputs, tmp_path, prefix):
    """The balanced set has names without a folder, the unbalanced one with a folder."""
    contents = [mp3(inputs.samples[clip_id]) for clip_id in inputs.ids]
    targets = [[m in inputs.labels[c] for m in inputs.class_mids] for c in inputs.ids]
    names = [f"{prefix}{clip_id}.mp3" for clip_id in inputs.ids]
    write_mp3s(tmp_path / "balanced_train_segments_mp3.hdf", names, contents, np.array(targets))
    found = listed(inputs, tmp_path)
    assert list(found) == inputs.ids
    for clip_id, content in zip(inputs.ids, contents, strict=True):
        labels, waveform = found[clip_id]
        assert labels == set(inputs.labels[clip_id])
        expected, _ = to_waveform(*decode(io.BytesIO(content)), PAPER_FORMAT)
        np.testing.assert_array_equal(waveform, expected)
    entries = open_source(str(tmp_path / "balanced_train_segments_mp3.hdf")).entries(False)
    assert [entry.name for entry in entries] == [f"Y{clip_id}" for clip_id in inputs.ids]


def test_packed_bits_of_527_classes(tmp_path):
    """They are 66 bytes, and the last bit is no class. Targets may be unpacked, too."""
    targets = np.zeros((2, 527), bool)
    targets[0, [0, 526]] = targets[1, [137, 138]] = True
    path = tmp_path / "x.hdf"
    write_mp3s(path, ["Ya.mp3", "Yb.mp3"], [b"x", b"y"], targets)
    with h5py.File(path, "r+") as file:
        assert file["target"].shape == (2, 66)
    entries = list(open_source(str(path)).entries(True))
    write_mp3s(tmp_path / "y.hdf", ["Ya.mp3", "Yb.mp3"], [b"x", b"y"], targets)
    with h5py.File(tmp_path / "y.hdf", "r+") as file:
        del file["target"]
        file["target"] = targets.astype(np.uint8)
    entries += open_source(str(tmp_path / "y.hdf")).entries(True)
    found = [np.flatnonzero(entry.labels).tolist() for entry in entries]
    assert found == [[0, 526], [137, 138]] * 2
    assert {entry.num_classes for entry in entries} == {527}


def write_waveforms(path, waveforms, **attributes) -> None:
    with h5py.File(path, "w") as file:
        file["audio_name"] = [f"Yclip{n}.wav" for n in range(len(waveforms))]
        file["waveform"] = waveforms
        file.attrs.update(attributes)


@pytest.mark.parametrize(
    ("num_samples", "duration_s", "rate_hz"),
    [(320_000, 10, 32_000), (110_250, 10, 11_025), (320_000, 1, 32_000), (441_000, 5, 44_100)],
)
def test_rows_without_a_rate_that_are_plain(tmp_path, capfd, num_samples, duration_s, rate_hz):
    path = tmp_path / "x.h5"
    write_waveforms(path, np.ones((2, num_samples), np.int16))
    entries = list(open_source(str(path), SourceOptions(None, duration_s)).entries(False))
    _, found_hz = open_source(str(path)).read(entries[1].recording.member)
    assert found_hz == rate_hz
    assert f"are taken as 10 s at {rate_hz:,} Hz" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("num_samples", "duration_s"),
    [
        (960_000, 10),  # 30 s at 32 kHz, as GTZAN is packed
        (160_000, 5),  # 10 s at 16 kHz, or 5 s at 32 kHz
        (320_000, 20),
        (80_001, 10),
        (50_000, 10),
    ],
)
def test_rows_of_an_unknown_rate_are_refused(tmp_path, num_samples, duration_s):
    path = tmp_path / "x.h5"
    write_waveforms(path, np.ones((2, num_samples), np.int16))
    source = open_source(str(path), SourceOptions(None, duration_s))
    with pytest.raises(InputError, match=r"has no sample_rate.*--source_rate_hz=32000"):
        list(source.entries(False))
    (first, _) = open_source(str(path), SourceOptions(22_050, duration_s)).entries(False)
    assert open_source(str(path)).read(first.recording.member, 1)[1] == 22_050
    path = tmp_path / "with_rate.h5"
    write_waveforms(path, np.ones((2, num_samples), np.int16), sample_rate=np.int32(16_000))
    (first, _) = open_source(str(path), SourceOptions(22_050, duration_s)).entries(False)
    assert open_source(str(path)).read(first.recording.member, 1)[1] == 16_000


def test_the_flag_for_an_unknown_rate(inputs, tmp_path, capfd):
    path = tmp_path / "x.h5"
    write_waveforms(path, np.ones((2, 96_000), np.int16))
    arguments = inputs.arguments(path, with_segments=True)
    assert "--source_rate_hz=32000" in refused(arguments, tmp_path / "set", capfd)
    error = refused(arguments | {"source_rate_hz": 7}, tmp_path / "set", capfd)
    assert "--source_rate_hz=7: expected at least 1000 Hz" in error


@pytest.mark.parametrize("name", ["sample_rate", "sampling_rate", "sr"])
@pytest.mark.parametrize("place", ["file", "waveform", "dataset"])
def test_places_of_the_rate(tmp_path, name, place):
    """30 s at 16 kHz would also be 10 s at a usual rate."""
    path = tmp_path / "x.h5"
    write_waveforms(path, np.ones((2, 480_000), np.int16))
    with h5py.File(path, "r+") as file:
        if place == "dataset":
            file[name] = 16_000
        else:
            (file if place == "file" else file["waveform"]).attrs[name] = 16_000
    (first, _) = open_source(str(path)).entries(False)
    assert open_source(str(path)).read(first.recording.member)[1] == 16_000


@pytest.mark.parametrize("rate", [0, -8_000, np.nan, "fast", [8_000, 16_000]])
def test_a_rate_that_is_none(tmp_path, rate):
    write_waveforms(tmp_path / "x.h5", np.ones((2, 80_000), np.int16), sample_rate=rate)
    with pytest.raises(InputError, match="expected a number of Hz"):
        open_source(str(tmp_path / "x.h5"))


def test_floats_of_the_scale_of_int16(tmp_path):
    """One loud row is a bad clip; if most are, the file is refused, quiet rows included."""
    waveforms = np.full((9, 80_000), 0.5, np.float32)
    waveforms[4] = 9_000
    path = tmp_path / "x.h5"
    write_waveforms(path, waveforms)
    source = open_source(str(path))
    entries = list(source.entries(False))
    assert source.read(entries[3].recording.member)[0].max() == 0.5
    with pytest.raises(Rejected, match="its largest sample is 9000") as raised:
        source.read(entries[4].recording.member)
    assert raised.value.reason == "scale"
    waveforms[:6] = 9_000
    path = tmp_path / "loud.h5"
    write_waveforms(path, waveforms)
    with pytest.raises(InputError, match="floats of int16's scale"):
        list(open_source(str(path)).entries(False))


def test_the_waveforms_of_ced(inputs, tmp_path):
    """Like CED's wavlist_to_hdf5.py: a dataset for each recording. The TSV has the labels."""
    path = tmp_path / "hdf5" / "balanced_0.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        for clip_id in inputs.ids:
            file[f"{clip_id}.wav"] = inputs.samples[clip_id]
    with pytest.raises(InputError, match="has no sample_rate; say it with --source_rate_hz"):
        list(open_source(str(path)).entries(False))
    entries = list(open_source(str(path), SourceOptions(32_000)).entries(True))
    assert sorted(entry.clip_id for entry in entries) == sorted(inputs.ids)
    for entry in entries:
        assert not len(entry.labels)
        recording = entry.recording
        waveform, _ = read_recording(recording.path, recording.member, PAPER_FORMAT)
        np.testing.assert_array_equal(waveform, inputs.expected("tar", entry.clip_id))
    table = tmp_path / "labels" / "balanced.tsv"
    table.parent.mkdir()
    numbers = {c: [inputs.class_mids.index(mid) for mid in inputs.labels[c]] for c in inputs.ids}
    table.write_text(
        "filename\tlabels\thdf5path\n"
        + "".join(
            f"/data/wav/{c}.wav\t{';'.join(map(str, each))}\thdf5/balanced_0.h5\n"
            for c, each in numbers.items()
        )
    )
    found = listed(inputs, path, options=SourceOptions(32_000))
    assert set(found) == set(inputs.ids)
    check(inputs, found)
    table.write_text("a\tb\n1\t2\n")
    with pytest.raises(InputError, match=r"balanced.tsv: no column filename and labels; expected"):
        list(open_source(str(path), SourceOptions(32_000)).entries(True))
