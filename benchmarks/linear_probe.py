"""A linear probe of embeddings through the HEAR interface, compared with log-mel statistics.

    python benchmarks/linear_probe.py CHECKPOINT ../shared/realaudio

The clips are the rows of `labels.csv` (clip_id, path, mids, source, fold) with the source esc50;
their class is the field `mids`. A logistic regression on standardized features is trained on all
folds except one and tested on that one. The printed accuracy is the mean over the folds.
"""

import argparse
import csv
import pathlib

import numpy as np
import scipy.signal
import soxr
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from relabel_jax.audio.decode import decode
from relabel_jax.inference.adapters import hear

_MELS = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="workdir of a finished training, or exported folder")
    parser.add_argument("realaudio", type=pathlib.Path, help="folder with labels.csv")
    parser.add_argument("--source", default="esc50")
    flags = parser.parse_args()
    with open(flags.realaudio / "labels.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == flags.source]
    labels = np.array([row["mids"] for row in rows])
    folds = np.array([row["fold"] for row in rows])

    model = hear.load_model(flags.checkpoint)
    read_s = model.embedder.waveform_format.read_s
    embeddings, log_mels = [], []
    for row in rows:
        mono, rate_hz = decode(str(flags.realaudio / row["path"]), read_s)
        if rate_hz != model.sample_rate:
            mono = soxr.resample(mono, rate_hz, model.sample_rate, "VHQ")
        audio = torch.from_numpy(mono.astype(np.float32))[None]
        embeddings.append(hear.get_scene_embeddings(audio, model).numpy()[0])
        log_mels.append(log_mel_statistics(mono, model.sample_rate))
    print(f"{len(rows)} clips, {len(set(labels))} classes, {len(set(folds))} folds")
    chance = max((labels == label).mean() for label in set(labels))
    print(f"the most frequent class: {chance:.3f}")
    for name, features in (("embedding", embeddings), ("log-mel statistics", log_mels)):
        print(f"{name} ({len(features[0])} values): {accuracy(np.array(features), labels, folds)}")


def accuracy(features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> str:
    values = []
    for fold in sorted(set(folds)):
        train = folds != fold
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2_000))
        with threadpool_limits(1):  # JAX's threads slow down several threads of BLAS
            probe.fit(features[train], labels[train])
        values.append(probe.score(features[~train], labels[~train]))
    return f"{np.mean(values):.3f} (by fold {', '.join(f'{value:.3f}' for value in values)})"


def log_mel_statistics(mono: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mean and standard deviation over the time of 64 log-mel bands up to half the rate."""
    frequencies, _, power = scipy.signal.spectrogram(
        np.pad(mono, (0, max(0, 1024 - len(mono)))), rate_hz, nperseg=1024, noverlap=512
    )
    mel = 2595 * np.log10(1 + frequencies / 700)
    centers = np.linspace(0, mel[-1], _MELS + 2)
    width = centers[1] - centers[0]
    weights = np.clip(1 - np.abs(mel - centers[1:-1, None]) / width, 0, None)
    bands = np.log(weights @ power + 1e-10)
    return np.concatenate([bands.mean(axis=1), bands.std(axis=1)])


if __name__ == "__main__":
    main()
