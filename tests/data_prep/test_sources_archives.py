"""Tars and zip archives as their publishers lay them out: keys, ids, labels, joined archives."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from packed import MIDS, NAMES, PackedInputs, add, check, listed

from data_prep.source_labels import label_by_source
from data_prep.sources import Recording, open_source
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.ontology import Ontology


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return PackedInputs(tmp_path_factory.mktemp("inputs") / "in", 8)


def write(path, members) -> None:
    """A tar or a zip, by its extension, of (name, content)."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)


def names_of(inputs, clip_id) -> list[str]:
    return [NAMES[MIDS.index(mid)] for mid in inputs.labels[clip_id]]


def sample(inputs, key, clip_id, content=None):
    """A recording and the JSON beside it."""
    content = inputs.labels[clip_id] if content is None else content
    return [(f"{key}.flac", inputs.flac(clip_id)), (f"{key}.json", json.dumps(content).encode())]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_running_keys_with_ids_in_the_json(inputs, tmp_path, kind):
    """As in `confit/audioset-16khz-wds`: each shard has the keys 000000, 000001 and so on."""
    for shard in range(2):
        members = []
        for n, clip_id in enumerate(inputs.ids[shard::2]):
            content = {
                "id": clip_id,
                "label": names_of(inputs, clip_id),
                "label_id": [inputs.class_mids.index(mid) for mid in inputs.labels[clip_id]],
            }
            members += sample(inputs, f"{n:06d}", clip_id, content)
        write(tmp_path / f"shard-{shard:05d}.{kind}", members)
    found = listed(inputs, tmp_path)
    assert sorted(found) == sorted(inputs.ids)
    check(inputs, found)
    for path in tmp_path.iterdir():  # the ids are found without the labels too
        assert {each.name for each in open_source(str(path)).entries(False)} < set(inputs.ids)


def test_the_labels_of_laion(inputs, tmp_path):
    """LAION's script writes the mids, and beside them names with descriptions."""
    members = []
    for n, clip_id in enumerate(inputs.ids):
        names = names_of(inputs, clip_id)
        forms = [
            {"class_labels": inputs.labels[clip_id], "class_names": [[x, "what"] for x in names]},
            {"class_names": [[name, "what it is"] for name in names]},
            {"class_label": dict.fromkeys(names, 1) | {NAMES[0]: int(NAMES[0] in names)}},
        ]
        content = {"text": "The sounds of", "tag": ["x"], "original_data": forms[n % 3]}
        members += sample(inputs, clip_id, clip_id, content)
    write(tmp_path / "0.tar", members)
    found = listed(inputs, tmp_path)
    assert list(found) == inputs.ids
    check(inputs, found)


def test_keys_that_recur_are_different_clips(inputs, tmp_path, capfd):
    """Without an id, by their folder, or else by their file; a YouTube id names one clip."""
    ids = inputs.ids
    youtube = "-aBcDeFgHi1"
    shards = {
        "a": [("0001", ids[0]), ("d0/0002", ids[1]), ("d1/0002", ids[2]), (youtube, ids[6])],
        "b": [("0001", ids[3]), ("d0/0003", ids[4]), (youtube, ids[7])],
    }
    for name, samples in shards.items():
        write(tmp_path / f"{name}.tar", [m for each in samples for m in sample(inputs, *each)])
    found = listed(inputs, tmp_path)
    expected = {
        "a/0001": ids[0],
        "d0/0002": ids[1],
        "d1/0002": ids[2],
        "b/0001": ids[3],
        "0003": ids[4],
        youtube: ids[6],
    }
    assert found.keys() == expected.keys()
    check(inputs, {clip_id: found[name] for name, clip_id in expected.items()})
    lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert len(lines) == 2
    assert "1 recordings have the id of an earlier one" in lines[0]
    assert "4 recordings have a key that another has too" in lines[1]
    entries = open_source(str(tmp_path / "a.tar")).entries(False)
    assert [entry.name for entry in entries] == ["0001", "d0/0002", "d1/0002", youtube]


def test_a_key_that_recurs_in_one_archive_is_ambiguous(inputs, tmp_path):
    """As in archives of a shard with itself."""
    first, second = (sample(inputs, "0001", clip_id) for clip_id in inputs.ids[:2])
    write(tmp_path / "a.tar", [*first, *sample(inputs, "0002", inputs.ids[3]), *second])
    ontology = Ontology.from_json(inputs.ontology)
    segments, recordings = label_by_source(tmp_path, ontology, inputs.class_mids, 10)
    assert segments.clip_ids.to_pylist() == ["a/0001", "0002", "a/0001"]
    assert [isinstance(each, Recording) for each in recordings] == [False, True, False]
    assert recordings[0].reason == "ambiguous"
    assert recordings[0].detail.count("a.tar:") == 2
    assert segments.labels.to_pylist()[0] == []


def test_a_key_that_recurs_with_another_extension(inputs, tmp_path):
    (_, flac), labels = sample(inputs, "0001", inputs.ids[1])
    other = sample(inputs, "0002", inputs.ids[2])
    members = [*sample(inputs, "0001", inputs.ids[0]), *other, ("0001.wav", flac), labels]
    write(tmp_path / "a.tar", members)
    entries = list(open_source(str(tmp_path / "a.tar")).entries(True))
    assert [entry.clip_id for entry in entries] == ["0001", "0002", "0001"]
    assert [entry.labels for entry in entries] == [inputs.labels[inputs.ids[n]] for n in (0, 2, 1)]


