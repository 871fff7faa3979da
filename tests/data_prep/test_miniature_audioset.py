"""The miniature on AudioSet's whole ontology: its sounds, its frequencies, its labels."""

import csv
import json

import numpy as np
import pytest
import soundfile

from data_prep import miniature, raters
from data_prep.miniature_clips import draw_events, write_clip
from data_prep.miniature_raters import true_labels
from data_prep.miniature_sounds import NUM_TRAITS, class_traits, event_rates, sound
from data_prep.miniature_spec import MiniatureSpec
from data_prep.rater_habits import __file__ as habits_file
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

SPEC = MiniatureSpec(classes="audioset")


@pytest.fixture(scope="module")
def ontology() -> Ontology:
    return Ontology.audioset()


def bands(waveform: np.ndarray) -> np.ndarray:
    """The level in dB of 24 bands of equal ratio from 60 Hz to 4 kHz."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    edges = np.geomspace(60, 4000, 25) * len(waveform) / 16_000
    sums = np.add.reduceat(power, edges.astype(int))[:-1]
    return 10 * np.log10(sums / sums.sum() + 1e-6)


def test_siblings_sound_more_alike_than_classes_of_other_roots(ontology):
    """The mean distance of spectra, measured on sounds of classes with one parent each."""
    traits = class_traits(ontology)
    rng = np.random.default_rng(0)
    only_parent = np.where(
        ontology.is_parent.sum(axis=0) == 1, ontology.is_parent.argmax(axis=0), -1
    )
    classes = np.flatnonzero((only_parent >= 0) & (event_rates(ontology) > 0))[::2]
    spectra = np.array([bands(sound(traits[each], rng, 1.0)) for each in classes])
    distances = np.sqrt(np.square(spectra[:, None] - spectra).mean(axis=2))
    roots = ontology.is_ancestor[list(ontology.roots)][:, classes]
    strangers = ~(roots.T.astype(int) @ roots).astype(bool)
    parents = only_parent[classes]
    siblings = (parents[:, None] == parents) & ~np.eye(len(classes), dtype=bool)
    assert siblings.sum() > 300
    assert distances[siblings].mean() < 0.8 * distances[strangers].mean()
    # Two clips of one class are closer still.
    again = np.array([bands(sound(traits[each], rng, 1.0)) for each in classes])
    itself = np.sqrt(np.square(spectra - again).mean(axis=1))
    assert itself.mean() < 0.8 * distances[siblings].mean()


def test_a_class_inherits_from_all_of_its_parents(ontology):
    traits = class_traits(ontology)
    assert traits.shape == (len(ontology), NUM_TRAITS)
    assert len(np.unique(traits, axis=0)) == len(ontology)
    children, parents = np.flatnonzero(ontology.is_parent.sum(axis=0) == 2), []
    for child in children:
        parents.append(traits[ontology.is_parent[:, child]].mean(axis=0))
    slope = np.sum(traits[children] * parents) / np.sum(np.square(parents))
    assert slope == pytest.approx(0.8, abs=0.1)
    # The traits depend on a class and those above it, not on the rest of the ontology.
    bark = ontology.find("Bark")
    kept = [*np.flatnonzero(ontology.ancestors(bark)), bark]
    part = ontology.restricted_to([ontology.mids[each] for each in kept])
    np.testing.assert_array_equal(class_traits(part)[part.find("Bark")], traits[bark])


def test_classes_come_as_often_as_in_audioset(ontology):
    """Drawn events, with their ancestors, against AudioSet's counts with ancestors."""
    rates = event_rates(ontology)
    assert rates.sum() == pytest.approx(1)
    assert (rates > 0).sum() > 400
    path = habits_file.replace("rater_habits.py", "audioset_habits/classes.csv")
    with open(path, newline="") as file:
        table = {row["mid"]: row for row in csv.DictReader(file)}
    at_or_below = np.array([int(table[mid]["pel"]) for mid in ontology.mids])
    assert not rates[at_or_below == 0].any()
    closure = ontology.is_ancestor | np.eye(len(ontology), dtype=bool)
    expected = closure @ rates
    common = at_or_below > 20_000
    ratio = expected[common] / at_or_below[common]
    assert common.sum() > 35
    assert ratio.max() / ratio.min() < 4
    # What is drawn has these rates.
    events = [draw_events(SPEC, n, np.random.default_rng(n)) for n in range(4000)]
    assert {len(set(each)) for each in events} == {1, 2, 3}
    speech = closure[ontology.find("Speech")]
    firsts = np.array([each[0] for each in events])
    share = speech @ rates
    tolerance = 4.5 * np.sqrt(share * (1 - share) / len(events))
    assert speech[firsts].mean() == pytest.approx(share, abs=tolerance)


@pytest.mark.slow
def test_the_folder(ontology, tmp_path, capsys):
    flags = ["--ontology=audioset", "--num_clips=24", "--seed=5", "--num_workers=1"]
    mini = tmp_path / "mini"
    assert miniature.main([*flags, f"--output_dir={mini}"]) == 0
    assert "already complete" not in capsys.readouterr().out
    assert (mini / "ontology.json").read_text() == ontology.text
    arguments = json.loads((mini / "miniature.json").read_text())["arguments"]
    assert arguments == {"num_clips": 24, "seed": 5, "classes": "audioset"}
    assert miniature.main([*flags, f"--output_dir={mini}"]) == 0
    assert "already complete" in capsys.readouterr().out

    # A clip depends on the seed and its number alone, and its events make the truth.
    spec = MiniatureSpec(num_clips=3, seed=5, classes="audioset")
    clip = write_clip(spec, 2, tmp_path)
    written = (mini / "audio" / f"{clip.clip_id}.flac").read_bytes()
    assert (tmp_path / f"{clip.clip_id}.flac").read_bytes() == written
    truth = {line[:11]: line for line in (mini / "truth.csv").read_text().splitlines()[3:]}
    mids = truth[clip.clip_id].split('"')[1].split(",")
    assert {ontology.index[mid] for mid in mids} == true_labels(clip.events, ontology)
    samples, _ = soundfile.read(mini / "audio" / f"{clip.clip_id}.flac")
    assert np.abs(samples).max() > 0.05

    # The raters are those of the command `raters`.
    rated = tmp_path / "rated.csv"
    assert raters.main([f"--segments={mini}/truth.csv", f"--output={rated}", "--seed=5"]) == 0
    rows = [read_segments([path], ontology) for path in (rated, mini / "segments.csv")]
    assert rows[0].clip_ids.equals(rows[1].clip_ids)
    assert rows[0].labels.equals(rows[1].labels)


def test_its_raters_have_no_other_rates(tmp_path, capsys):
    flags = [f"--output_dir={tmp_path / 'mini'}", "--ontology=audioset", "--general_only=0"]
    assert miniature.main(flags) == 1
    assert "--general_only: not with --ontology=audioset" in capsys.readouterr().err
