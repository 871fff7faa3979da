"""The miniature's files, recordings and command."""

import json
import pathlib
import re

import numpy as np
import pytest
import soundfile

from data_prep import miniature, synthesis
from data_prep.miniature_clips import clip_id, write_clip
from data_prep.miniature_spec import MiniatureSpec
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import multi_hot, read_segments
from relabel_jax.labels.views import side_columns

pytestmark = pytest.mark.slow

NUM_CLIPS = 64
SEED = 3
ROOTS = ("Human sounds", "Sounds of things", "Source-ambiguous sounds", "Natural sounds")


def run(output_dir, *flags):
    return miniature.main([f"--output_dir={output_dir}", *flags])


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> pathlib.Path:
    output_dir = tmp_path_factory.mktemp("miniature") / "mini"
    assert run(output_dir, f"--num_clips={NUM_CLIPS}", f"--seed={SEED}", "--num_workers=1") == 0
    return output_dir


@pytest.fixture(scope="module")
def ontology(mini) -> Ontology:
    return Ontology.from_json(mini / "ontology.json")


def files_of(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def labels_of(path, ontology) -> np.ndarray:
    return multi_hot(read_segments([path], ontology).labels, len(ontology))


# The ontology


def test_ontology_has_what_the_project_needs(ontology):
    names = set(ontology.display_names)
    assert 55 <= len(ontology) <= 70
    assert {ontology.display_names[root] for root in ontology.roots} == {*ROOTS, "Animal", "Music"}
    assert (ontology.is_parent.sum(axis=0) > 1).sum() >= 5
    assert ontology.is_abstract.sum() >= 5
    assert ontology.is_blacklisted[ontology.find("Engine knocking")]
    assert names >= set(synthesis.SOUNDS)
    # Every leaf sounds, and no class is out of the reach of a sound.
    leaves = np.flatnonzero(~ontology.is_parent.any(axis=1))
    assert {ontology.display_names[leaf] for leaf in leaves} <= set(synthesis.SOUNDS)


def test_ontology_is_a_part_of_audioset(ontology):
    audioset = Ontology.audioset()
    kept = np.array([audioset.index[mid] for mid in ontology.mids])
    assert tuple(audioset.display_names[i] for i in kept) == ontology.display_names
    np.testing.assert_array_equal(audioset.is_parent[np.ix_(kept, kept)], ontology.is_parent)
    np.testing.assert_array_equal(audioset.is_abstract[kept], ontology.is_abstract)
    np.testing.assert_array_equal(audioset.is_blacklisted[kept], ontology.is_blacklisted)
    assert {audioset.mids[i] for i in audioset.roots} >= {ontology.mids[i] for i in ontology.roots}
    fields = set(json.loads(audioset.text)[0])
    assert all(set(node) == fields for node in json.loads(ontology.text))
    assert not any(node["description"] for node in json.loads(ontology.text))


# The labels


def test_segments_have_audiosets_form(mini, ontology):
    form = re.compile(r'[A-Za-z0-9_-]{11}, 0\.000, \d+\.\d{3}, "/[^" ]+"')
    for name in ("segments.csv", "truth.csv"):
        lines = (mini / name).read_text().splitlines()
        segments = read_segments([mini / name], ontology)
        num_labels = int(multi_hot(segments.labels, len(ontology)).sum())
        assert [line.startswith("# ") for line in lines] == 3 * [True] + NUM_CLIPS * [False]
        assert f"num_ytids={NUM_CLIPS}, num_segs={NUM_CLIPS}" in lines[1]
        assert lines[1].endswith(f"num_positive_labels={num_labels}")
        assert lines[2] == "# YTID, start_seconds, end_seconds, positive_labels"
        assert all(form.fullmatch(line) for line in lines[3:])
        clip_ids = segments.clip_ids.to_pylist()
        assert sorted(f"{i}.flac" for i in clip_ids) == sorted(
            path.name for path in (mini / "audio").iterdir()
        )
        seconds = [soundfile.info(mini / "audio" / f"{i}.flac").duration for i in clip_ids]
        np.testing.assert_allclose(segments.end_s, np.minimum(seconds, 10), atol=1e-3)


def test_ids_are_unique_and_may_begin_with_any_letter_of_the_alphabet():
    ids = [clip_id(0, number) for number in range(2000)]
    assert len(set(ids)) == 2000
    assert {each[0] for each in ids} >= {"-", "_", "a", "Z", "0"}
    assert {len(each) for each in ids} == {11}
    assert not set(ids) & {clip_id(1, number) for number in range(2000)}


def test_truth_is_closed_and_contains_the_raters_labels(mini, ontology):
    truth = labels_of(mini / "truth.csv", ontology)
    chosen = labels_of(mini / "segments.csv", ontology)
    for row in truth:
        true = np.flatnonzero(row).tolist()
        above = [path for label in true for path in ontology.paths(label)]
        assert set().union(*above) == set(true)
    assert (truth | ~chosen).all()
    assert chosen.any(axis=1).all()
    assert not chosen[:, ontology.is_abstract | ontology.is_blacklisted].any()
    assert truth[:, ontology.is_abstract].any()
    assert truth[:, ontology.find("Engine knocking")].any()


# The recordings


def test_same_bytes_whatever_the_number_of_workers(mini, tmp_path):
    again = tmp_path / "again"
    assert run(again, f"--num_clips={NUM_CLIPS}", f"--seed={SEED}", "--num_workers=2") == 0
    assert files_of(again) == files_of(mini)


def test_a_clip_depends_on_seed_and_number_alone(mini, tmp_path):
    other_raters = MiniatureSpec(num_clips=7, seed=SEED, parent_left_out=0, general_only=1)
    clip = write_clip(other_raters, 5, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == (mini / "audio" / f"{clip.clip_id}.flac").read_bytes()
    other_seed = write_clip(MiniatureSpec(seed=SEED + 1), 5, tmp_path)
    assert other_seed.clip_id != clip.clip_id
    assert (tmp_path / f"{other_seed.clip_id}.flac").read_bytes() != path.read_bytes()


def test_recordings_are_audible_at_8_khz_and_do_not_clip(mini):
    rates, channels, lengths = set(), set(), []
    for path in (mini / "audio").iterdir():
        info = soundfile.info(path)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        rates.add(info.samplerate)
        channels.add(info.channels)
        lengths.append(info.duration)
        samples, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
        assert 1000 < np.abs(samples.astype(int)).max() < 32700
        mono = samples.mean(axis=1)
        assert np.sqrt(np.mean(mono**2)) > 100
        power = np.abs(np.fft.rfft(mono)) ** 2
        below = power[np.fft.rfftfreq(len(mono), 1 / rate_hz) < 4000]
        assert below.sum() > 0.9 * power.sum(), path.name
    assert rates == {16_000, 22_050, 44_100}
    assert channels == {1, 2}
    assert min(lengths) < 9.9 < 10.1 < max(lengths)
    assert np.mean(np.isclose(lengths, 10)) > 0.6


@pytest.mark.parametrize("name", synthesis.SOUNDS)
def test_every_sound_fills_any_length_and_lies_below_4_khz(name):
    for seed, seconds in enumerate((0.5, 2.5, 6.0)):
        sound = synthesis.SOUNDS[name](np.random.default_rng(seed), seconds)
        assert sound.dtype == np.float32
        assert sound.shape == (int(seconds * synthesis.SAMPLE_RATE_HZ),)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 1e-2
        power = np.abs(np.fft.rfft(sound)) ** 2
        assert power[: len(power) // 2].sum() > 0.8 * power.sum()


# The command line


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--num_clips=0", "--num_clips=0: expected at least 1"),
        ("--seed=-1", "--seed=-1: expected 0 or more"),
        ("--num_workers=0", "--num_workers=0: expected at least 1"),
        ("--parent_left_out=1.5", "--parent_left_out=1.5: expected a rate from 0 to 1"),
        ("--general_only=nan", "--general_only=nan: expected a rate from 0 to 1"),
    ],
)
def test_bad_flags_get_one_line(tmp_path, capsys, flag, message):
    assert run(tmp_path / "mini", flag) == 1
    assert capsys.readouterr().err == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_a_complete_miniature_is_left_alone(mini, capsys):
    before = {path: path.stat().st_mtime_ns for path in mini.rglob("*")}
    assert run(mini, f"--num_clips={NUM_CLIPS}", f"--seed={SEED}") == 0
    assert "already complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in mini.rglob("*")} == before


def test_other_arguments_or_another_folder_are_refused(mini, tmp_path, capsys):
    before = files_of(mini)
    assert run(mini, f"--num_clips={NUM_CLIPS}", f"--seed={SEED + 1}") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "made with other arguments" in error
    assert files_of(mini) == before

    (tmp_path / "notes.txt").write_text("mine")
    assert run(tmp_path) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not a complete miniature; remove it or give another --output_dir" in error
    assert files_of(tmp_path) == {"notes.txt": b"mine"}

    assert run(tmp_path / "notes.txt" / "mini") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "cannot write the miniature" in error


def test_a_failure_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full_disk)
    assert run(tmp_path / "mini", "--num_clips=2", "--num_workers=1") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_summary_counts_what_was_written(mini, ontology):
    summary = json.loads((mini / "miniature.json").read_text())["summary"]
    chosen = labels_of(mini / "segments.csv", ontology)
    truth = labels_of(mini / "truth.csv", ontology)
    seconds = [soundfile.info(path).duration for path in (mini / "audio").iterdir()]
    assert summary["hours"] == pytest.approx(sum(seconds) / 3600, abs=1e-4)
    assert summary["labels_per_clip"] == pytest.approx(chosen.sum(axis=1).mean(), abs=1e-3)
    assert summary["true_labels_per_clip"] == pytest.approx(truth.sum(axis=1).mean(), abs=1e-3)
    for root, number in summary["clips_per_root"].items():
        columns = side_columns(ontology, ontology.find(root), "target")
        assert number == chosen[:, columns].any(axis=1).sum()
