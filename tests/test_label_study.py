"""The study of labels on a tiny archive like FSD50K, and its figures from its scores."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from sklearn.metrics import average_precision_score

from relabel_jax.labels.ontology import Ontology
from relabel_jax.models.backbone import Outputs

pytestmark = pytest.mark.slow

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
# Precise classes, some of them below Human sounds, the root of the study.
HUMAN = ("Baby laughter", "Giggle", "Male speech, man speaking", "Cough", "Sneeze")
OTHERS = ("Electric guitar", "Acoustic guitar", "Bark", "Meow", "Rain", "Ocean", "Car passing by")
CLIPS = {"train": 48, "val": 24, "eval": 30}
SIZES = ["--base_clips=16", "--target_clips=16", "--validation_clips=10", "--base_test_clips=4"]
SIZES += ["--test_clips=12", "--num_seeds=2", "--epochs=1,2", "--target_epochs=1"]
SIZES += ["--labelings=ol,pel"]
SIZES += ["--severities=1,4", "--batch_size=8", "--parts=main,severity"]


@pytest.fixture(scope="module")
def fsd50k(tmp_path_factory):
    """An archive with half of its clips below Human sounds; each class has its own tone."""
    folder = tmp_path_factory.mktemp("FSD50K")
    ontology = Ontology.audioset()
    rng = np.random.default_rng(0)
    (folder / "FSD50K.ground_truth").mkdir()
    rows = {"dev": ["fname,labels,mids,split"], "eval": ["fname,labels,mids"]}
    number = 0
    for split, count in CLIPS.items():
        part = "eval" if split == "eval" else "dev"
        (folder / f"FSD50K.{part}_audio").mkdir(exist_ok=True)
        for clip in range(count):
            names = rng.choice(OTHERS, 2, replace=False).tolist()
            if clip % 2:
                names[0] = HUMAN[clip // 2 % len(HUMAN)]
            time_s = np.arange(8000) / 8000
            tones = [np.sin(2e3 * (1 + (*HUMAN, *OTHERS).index(name)) * time_s) for name in names]
            path = folder / f"FSD50K.{part}_audio" / f"{number}.wav"
            soundfile.write(path, 0.2 * sum(tones) + rng.normal(0, 0.02, 8000), 8000)
            mids = ",".join(ontology.mids[ontology.find(name)] for name in names)
            line = f'{number},"{",".join(name.split()[0] for name in names)}","{mids}"'
            rows[part].append(line if part == "eval" else f"{line},{split}")
            number += 1
    for part, lines in rows.items():
        path = folder / "FSD50K.ground_truth" / f"{part}.csv"
        path.write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def label_study(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import label_study

    return label_study


def mean_average_precision(truth, scores):
    """Over the classes that a clip has."""
    defined = truth.any(axis=0)
    return float(average_precision_score(truth[:, defined], scores[:, defined], average="macro"))


def test_figures_follow_from_the_scores(label_study, fsd50k, tmp_path, capsys):
    arguments = [f"--fsd50k={fsd50k}", f"--output_dir={tmp_path / 'study'}", *SIZES]
    assert label_study.main(arguments) == 0
    output = capsys.readouterr()
    assert "hours are left" in output.err
    assert "12 test clips and 2 seeds" in output.out
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    rows = study["rows"]
    assert {row["epochs"] for row in rows} == {1, 2}
    assert {row["severity"] for row in rows} == {1.0, 4.0}
    assert {row["base"] for row in rows} == {"ol", "pel", "complete"}
    ontology = Ontology.audioset()
    truth = {}  # by clip: the mids of the archive and all of their ancestors
    for line in (fsd50k / "FSD50K.ground_truth" / "eval.csv").read_text().splitlines()[1:]:
        numbers = [ontology.index[mid] for mid in line.split('"')[3].split(",")]
        ancestors = set().union(*(ontology.ancestor_sets[number] for number in numbers))
        truth[line.split(",")[0]] = {ontology.mids[number] for number in {*numbers, *ancestors}}

    def values(row, base):
        suffix = f"_x{100 * row['severity']:.0f}"
        target = row["labeling"] + (suffix if row["labeling"] != "complete" else "")
        base = base + (suffix if base != "complete" else "")
        at = tmp_path / "study" / "transfers" / f"features_16_from_16_mse_{row['epochs']}"
        found = []
        for seed in range(2):
            with np.load(at / f"{base}_seed{seed}" / target / "test_scores.npz") as file:
                labels = [[mid in truth[clip] for mid in file["mids"]] for clip in file["clip_id"]]
                found.append(mean_average_precision(np.array(labels), file["scores"]))
        return np.array(found)

    for row in rows:
        of_row = values(row, row["base"])
        assert row["mAP"] == pytest.approx(of_row.mean())
        assert row["test_clips"] == 12
        assert ("gain" in row) == (row["base"] != "ol")
        if "gain" in row:
            gains = of_row - values(row, "ol")
            assert row["gain"] == pytest.approx(gains.mean(), abs=1e-9)
            assert row["sd_over_seeds"] == pytest.approx(gains.std(ddof=1), abs=1e-9)
            assert row["low"] <= row["high"]
    page = (tmp_path / "study" / "study.html").read_text()
    assert "When do richer labels help?" in page

    results = list((tmp_path / "study").rglob("result.json"))
    before = {path: path.stat().st_mtime_ns for path in results}
    assert len(before) == 2 * (3 + 2 * 3 * 2 + 2 + 2 * 2 + 1)
    assert label_study.main(arguments) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in results} == before
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == study
    assert label_study.main([*arguments, "--seed=1"]) == 1
    assert "has a study with other arguments" in capsys.readouterr().err


def test_the_interval_has_seeds_and_clips(label_study):
    from label_study_report import over_seeds_and_clips

    rng = np.random.default_rng(0)
    of_clips = rng.normal(0, 0.01, 4000)
    seeds = rng.normal(0.03, 0.02, 8)
    found = over_seeds_and_clips(seeds, seeds[:, None] + of_clips)
    sd = np.hypot(0.01, seeds.std(ddof=1) / np.sqrt(8))
    assert found.difference == pytest.approx(seeds.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * sd, rel=0.05)


def test_a_teacher_masks_the_negatives_that_it_scores_highest(label_study):
    from label_study_inputs import mask_by_teacher

    rng = np.random.default_rng(0)
    scores, positive = rng.random((200, 3)), rng.random((200, 3)) < 0.2
    positive[:, 2] = True
    masked = mask_by_teacher(scores, positive, 90)
    for column in range(2):
        negatives = np.flatnonzero(~positive[:, column])
        order = negatives[np.argsort(scores[negatives, column])]
        number = int(masked[:, column].sum())
        assert number == pytest.approx(0.1 * len(negatives), abs=1)
        assert sorted(order[-number:]) == np.flatnonzero(masked[:, column]).tolist()
    assert not masked[:, 2].any()


def test_the_max_constraint_against_a_loop(label_study):
    from label_study_losses import max_constraint

    ontology = Ontology.audioset()
    names = ("Animal", "Dog", "Bark", "Howl", "Canidae, dogs, wolves", "Rain")
    columns = np.sort([ontology.find(name) for name in names])
    below = [
        [b for b in range(6) if columns[a] in ontology.ancestor_sets[columns[b]]] for a in range(6)
    ]
    assert max(map(len, below)) > 2
    loss = max_constraint(ontology, columns)
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = rng.normal(0, 2, (4, 6)).astype(np.float32)
        labels, masked = rng.random((4, 6)) < 0.3, rng.random((4, 6)) < 0.2
        labels = np.stack([labels[:, [a, *below[a]]].any(axis=1) for a in range(6)], axis=1)
        labels &= ~masked
        known = []
        for clip, c in zip(*np.nonzero(~masked), strict=True):
            of_class = [b for b in (c, *below[c]) if not masked[clip, b]]
            if labels[clip, c]:
                of_class = [b for b in of_class if labels[clip, b]]
            score = max(1 / (1 + np.exp(-float(logits[clip, b]))) for b in of_class)
            known.append(-np.log(score if labels[clip, c] else 1 - score))
        value, gradient = jax.value_and_grad(
            lambda logits, labels=labels, masked=masked: loss(
                Outputs.of_logits(logits), jnp.asarray(labels), jnp.asarray(masked)
            )
        )(jnp.asarray(logits))
        assert float(value) == pytest.approx(np.mean(known), rel=1e-4)
        assert np.isfinite(gradient).all()
        assert not np.asarray(gradient)[masked].any()


def test_what_a_base_is_compared_with(label_study):
    from label_study_report import Cell, Key, make_rows

    def key(recipe, base, method="features", clips=16, epochs=2):
        return Key(method, clips, recipe, epochs, 8, "complete", base)

    means = {
        key("bce", "ol_x100"): 0.10,
        key("bce", "pe_cml_x100"): 0.13,
        key("large_loss", "ol_x100"): 0.12,
        key("strict", "pe_cml_x100"): 0.20,
        key("known", "pe_cml_x100"): 0.16,
        key("mse", "ol_x100", "finetune"): 0.30,
        key("mse", "none", "scratch", 0, 0): 0.25,
    }
    cells = {
        each: Cell(np.full(3, mean), np.full((3, 20), mean), 5) for each, mean in means.items()
    }
    gains = {
        (row["method"], row["recipe"], row["base"]): row.get("gain")
        for row in make_rows(cells, [1.0])
    }
    assert gains == {
        ("features", "bce", "ol"): None,
        ("features", "bce", "pe_cml"): pytest.approx(0.03),
        ("features", "large_loss", "ol"): pytest.approx(0.02),
        ("features", "strict", "pe_cml"): None,
        ("features", "known", "pe_cml"): pytest.approx(-0.04),
        ("finetune", "mse", "ol"): None,
        ("scratch", "mse", "none"): pytest.approx(-0.05),
    }
