"""Masked labels for PyTorch: targets and known classes for a batch, and the loss that uses them.

    labels = LabelTable("labels.npz", classes="META/class_labels_indices.csv")
    for waveforms, clip_ids in loader:  # clip_ids: a tuple of strings
        logits = model(waveforms.to(device))
        targets, known = targets_and_known(labels, clip_ids, device=logits.device)
        loss = masked_bce_with_logits(logits, targets, known)

`python -m data_prep.relabel --format=torch --output=labels.npz` writes the table. PyTorch is
imported by the first call, so that this module can be imported without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from relabel_jax.labels.table import LabelTable

if TYPE_CHECKING:
    import torch

__all__ = ["LabelTable", "collate_fn", "masked_bce_with_logits", "targets_and_known"]


def targets_and_known(
    table: LabelTable,
    clip_ids: Iterable[str],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the labels of a batch.

    Args:
      table: the labels.
      clip_ids: the ids of the batch's clips, under any name that `LabelTable` accepts.
      device: where the tensors go (the CPU by default).
      dtype: their type, float32 by default. `torch.bool` takes a quarter of the memory.

    Returns:
      `(targets, known)`, both [clips, classes]. Where `known` is 0 the truth is unknown: leave
      these entries out of the loss and the metric.

    Raises:
      InputError: as `LabelTable.lookup`.
    """
    import torch

    dtype = torch.float32 if dtype is None else dtype
    targets, known = (torch.from_numpy(each).to(device) for each in table.lookup(clip_ids))
    return targets.to(dtype), known.to(dtype)


def masked_bce_with_logits(
    logits: torch.Tensor, targets: torch.Tensor, known: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy with logits, averaged over the known entries.

    Where everything is known, it is `torch.nn.functional.binary_cross_entropy_with_logits`. Where
    nothing is known, it is 0 with zero gradients. An unknown entry adds nothing to the loss or the
    gradients, even if its logit is not finite.

    Args:
      logits: floating point, [clips, classes] or any other shape.
      targets: bool or numbers from 0 to 1, of the same shape.
      known: bool or 0 and 1, of the same shape.

    Returns:
      A scalar of the logits' dtype. `targets` and `known` are moved to the logits' device.

    Raises:
      ValueError: the shapes differ.
    """
    import torch

    if not logits.shape == targets.shape == known.shape:
        raise ValueError(
            f"expected one shape, got logits {tuple(logits.shape)}, targets "
            f"{tuple(targets.shape)}, known {tuple(known.shape)}"
        )
    known = known.to(logits.device, torch.bool)
    # A loss that is zeroed afterwards would still pass NaN gradients.
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.masked_fill(~known, 0), targets.to(logits), reduction="none"
    )
    # Half precision could neither add up nor count a large batch.
    total = losses.masked_fill(~known, 0).sum(
        dtype=torch.promote_types(losses.dtype, torch.float32)
    )
    return (total / known.sum().clamp(min=1)).to(losses.dtype)


def collate_fn(table: LabelTable, clip_id: int | str = -1) -> Callable[[Sequence[Any]], Any]:
    """Makes a `collate_fn` for `torch.utils.data.DataLoader` that adds the labels to each batch.

    Args:
      table: the labels.
      clip_id: where the clip id is in an item of the data set: the index in a tuple or list, by
        default the last, or the key in a dict.

    Returns:
      A function that collates as PyTorch does by default. It adds `targets` and `known`, both
      bool[clips, classes], at the end of a tuple or list, or under these names to a dict.
    """
    return _Collate(table, clip_id)


class _Collate:
    """A class and not a closure, so that it can be sent to a worker that is spawned."""

    def __init__(self, table: LabelTable, clip_id: int | str):
        self._table, self._clip_id = table, clip_id

    def __call__(self, items: Sequence[Any]) -> Any:
        import torch
        from torch.utils.data import default_collate

        batch = default_collate(items)
        targets, known = targets_and_known(
            self._table, [item[self._clip_id] for item in items], dtype=torch.bool
        )
        if isinstance(batch, Mapping):
            return {**batch, "targets": targets, "known": known}
        return (*batch, targets, known)
