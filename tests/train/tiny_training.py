"""A training of seconds: the small classifier on random numbers. Also run on other devices:

python tiny_training.py FOLDER ab abcd   trains two populations, of the members a and b, and of all
"""

import functools
import pathlib
import sys

import jax
import numpy as np

from relabel_jax.labels.views import SPLITS, View
from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.loop import train
from relabel_jax.train.training import Member, Training

NUM_CLIPS = {"train": 52, "validation": 21, "test": 8}
CLASSES, FEATURES, EPOCHS = 5, 6, 4
MEMBERS = {"a": (0, 0), "b": (1, 0), "c": (1, 3), "d": (2, 4)}
"""Seeds of labels, and of weights and order. Two have one order, two have one set of labels."""
NETWORK = EmbeddingClassifier(CLASSES, hidden_units=8)
INIT = jax.jit(functools.partial(NETWORK.init, train=False))
STEPS_PER_EPOCH = NUM_CLIPS["train"] // 8


def inputs(split, clips):
    rng = np.random.default_rng([1, SPLITS.index(split)])
    return rng.normal(size=(NUM_CLIPS[split], FEATURES)).astype(np.float32)[clips]


def member(workdir, labels_seed, seed):
    workdir.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([2, labels_seed])
    view = View(
        rows={split: np.arange(num) for split, num in NUM_CLIPS.items()},
        columns=np.arange(CLASSES),
        labels={split: rng.random((num, CLASSES)) < 0.4 for split, num in NUM_CLIPS.items()},
        masked={split: rng.random((num, CLASSES)) < 0.2 for split, num in NUM_CLIPS.items()},
        label_set=np.ones(CLASSES, bool),
    )
    variables = INIT(jax.random.key(seed), inputs("train", np.arange(1)))
    return Member(Workdir(workdir), jax.device_get(variables), view, seed)


def population(folder, names):
    return [member(folder / name, *MEMBERS[name]) for name in names]


def training(members, **fields):
    values = {
        "members": members,
        "network": NETWORK,
        "inputs": inputs,
        "batch_size": 8,
        "num_epochs": EPOCHS,
        "learning_rate": 0.01,
        "learning_rate_decay": 0.9,
        "steps_per_call": 4,
        "resident": "auto",
        "members_by": "auto",
    }
    return Training(**values | fields)


def states(workdir, *epochs):
    """The checkpoints of epochs, as nested dicts of NumPy arrays."""
    with Checkpoints(Workdir(workdir), read_only=True) as checkpoints:
        return [jax.tree.map(np.asarray, checkpoints.restore_arrays(epoch)) for epoch in epochs]


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    for names in sys.argv[2:]:
        train(training(population(pathlib.Path(sys.argv[1], names), names)))
    print(len(jax.devices()), "devices")
