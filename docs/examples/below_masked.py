"""A new labeling: all that lies below an original label is unknown unless it was chosen.

PE-CML masks less: as soon as the raters chose one class below a label, it trusts them there.
"""

import pathlib

import jax
import numpy as np

from relabel_jax.data.data_set import open_data_set
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import make_view
from relabel_jax.models import registry
from relabel_jax.models.variables import random_variables, waveform_batch
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.loop import train
from relabel_jax.train.training import Member, Trained, Training


def below_masked(
    labels: np.ndarray, ontology: Ontology, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`(positive, masked)` for original labels of these classes, all bool[clips, classes]."""
    positive, _ = relabel(labels, ontology, "pel", columns)
    is_ancestor = ontology.is_ancestor[np.ix_(columns, columns)]
    below = labels.astype(np.float32) @ is_ancestor.astype(np.float32) > 0
    return positive, below & ~positive


def train_base(data_dir: str, workdir: str, root: str, model: dict, **recipe) -> Trained:
    """Trains a network on the base side of a root, into a workdir."""
    data = open_data_set(data_dir)

    def labeling(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return below_masked(data.labels[np.ix_(rows, columns)], data.ontology, columns)

    view = make_view(
        data.ontology,
        data.labels,
        data.clip_splits,
        root=data.ontology.find(root),
        side="base",
        labeling=labeling,
    )
    network = registry.build(model, len(view.columns))
    start = jax.device_get(random_variables(network, waveform_batch(network), 0))
    members = [Member(Workdir(pathlib.Path(workdir)), start, view, seed=0)]

    def waveforms(split: str, clips: np.ndarray) -> np.ndarray:
        return data.read_waveforms(view.rows[split][clips])

    return train(Training(members, network, waveforms, **recipe))[0]
