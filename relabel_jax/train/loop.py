"""The loop around the train step: epochs, validation, checkpoints, `metrics.jsonl`.

A run may be killed at any moment. Started again it goes on after the last epoch whose checkpoint
is complete, and ends with the same numbers: the order of the clips follows from seed and epoch, all
else that training changes is in the checkpoint.
"""

import dataclasses
import json
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from relabel_jax.errors import InputError
from relabel_jax.files import complete_file
from relabel_jax.pipeline import epoch_order, read_chunks, to_batches
from relabel_jax.train.checkpoint import Checkpoints
from relabel_jax.train.metrics import evaluate
from relabel_jax.train.step import Recipe, TrainState, init_state, predict_chunk, train_chunk
from relabel_jax.views import View

_LOG = logging.getLogger(__name__)
Inputs = Callable[[str, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """Everything that determines one run.

    Attributes:
      network: maps (inputs, train) to scores.
      variables: its `params` and `batch_stats` before the first step.
      inputs: (split, int64[n] clips of the split) -> [n, ...].
      view: clips, labels and masks.
      seed: of the clips' order.
      batch_size: clips a step. An epoch is `train clips // batch_size` steps; the clips left over
        differ from epoch to epoch.
      num_epochs: epochs in all.
      learning_rate, learning_rate_decay: of Adam; the decay is applied after each epoch.
      steps_per_call: steps in one program on the device.
    """

    network: nn.Module
    variables: dict[str, Any]
    inputs: Inputs
    view: View
    seed: int
    batch_size: int
    num_epochs: int
    learning_rate: float
    learning_rate_decay: float
    steps_per_call: int


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The best epoch by validation mAP (of equals the first; 1 is the first) and its variables."""

    best_epoch: int
    variables: dict[str, Any]


def train(training: Training, workdir: pathlib.Path) -> Trained:
    """Trains, or goes on training, under `workdir`, and returns the best epoch's network.

    Raises:
      InputError: there are fewer training clips than a batch, nothing to validate on, the devices
        do not divide the batch, or the loss is not finite.
    """
    view = training.view
    num_clips = len(view.rows["train"])
    if num_clips < training.batch_size:
        raise InputError(
            f"{num_clips} training clips are fewer than a batch; set config.batch_size to at most "
            f"{num_clips} or use more data"
        )
    if not (view.labels["validation"] & ~view.masked["validation"]).any():
        raise InputError(
            f"none of the {len(view.rows['validation'])} validation clips has a label of the label "
            "set, so no epoch could be chosen as the best; use more data or other --splits"
        )
    recipe = Recipe(
        training.learning_rate, training.learning_rate_decay, num_clips // training.batch_size
    )
    replicated, batched = _shardings(training.batch_size)
    state = jax.device_put(init_state(training.variables, recipe), replicated)
    metrics_path = workdir / "metrics.jsonl"

    with Checkpoints(workdir) as checkpoints:
        epochs_done = checkpoints.latest or 0
        if epochs_done:
            state = checkpoints.restore(epochs_done, state)
            _LOG.info("going on after epoch %d", epochs_done)
        lines = _keep_epochs(metrics_path, epochs_done)

        for epoch in range(epochs_done + 1, training.num_epochs + 1):
            start = time.perf_counter()
            state, train_loss = _train_epoch(training, recipe, state, epoch, batched)
            train_seconds = time.perf_counter() - start
            if not math.isfinite(train_loss):
                raise InputError(
                    f"epoch {epoch}: the training loss is {train_loss}; the checkpoints before it "
                    "are kept; lower config.learning_rate"
                )
            scores = predict_split(training, state, "validation")
            validation = evaluate(scores, view.labels["validation"], view.masked["validation"])
            line = {
                "epoch": epoch,
                "step": int(state.step),
                "train_loss": train_loss,
                "validation_mAP": validation.mean_average_precision,
                "learning_rate": float(recipe.schedule(int(state.step) - 1)),
                "clips_per_s": recipe.steps_per_epoch * training.batch_size / train_seconds,
                "seconds": time.perf_counter() - start,
            }
            # The line first: an epoch with a checkpoint always has its line, and a line without
            # a checkpoint is dropped when the run goes on.
            _append(metrics_path, line)
            lines.append(line)
            checkpoints.save(epoch, state, validation.mean_average_precision)
            _LOG.info(
                "epoch %d/%d: loss %.5f, validation mAP %.4f, %.1f clips/s, %.1f s",
                epoch,
                training.num_epochs,
                train_loss,
                line["validation_mAP"],
                line["clips_per_s"],
                line["seconds"],
            )

        best_epoch = max(lines, key=lambda line: (line["validation_mAP"], -line["epoch"]))["epoch"]
        best = checkpoints.restore(best_epoch, state)
    return Trained(best_epoch, {"params": best.params, "batch_stats": best.batch_stats})


def predict_split(training: Training, state: TrainState, split: str) -> np.ndarray:
    """Scores of all clips of a split in evaluation mode: float32[split clips, classes]."""
    return predict(
        training.network,
        {"params": state.params, "batch_stats": state.batch_stats},
        lambda clips: training.inputs(split, clips),
        len(training.view.rows[split]),
        batch_size=training.batch_size,
        batches_per_call=training.steps_per_call,
    )


def predict(
    network: nn.Module,
    variables: dict[str, Any],
    read_inputs: Callable[[np.ndarray], np.ndarray],
    num_clips: int,
    *,
    batch_size: int,
    batches_per_call: int,
    method: str = "__call__",
) -> np.ndarray:
    """A network's outputs in evaluation mode for clips 0 to `num_clips` - 1.

    Args:
      network: with `method` mapping (inputs, train) to outputs.
      variables: its `params` and `batch_stats`.
      read_inputs: int64[n] -> [n, ...].
      method: `__call__` for scores or `embed`.

    Returns:
      float32[num_clips, outputs].
    """
    _, batched = _shardings(batch_size)
    outputs = []
    for chunk in read_chunks(read_inputs, np.arange(num_clips), batch_size, batches_per_call):
        chunk_outputs = predict_chunk(
            network, method, variables, jax.device_put(chunk.inputs, batched), chunk.num_batches
        )
        rows = np.asarray(chunk_outputs)
        outputs.append(rows.reshape(-1, rows.shape[-1])[: len(chunk.clips)])
    return np.concatenate(outputs)


def _train_epoch(
    training: Training, recipe: Recipe, state: TrainState, epoch: int, batched: NamedSharding
) -> tuple[TrainState, float]:
    """One epoch; returns the state, its loss sum reset, and the mean loss."""
    view, batch_size = training.view, training.batch_size
    order = epoch_order(training.seed, epoch, len(view.rows["train"]))
    order = order[: recipe.steps_per_epoch * batch_size]
    shape = (batch_size, training.steps_per_call)
    progress = tqdm(
        total=len(order),
        desc=f"epoch {epoch}/{training.num_epochs}",
        unit=" clips",
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    with progress:
        for chunk in read_chunks(lambda clips: training.inputs("train", clips), order, *shape):
            labels = to_batches(view.labels["train"][chunk.clips], *shape)
            masked = to_batches(view.masked["train"][chunk.clips], *shape)
            inputs, labels, masked = jax.device_put((chunk.inputs, labels, masked), batched)
            state = train_chunk(
                training.network, recipe, state, inputs, labels, masked, chunk.num_batches
            )
            progress.update(len(chunk.clips))
    train_loss = float(state.loss_sum) / recipe.steps_per_epoch
    return dataclasses.replace(state, loss_sum=jax.numpy.zeros_like(state.loss_sum)), train_loss


def _shardings(batch_size: int) -> tuple[NamedSharding, NamedSharding]:
    """One copy on every device, and chunks whose batches are divided over the devices."""
    devices = jax.devices()
    if batch_size % len(devices):
        raise InputError(
            f"config.batch_size {batch_size} is not divisible by the {len(devices)} devices; use "
            f"a multiple of {len(devices)}"
        )
    mesh = Mesh(np.array(devices), ("data",))
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data"))


def _keep_epochs(path: pathlib.Path, num_epochs: int) -> list[dict[str, Any]]:
    """Cuts `metrics.jsonl` back to its first epochs and returns their lines."""
    lines = path.read_text().splitlines() if path.exists() else []
    if len(lines) < num_epochs:
        raise InputError(
            f"{path}: has {len(lines)} lines but the checkpoints are of epoch {num_epochs}; "
            "somebody changed it: put it back, or train in a new --workdir"
        )
    kept = [json.loads(line) for line in lines[:num_epochs]]
    with complete_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines[:num_epochs]))
    return kept


def _append(path: pathlib.Path, line: dict[str, Any]) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
