"""The simulation of `label_power.py`: clips without sound, raters, bases and classifiers."""

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from data_prep import raters
from data_prep.rater_habits import Habits
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS, View, make_view, side_columns
from relabel_jax.metrics import evaluate
from relabel_jax.models.backbone import Outputs
from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.report.statistics import bootstrap_map
from relabel_jax.train.losses import LOSSES

NUM_FEATURES = 96
BATCH_SIZE = 32
TRUTH = "truth"
TARGETS = ("ol", TRUTH)
NUM_REPLICATES = 100  # the variance that they estimate is a mean over the seeds too
_FEW_CLIPS = 64  # a view needs clips in all splits, also in those that are not used


class Base(nn.Module):
    """Three layers as in the paper, ELU and then batch normalization, and one sigmoid a class."""

    num_classes: int

    def setup(self):
        self.hidden = [nn.Dense(features) for features in (256, 256, 128)]
        self.norms = [nn.BatchNorm(momentum=0.9) for _ in self.hidden]
        self.output = nn.Dense(self.num_classes)

    def embed(self, x: jax.Array, train: bool) -> jax.Array:
        """float32[batch, features] -> float32[batch, 128]."""
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = norm(nn.elu(layer(x)), use_running_average=not train)
        return x

    def __call__(self, x: jax.Array, train: bool) -> Outputs:
        return Outputs.of_logits(self.output(self.embed(x, train)))


class Measured(NamedTuple):
    """The test on the truth for one seed.

    Attributes:
      values: float64[bases, targets], mAP.
      replicates: float64[bases, targets, replicates], mAP over resampled test clips.
    """

    values: np.ndarray
    replicates: np.ndarray


@dataclasses.dataclass(frozen=True)
class Clips:
    """Clips without sound.

    Attributes:
      features: float32[clips, features].
      truth: bool[clips, classes], with all ancestors.
      original: bool[clips, classes], the raters' labels.
      splits: int8[clips].
    """

    features: np.ndarray
    truth: np.ndarray
    original: np.ndarray
    splits: np.ndarray

    def view(self, ontology: Ontology, root: int, side: str, labeling: str) -> View:
        """The view of a side under a labeling, or under the truth."""

        def true_labels(rows, columns):
            truth = self.truth[np.ix_(rows, columns)]
            return truth, np.zeros_like(truth)

        return make_view(
            ontology,
            self.original,
            self.splits,
            root=root,
            side=side,
            labeling=true_labels if labeling == TRUTH else labeling,
        )


