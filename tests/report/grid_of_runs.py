"""A folder of made-up runs, and their scores and figures as other libraries have them."""

import csv
import json

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

ROOTS = ("Human sounds", "Natural sounds")
SEEDS = (0, 1)
TABLES = ("table1", "table3", "table4")
CONFIG = {
    "data_dir": "nowhere",
    "num_epochs": 3,
    "loss": "mse",
    "model": {"name": "waveform_cnn", "features": [8], "formulation": "auto"},
}


def write_run(workdir, view, clip_ids, ontology, facts, generator):
    """A run folder as training leaves it, with scores that know something of the labels."""
    in_set = view.label_set
    labels, masked = view.labels["test"][:, in_set], view.masked["test"][:, in_set]
    skill = 0.5 if facts["base_labeling"] == "pe_cml" else 0.2
    scores = skill * labels + (1 - skill) * generator.random(labels.shape)
    scores = np.round(scores, 2).astype(np.float32)  # with ties
    mids = np.array(ontology.mids)[view.columns[in_set]]
    aps = expected_ap(scores, labels, masked)
    aucs = [
        roc_auc_score(labels[known, i], scores[known, i])
        for i, known in enumerate(~masked.T)
        if 0 < labels[known, i].sum() < known.sum()
    ]
    result = facts | {
        "test": {"mAP": np.nanmean(aps), "mean_auc": np.mean(aucs), "d_prime": None},
        "best_epoch": 2,
        "root_mid": ontology.mids[ontology.find(facts["root"])],
        "num_clips": {split: len(rows) for split, rows in view.rows.items()},
        "num_labels": int(in_set.sum()),
        "data_set": "0123",
        "classes": "4567",
        "config": CONFIG,
    }
    workdir.mkdir(parents=True)
    (workdir / "result.json").write_text(json.dumps(result))
    lines = [
        {"epoch": e, "train_loss": 1 / e, "validation_mAP": 0.1 * e * (4 - e)} for e in (1, 2, 3)
    ]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez_compressed(
        workdir / "test_scores.npz",
        clip_id=clip_ids[view.rows["test"]],
        mids=mids,
        scores=scores,
        labels=labels,
        masked=masked,
    )


def expected_ap(scores, labels, masked):
    return np.array(
        [
            average_precision_score(labels[known, i], scores[known, i])
            if labels[known, i].any()
            else np.nan
            for i, known in enumerate(~masked.T)
        ]
    )


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_scores(folder, root, method, base, labeling, seed):
    with np.load(folder / root / f"{method}_{base}_{labeling}_{seed}" / "test_scores.npz") as file:
        return {name: file[name] for name in file.files}


def expected_map(scores, columns=slice(None), labels=None, masked=None):
    labels = scores["labels"][:, columns] if labels is None else labels
    masked = scores["masked"][:, columns] if masked is None else masked
    return np.nanmean(expected_ap(scores["scores"][:, columns], labels, masked))
