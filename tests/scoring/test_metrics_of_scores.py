"""The metrics under every labeling against scikit-learn, and hierarchical F1 against sets."""

import csv
import itertools

import numpy as np
import pytest
from scipy import sparse, stats
from score_inputs import CLIP_IDS, ONTOLOGY, labels, measured, scores, write_scores
from sklearn.metrics import average_precision_score, roc_auc_score

from relabel_jax.labels.labelings import LABELINGS, relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.metrics import evaluate, in_unit_interval
from relabel_jax.scoring.hierarchical import hierarchical_f1


def by_sets(clips, ontology, labeling, mids):
    """(positive, masked) bool[clips, mids], clip by clip."""
    both = [relabel_set(clip, ontology, labeling) for clip in clips]
    return tuple(np.array([[mid in pair[i] for mid in mids] for pair in both]) for i in (0, 1))


def by_scikit_learn(values, positive, masked):
    """(average precision, ROC AUC) of each class over its known clips; NaN where undefined."""
    results = np.full((2, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        known = ~masked[:, column]
        truth, score = positive[known, column], values[known, column]
        if truth.any():
            results[0, column] = average_precision_score(truth, score)
            if not truth.all():
                results[1, column] = roc_auc_score(truth, score)
    return results


def check(of_labeling, values, positive, masked):
    average_precision, roc_auc = by_scikit_learn(values, positive, masked)
    mean_auc = np.nanmean(roc_auc)
    assert of_labeling["mAP"] == pytest.approx(np.nanmean(average_precision), abs=1e-9)
    assert of_labeling["mean_auc"] == pytest.approx(mean_auc, abs=1e-9)
    assert of_labeling["d_prime"] == pytest.approx(np.sqrt(2) * stats.norm.ppf(mean_auc), abs=1e-9)
    assert of_labeling["classes_with_positive"] == positive.any(axis=0).sum()
    assert of_labeling["known"] == (~masked).sum()
    return average_precision, roc_auc


# Probabilities; logits; numbers that are not exact in float32.
@pytest.mark.parametrize(
    "transform",
    [lambda p: p, lambda p: 20 * p - 9, lambda p: p.astype(np.float64) * 1e-50 + 1 / 3],
    ids=["probabilities", "logits", "float64"],
)
def test_every_labeling(tmp_path, capsys, transform):
    values = transform(scores())
    path = write_scores(tmp_path / "a.npz", values)
    (of_file,) = measured(tmp_path, capsys, path)["files"]
    with open(tmp_path / "OUT" / "classes.csv") as file:
        classes = list(csv.DictReader(file))
    assert [row["mid"] for row in classes] == list(ONTOLOGY.mids)
    assert tuple(of_file["labelings"]) == LABELINGS
    for labeling, of_labeling in of_file["labelings"].items():
        positive, masked = by_sets(labels(), ONTOLOGY, labeling, ONTOLOGY.mids)
        each = check(of_labeling, values, positive, masked)
        for field, expected in zip(("ap", "auc"), each, strict=True):
            written = [float(row[f"{labeling}_{field}"] or "nan") for row in classes]
            np.testing.assert_allclose(written, expected, rtol=0, atol=1e-9)
        for field, expected in (("positives", positive), ("known", ~masked)):
            written = [int(row[f"{labeling}_{field}"]) for row in classes]
            assert written == expected.sum(axis=0).tolist()


def test_real_segments(segments_sample, tmp_path, capsys):
    """300 clips of AudioSet, its 527 classes in its order, without names."""
    ontology = Ontology.audioset()
    segments = read_segments([segments_sample], ontology)
    clips = [{ontology.mids[i] for i in row} for row in segments.labels.to_pylist()]
    mids = [ontology.mids[i] for i in np.flatnonzero(ontology.is_used)]
    original, _ = by_sets(clips, ontology, "ol", mids)
    values = (np.random.default_rng(0).random(original.shape) + 0.3 * original) / 1.3
    values = values.astype(np.float32)
    names = np.array([f"/data/Y{clip_id}.wav" for clip_id in segments.clip_ids.to_pylist()])
    np.savez(tmp_path / "a.npz", audio_name=names, clipwise_output=values)
    (tmp_path / "audioset.json").write_text(ontology.text)
    flags = {"segments": segments_sample, "ontology": tmp_path / "audioset.json"}
    (of_file,) = measured(tmp_path, capsys, tmp_path / "a.npz", **flags)["files"]
    assert of_file["class_order"].startswith("assumed")
    assert (of_file["clips"], of_file["classes"]) == (300, 527)
    for labeling in ("ol", "entailed"):
        check(of_file["labelings"][labeling], values, *by_sets(clips, ontology, labeling, mids))


@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 4, 5], [1, 2, 5], [5, 0]])
@pytest.mark.parametrize("labeling", LABELINGS)
def test_hierarchical_f1_is_that_of_sets(labeling, columns):
    """Sets of class numbers for every clip and every threshold; scores with many ties."""
    rng = np.random.default_rng(columns)
    values = rng.integers(0, 5, (len(CLIP_IDS), len(columns))).astype(np.float32)
    positive, masked = by_sets(labels(), ONTOLOGY, labeling, ONTOLOGY.mids)
    best = (0.0, 0.0, 0.0, 0.0)
    for threshold in np.unique(values).tolist():
        correct = predicted = true = 0
        for row in range(len(values)):
            countable = {c for c in columns if not masked[row, c]}
            asserted = {
                c for c, v in zip(columns, values[row], strict=True) if v >= threshold
            } & countable
            both = [
                set().union(of, *(ONTOLOGY.ancestor_sets[c] for c in of)) & countable
                for of in (asserted, set(np.flatnonzero(positive[row]).tolist()))
            ]
            correct += len(both[0] & both[1])
            predicted += len(both[0])
            true += len(both[1])
        if correct:
            precision, recall = correct / predicted, correct / true
            f1 = 2 * precision * recall / (precision + recall)
            if round(f1, 12) >= round(best[0], 12):  # of equal ones the highest threshold
                best = (f1, precision, recall, threshold)
    got = hierarchical_f1(
        values,
        sparse.csr_array(positive),
        sparse.csr_array(masked),
        ONTOLOGY,
        np.array(columns),
    )
    assert got == pytest.approx(best, abs=1e-12)


def test_masked_scores_change_nothing(tmp_path, capsys):
    _, masked = by_sets(labels(), ONTOLOGY, "pe_cml", ONTOLOGY.mids)
    assert masked.any()
    values = scores()
    flags = {"labelings": "pe_cml"}
    both = [
        measured(tmp_path, capsys, write_scores(tmp_path / "a.npz", each), **flags)["files"]
        for each in (values, np.where(masked, 1 - values, values))
    ]
    assert both[0] == both[1]


def test_scores_in_the_unit_interval_keep_their_order():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=(40, 3)), rng.integers(-2, 3, (40, 3))])
    truth = rng.random(values.shape) < 0.3
    got = in_unit_interval(values)
    for column in range(3):
        for one, other in itertools.pairwise(np.argsort(values[:, column])):
            equal = values[one, column] == values[other, column]
            assert (got[one, column] == got[other, column]) == equal
    mean = evaluate(got, truth, np.zeros_like(truth)).mean_average_precision
    assert mean == pytest.approx(average_precision_score(truth, values), abs=1e-9)
    exact = rng.random((5, 2)).astype(np.float32)
    assert in_unit_interval(exact) is exact