@pytest.mark.parametrize("order", [["labels", "audio"], ["audio", "labels"]])
def test_several_extensions_of_a_key(inputs, tmp_path, order):
    members = []
    for clip_id in inputs.ids[:4]:
        pair = sample(inputs, clip_id, clip_id)
        by_field = {
            "audio": (f"d/{clip_id}.audio.FLAC", pair[0][1]),
            "labels": (f"d/{clip_id}.labels.json", pair[1][1]),
        }
        members += [by_field[field] for field in order]
        members += [(f"d/._{clip_id}.flac", b"of macOS"), (f"d/{clip_id}.txt", b"a caption")]
    members += sample(inputs, "a.version.2", inputs.ids[4])
    write(tmp_path / "x.tar", members)
    found = listed(inputs, tmp_path)
    assert list(found) == [*inputs.ids[:4], "a.version.2"]
    check(inputs, {clip_id: found[clip_id] for clip_id in inputs.ids[:4]})


@pytest.mark.parametrize("num_zeros", [0, 512, 20_480, (1 << 20) + 1024])
def test_joined_tars(inputs, tmp_path, num_zeros):
    """All of them are read; zeros between them and after them are no recordings."""
    parts = []
    for part in range(3):
        members = [m for c in inputs.ids[part::3] for m in sample(inputs, c, c)]
        write(tmp_path / "part.tar", members)
        parts.append((tmp_path / "part.tar").read_bytes() + bytes(num_zeros))
    (tmp_path / "part.tar").unlink()
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    found = listed(inputs, tmp_path)
    assert sorted(found) == sorted(inputs.ids)
    check(inputs, found)


def test_what_follows_a_tar_and_is_none(inputs, tmp_path):
    members = [m for c in inputs.ids for m in sample(inputs, c, c)]
    write(tmp_path / "x.tar", members)
    with open(tmp_path / "x.tar", "ab") as file:
        file.write(b"garbage" * 999)
    entries = open_source(str(tmp_path / "x.tar")).entries(True)
    assert [next(entries).name for _ in inputs.ids] == inputs.ids
    with pytest.raises(Rejected, match="damaged after 8 recordings"):
        next(entries)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_archives_inside_are_named(inputs, tmp_path, capfd, kind):
    members = [("more/a.tar", b"x"), ("b.tar.gz", b"x"), *sample(inputs, "c", inputs.ids[0])]
    write(tmp_path / f"x.{kind}", members)
    assert list(listed(inputs, tmp_path)) == ["c"]
    assert "holds 2 archives (more/a.tar), which cannot be read" in capfd.readouterr().err


def test_a_compressed_tar_says_so(inputs, tmp_path, capfd):
    for mode, name in (("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")):
        with tarfile.open(tmp_path / "x.tar", f"w:{mode}") as tar:
            add(tar, "a.flac", inputs.flac(inputs.ids[0]))
        with pytest.raises(InputError, match=f"compressed with {name}: decompress it"):
            listed(inputs, tmp_path / "x.tar")


def test_zip_archives_read_like_folders(inputs, tmp_path):
    """Stored and deflated; as the mirrors have them, without labels."""
    for n, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)):
        with zipfile.ZipFile(tmp_path / f"{n}.zip", "w", method) as archive:
            archive.mkdir("train_wav") if hasattr(archive, "mkdir") else None
            for clip_id in inputs.ids[n::3]:
                archive.writestr(f"train_wav/{clip_id}.flac", inputs.flac(clip_id))
        source = open_source(str(tmp_path / f"{n}.zip"))
        entries = list(source.entries(False))
        assert [entry.name for entry in entries] == inputs.ids[n::3]
        for entry in entries:
            mono, rate_hz = source.read(entry.recording.member)
            assert rate_hz == 32_000
            np.testing.assert_array_equal(np.rint(mono * 32_768), inputs.samples[entry.name])
        with pytest.raises(Rejected, match="another member lies there"):
            source.read("7:other.flac")


def test_zip_archives_that_cannot_be_read(inputs, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.flac", inputs.flac(inputs.ids[0]))
    whole = content.getvalue()
    (tmp_path / "cut.zip").write_bytes(whole[:-10])
    with pytest.raises(Rejected, match=r"cut\.zip: not a zip, or damaged"):
        open_source(str(tmp_path / "cut.zip"))
    damaged, encrypted = bytearray(whole), bytearray(whole)
    damaged[100:110] = bytes(10)
    encrypted[6] = encrypted[whole.rindex(b"PK\1\2") + 8] = 1
    for name, content, why in (("d", damaged, "CRC"), ("e", encrypted, "encrypted")):
        (tmp_path / f"{name}.zip").write_bytes(content)
        source = open_source(str(tmp_path / f"{name}.zip"))
        (entry,) = source.entries(False)
        with pytest.raises(Rejected, match=why):
            source.read(entry.recording.member)
