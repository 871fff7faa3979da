"""The release folder of real segments: its files, its checksums, its data set card."""

import contextlib
import hashlib
import shutil
import subprocess

import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.release import main
from relabel_jax.files import written_together
from relabel_jax.labels.class_indices import read_class_indices
from relabel_jax.labels.label_files import read_label_file
from relabel_jax.labels.labelings import LABELINGS, relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

SPLITS = ("balanced_train", "eval")


@pytest.fixture(scope="module")
def meta(segments_sample, tmp_path_factory):
    """AudioSet's folder with 200 and 100 of its segments."""
    folder = tmp_path_factory.mktemp("meta")
    lines = segments_sample.read_text().splitlines(keepends=True)
    (folder / "balanced_train_segments.csv").write_text("".join(lines[:203]))
    (folder / "eval_segments.csv").write_text("".join([*lines[:3], *lines[203:]]))
    return folder


@pytest.fixture(scope="module")
def folder(meta, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "labels"
    assert main([f"--segments={meta}", f"--output_dir={folder}"]) == 0
    return folder


def test_the_files_hold_each_labeling(folder, meta):
    ontology = Ontology.audioset()
    for split in SPLITS:
        segments = read_segments([meta / f"{split}_segments.csv"], ontology)
        clip_ids = segments.clip_ids.to_pylist()
        for labeling in LABELINGS:
            expected = [
                sets[segments.set_numbers].toarray()
                for sets in relabel_sparse(segments.label_sets, ontology, labeling)
            ]
            path = folder / labeling / split
            table = pq.read_table(path.with_suffix(".parquet"))
            assert table.column_names == ["clip_id", "start_s", "end_s", "positive", "masked"]
            assert table["clip_id"].to_pylist() == clip_ids
            assert table["start_s"].to_pylist() == segments.start_s.tolist()
            file = read_label_file(path.with_suffix(".parquet"), ontology)
            with np.load(path.with_suffix(".npz")) as arrays:
                assert arrays["clip_ids"].tolist() == clip_ids
                assert arrays["mids"].tolist() == list(ontology.mids)
                packed = [
                    np.unpackbits(arrays[name], axis=1, count=632).astype(bool)
                    for name in ("positive", "masked")
                ]
            for matrix, of_npz, of_parquet in zip(
                expected, packed, file.labels(clip_ids), strict=True
            ):
                np.testing.assert_array_equal(of_npz, matrix)
                np.testing.assert_array_equal(of_parquet.toarray(), matrix)


def test_the_card(folder, meta):
    """Hugging Face's own reader takes the front matter, and the counts are those of the files."""
    card = huggingface_hub.DatasetCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["license"] == ["cc-by-4.0", "cc-by-sa-4.0"]
    assert data["task_categories"] == ["audio-classification"]
    assert data["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in data["configs"]] == list(LABELINGS)
    for config in data["configs"]:
        files = {each["split"]: each["path"] for each in config["data_files"]}
        assert list(files) == list(SPLITS)
        tables = [pq.read_table(folder / path) for path in files.values()]
        assert sum(map(len, tables)) == 300
        means = [
            sum(len(mids) for table in tables for mids in table[name].to_pylist()) / 300
            for name in ("positive", "masked")
        ]
        (row,) = [
            line
            for line in card.text.splitlines()
            if line.startswith(f"| `{config['config_name']}`")
        ]
        assert row.endswith(f"| {means[0]:.2f} | {means[1]:.2f} |")
    assert "$" not in card.text
    used = np.unique(
        read_segments(
            [meta / f"{split}_segments.csv" for split in SPLITS], Ontology.audioset()
        ).label_sets.indices
    )
    assert f"has the {len(used)} classes that are labels" in card.text
    assert "Used classes are the 527 of the 632" in card.text
    mids = read_class_indices(folder / "class_labels_indices.csv")
    assert mids == [Ontology.audioset().mids[number] for number in used]
    assert read_class_indices(folder / "classes.csv") == list(Ontology.audioset().mids)


def test_the_checksums_fit(folder):
    sums = dict(
        reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()
    )
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
    }
    assert sums == files
    assert len(sums) == len(LABELINGS) * len(SPLITS) * 2 + 3
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_the_same_input_gives_the_same_bytes(folder, meta, tmp_path, capsys):
    flags = [f"--segments={meta}", f"--output_dir={tmp_path}"]
    last = [tmp_path / name for name in ("README.md", "SHA256SUMS")]
    with contextlib.suppress(KeyboardInterrupt), written_together(*last):  # it was stopped before
        last[0].write_text("of the stopped command")
        raise KeyboardInterrupt
    assert main(flags) == 0
    assert (tmp_path / "SHA256SUMS").read_text() == (folder / "SHA256SUMS").read_text()
    capsys.readouterr()
    assert main(flags) == 1
    assert "README.md: exists already; give --overwrite" in capsys.readouterr().err
    assert main([*flags, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a-b.csv"], "'a-b' cannot be the name of a split"),
        (["a.csv", "x/a_segments.csv"], "another file is the split 'a' too"),
    ],
)
def test_refused_file_names(tmp_path, capsys, names, message):
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f'clip{number}, 0, 1, "/m/04rlf"\n')
    files = ",".join(str(tmp_path / name) for name in names)
    assert main([f"--segments={files}", f"--output_dir={tmp_path}/out"]) == 1
    log = capsys.readouterr().err
    assert message in log.splitlines()[-1]
    assert not (tmp_path / "out").exists()