def draw_clips(
    ontology: Ontology, habits: Habits, sizes: argparse.Namespace, root: int, seed: int
) -> Clips:
    """Draws base clips, which have no event below the root, and target clips, which have one."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((len(ontology), NUM_FEATURES))
    for number in ontology.parents_first:
        vectors[number] = rng.standard_normal(NUM_FEATURES)
        if (parents := ontology.is_parent[:, number]).any():
            vectors[number] += 0.7 * vectors[parents].mean(axis=0)
    is_precise = ~(ontology.is_ancestor & habits.is_offered).any(axis=1)
    frequency = np.where(is_precise, habits.clips, 0)
    is_target = np.zeros(len(ontology), bool)
    is_target[side_columns(ontology, root, "target")] = True
    events: list[list[int]] = []
    splits: list[int] = []
    for of_target, counts in (
        (False, (sizes.base_clips, _FEW_CLIPS, _FEW_CLIPS)),
        (True, (sizes.target_clips, _FEW_CLIPS, sizes.test_clips)),
    ):
        first, others = (
            np.where(keep, frequency, 0) / np.where(keep, frequency, 0).sum()
            for keep in (is_target == of_target, ~is_target | of_target)
        )
        for split, count in enumerate(counts):
            splits += [split] * count
            for number in rng.integers(1, 4, count):
                drawn = rng.choice(len(ontology), number - 1, p=others)
                events.append([rng.choice(len(ontology), p=first), *drawn])
    precise = np.zeros((len(events), len(ontology)), bool)
    for row, numbers in enumerate(events):
        precise[row, numbers] = True
    mixture = rng.standard_normal((NUM_FEATURES, NUM_FEATURES)) / math.sqrt(NUM_FEATURES)
    features = np.tanh(sizes.mixing * (precise @ vectors @ mixture))
    features += sizes.noise * rng.standard_normal(features.shape)
    truth = relabel(precise, ontology, "pel")[0]
    ids = [f"{seed} {row}" for row in range(len(events))]
    return Clips(
        features=features.astype(np.float32),
        truth=truth,
        original=raters.rate(truth, ids, ontology, habits, seed),
        splits=np.array(splits, np.int8),
    )


def train(
    network: nn.Module, loss: Any, inputs: np.ndarray, views: Sequence[View], epochs: int, seed: int
) -> Any:
    """Trains a network for each view, by Adam with the paper's schedule.

    Args:
      network: the network of all views.
      loss: a masked loss of the package.
      inputs: float32[views, clips, features].
      views: views with the same rows and columns.
      epochs: passes over the clips.
      seed: seed of the weights and of the order of the clips.

    Returns:
      The variables with a leading axis [views].
    """
    labels = np.stack([view.labels["train"] for view in views])
    masked = np.stack([view.masked["train"] for view in views])
    num_clips = labels.shape[1]
    steps = -(-num_clips // BATCH_SIZE)
    optimizer = optax.adam(optax.exponential_decay(0.001, steps, 0.987, staircase=True))

    def step(carry, rows, inputs, labels, masked):
        (params, others), state = carry

        def value(params):
            outputs, updated = network.apply(
                {"params": params, **others}, inputs[rows], train=True, mutable=list(others)
            )
            return loss(outputs, labels[rows], masked[rows], None), updated

        gradients, others = jax.grad(value, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        return ((optax.apply_updates(params, updates), others), state), None

    @jax.jit
    def train_all(inputs, labels, masked):
        def train_one(of_view):
            inputs, labels, masked = of_view
            variables = network.init(jax.random.key(seed), inputs[:1], train=False)
            params = variables["params"]
            others = {name: each for name, each in variables.items() if name != "params"}

            def epoch(carry, key):
                order = jax.random.permutation(key, num_clips)
                order = jnp.resize(order, steps * BATCH_SIZE).reshape(steps, BATCH_SIZE)
                return jax.lax.scan(
                    lambda carry, rows: step(carry, rows, inputs, labels, masked), carry, order
                )

            start = ((params, others), optimizer.init(params))
            keys = jax.random.split(jax.random.key(seed + 1), epochs)
            ((params, others), _), _ = jax.lax.scan(epoch, start, keys)
            return {"params": params, **others}

        return jax.lax.map(train_one, (inputs, labels, masked))

    return train_all(inputs, labels, masked)


def measure(
    ontology: Ontology, habits: Habits, flags: argparse.Namespace, root: int, seed: int
) -> Measured:
    """Trains and tests all labelings for one draw of everything."""
    clips = draw_clips(ontology, habits, flags, root, seed)
    bases = (*flags.labelings, TRUTH)
    loss = LOSSES[flags.loss]
    base_views = [clips.view(ontology, root, "base", labeling) for labeling in bases]
    base = Base(len(base_views[0].columns))
    features = clips.features[base_views[0].rows["train"]]
    features = np.broadcast_to(features, (len(bases), *features.shape))
    variables = train(base, loss, features, base_views, flags.num_epochs, seed)
    embed = jax.vmap(functools.partial(base.apply, train=False, method="embed"), (0, None))
    values = np.zeros((len(bases), len(TARGETS)))
    replicates = np.zeros((*values.shape, NUM_REPLICATES))
    for number, labeling in enumerate(TARGETS):
        view = clips.view(ontology, root, "target", labeling)
        head = EmbeddingClassifier(len(view.columns))
        inputs = {split: embed(variables, clips.features[view.rows[split]]) for split in SPLITS}
        views = [view] * len(bases)
        heads = train(head, loss, inputs["train"], views, flags.target_epochs, seed + 2)
        outputs = jax.vmap(functools.partial(head.apply, train=False))(heads, inputs["test"])
        truth = clips.truth[np.ix_(view.rows["test"], view.columns)]
        nothing = np.zeros_like(truth)
        for of_base, scores in enumerate(np.asarray(outputs.scores)):
            values[of_base, number] = evaluate(scores, truth, nothing).mean_average_precision
            replicates[of_base, number] = bootstrap_map(
                scores, truth, nothing, num_replicates=NUM_REPLICATES
            )
    return Measured(values, replicates)
