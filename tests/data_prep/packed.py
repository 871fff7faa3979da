"""The same clips in every format of files that hold many recordings."""

import csv
import io
import json
import pathlib
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import tensorflow_datasets as tfds

from data_prep.build import main
from data_prep.source_labels import label_by_source
from data_prep.sources import Recording, read_recording
from relabel_jax.audio.resample import to_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.labels.ontology import Ontology

CHILDREN = {"/m/animal": ["/m/dog", "/m/cat"], "/m/dog": ["/m/bark"]}
MIDS = ["/m/animal", "/m/dog", "/m/cat", "/m/bark", "/m/music"]
NAMES = ["Animal", "Dog", "Cat", "Bark", "Music, all kinds"]
NUM_CLIPS = 40
KINDS = ["parquet", "tar", "h5"]


class PackedInputs:
    """The same clips in every format, below `folder`.

    PANNs' HDF5 holds 10 s at 32 kHz, so all recordings are at 32 kHz. HDF5 pads the shorter ones
    with zeros.
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
        # In a different order from the ontology.
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
        """Like PANNs' pack_waveforms_to_hdf5; "" is a missing clip."""
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
        return to_waveform(samples, 32_000, PAPER_FORMAT)[0]

    def arguments(self, audio, *, with_segments: bool) -> dict:
        labels = {"segments": [self.segments]} if with_segments else {}
        labels |= {} if with_segments else {"class_indices": self.class_indices}
        return labels | {"ontology": self.ontology, "audio": audio, "clips_per_shard": 6}


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def listed(inputs: PackedInputs, audio, **options) -> dict[str, tuple[set[str], np.ndarray]]:
    """The mids and the waveform of each clip that can be used, by id, without a build."""
    ontology = Ontology.from_json(inputs.ontology)
    segments, recordings = label_by_source(str(audio), ontology, inputs.class_mids, 10, **options)
    return {
        clip_id: (
            {MIDS[n] for n in labels},
            read_recording(recording.path, recording.member, PAPER_FORMAT)[0],
        )
        for clip_id, labels, recording in zip(
            segments.clip_ids.to_pylist(), segments.labels.to_pylist(), recordings, strict=True
        )
        if isinstance(recording, Recording)
    }


def check(inputs: PackedInputs, found: dict[str, tuple[set[str], np.ndarray]]) -> None:
    """Each clip that `listed` found is one of the inputs, with its labels and its samples."""
    for clip_id, (labels, waveform) in found.items():
        assert labels == set(inputs.labels[clip_id]), clip_id
        np.testing.assert_array_equal(waveform, inputs.expected("tar", clip_id))


def records(data_dir: pathlib.Path) -> dict[str, dict]:
    builder = tfds.builder_from_directory(data_dir)
    return {
        record["clip_id"].decode(): record | {"split": split}
        for split in builder.info.splits
        for record in builder.as_data_source(split)
    }


def reject_rows(data_dir: pathlib.Path) -> list[dict[str, str]]:
    with open(data_dir / "rejects.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reasons(data_dir: pathlib.Path) -> dict[str, str]:
    return {row["clip_id"]: row["reason"] for row in reject_rows(data_dir)}


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
