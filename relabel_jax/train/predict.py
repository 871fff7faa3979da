"""Computes the outputs of a network in evaluation mode for all clips of a split."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from relabel_jax.data.pipeline import ReadInputs
from relabel_jax.models.backbone import Network
from relabel_jax.train.population import Layout, predict_population, stack_members
from relabel_jax.train.resident import input_chunks
from relabel_jax.train.rows import Rows


def predict(
    network: Network,
    members: Sequence[dict[str, Any]],
    read_inputs: ReadInputs,
    num_clips: int,
    *,
    batch_size: int,
    batches_per_call: int,
    method: str = "scores",
    members_by: str = "auto",
    population: int = 0,
) -> np.ndarray:
    """Computes scores or embeddings of clips 0 to `num_clips` - 1 with each member's variables.

    Args:
      network: a backbone, or a classifier on embeddings.
      members: each member's variables, on the host.
      read_inputs: reads the inputs [n, ...] of clips int64[n].
      num_clips: the number of clips.
      batch_size: clips a batch.
      batches_per_call: batches in one program on the device.
      method: `scores` or `embed`.
      members_by, population: see `Layout.of`.

    Returns:
      float32[members, num_clips, outputs].
    """
    layout = Layout.of(len(members), batch_size, members_by, population)
    return begin_predict(
        network,
        layout.put(stack_members(members), "member"),
        read_inputs,
        num_clips,
        layout=layout,
        resident=None,
        batch_size=batch_size,
        batches_per_call=batches_per_call,
        method=method,
    )()


def begin_predict(
    network: Network,
    variables: dict[str, Any],
    read_inputs: ReadInputs,
    num_clips: int,
    *,
    layout: Layout,
    resident: Rows | None,
    batch_size: int,
    batches_per_call: int,
    method: str = "scores",
    after_chunk: Callable[[], None] = lambda: None,
) -> Callable[[], np.ndarray]:
    """Does the same as `predict`, but does not wait for the last chunk.

    Args:
      variables: the members' variables on the devices, with a leading axis [members].
      layout: the layout of members and batches on the devices.
      resident: the clips on the devices; None if inputs are streamed.
      after_chunk: called after each chunk is sent to the devices; it may raise.
      network, read_inputs, num_clips, batch_size, batches_per_call, method: see `predict`.

    Returns:
      A function that waits for the last chunk and returns the result of `predict`.
    """
    clips = np.arange(num_clips)
    clips = np.pad(clips, (0, -num_clips % batch_size), mode="edge")  # whole batches
    fetched: list[np.ndarray] = []
    running: list[jax.Array] = []

    def fetch() -> None:
        outputs = jax.device_get(running.pop(0))
        fetched.append(outputs.reshape(len(outputs), -1, outputs.shape[-1]))

    for inputs, num_batches in input_chunks(
        read_inputs, clips, batch_size, batches_per_call, layout, resident
    ):
        running.append(
            predict_population(
                network,
                layout,
                method,
                variables,
                resident,
                inputs,
                layout.put(np.int32(num_batches)),
            )
        )
        if len(running) > 1:
            fetch()
        after_chunk()

    def outputs() -> np.ndarray:
        while running:
            fetch()
        return np.concatenate(fetched, axis=1)[:, :num_clips]

    return outputs
