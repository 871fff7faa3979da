"""Names and paths inside files are never opened."""

import os
import pathlib
import tarfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from building import build_here
from packed import PackedInputs, add, reasons, records, refused


def everything(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_names_in_a_tar_are_never_paths(tmp_path):
    inputs = PackedInputs(tmp_path / "in", 1)
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
    inputs = PackedInputs(tmp_path / "in", 2)
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
    inputs = PackedInputs(tmp_path, 3)
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
    inputs = PackedInputs(tmp_path, 2)
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
