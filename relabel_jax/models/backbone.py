"""The protocol of a network: all that training, transfer, embedding and export know about it.

A network is a `flax.linen.Module` with the attributes and methods of `Backbone`. It does not
inherit from this package. For each optional member there is a function here that reads it, so a
network without that member needs no stub.
"""

from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

from relabel_jax.audio.waveform_format import WaveformFormat


class Outputs(NamedTuple):
    """The outputs of a network for a batch.

    Attributes:
      scores: float32[batch, classes] in [0, 1].
      logits: float32[batch, classes]; the scores are their sigmoid. None for a network without
        logits. A loss on logits uses these if there are any.
    """

    scores: jax.Array
    logits: jax.Array | None = None

    @classmethod
    def of_logits(cls, logits: jax.Array) -> "Outputs":
        """The outputs of a network with one independent sigmoid a class."""
        return cls(nn.sigmoid(logits), logits)


class Backbone(Protocol):
    """A network from waveforms to an embedding, and a head from the embedding to scores.

    `num_classes` is a constructor argument; every other field of the module is an option that
    `config.model` can set. The parameters that depend on `num_classes` are the output layer:
    fine-tuning replaces them, and an embedding must not depend on them.

    Optional members:

    - `axis_name: str | None = None`, a field: the mesh axis of the devices that share a batch. A
      network that normalizes by statistics of the batch must have it and sum over that axis.
    - `batch_stats`, a Flax collection of running statistics.
    - `random_streams: tuple[str, ...]`, the Flax streams that training needs, such as "dropout".
    - `buffers(waveforms)`, a Flax collection `buffers` for training on such a batch: arrays that
      each step overwrites (`ops/buffers.py`).
    - `from_config(num_classes, **options)`, a class method that builds the network after it has
      resolved options such as "auto". Without it the class itself is called.
    - `for_export()`, the network in the form that other frameworks run best.
    - `export_facts()`, a dict for the `config.json` of an export: sizes that a reader in another
      framework needs.
    - `description: str`, a sentence about the network for the model card of an export.
    - `pytorch_example: str`, the name of a file beside the network's module: a Python program that
      runs an export of the network in PyTorch. An export contains a copy of it.
    - `precision: str`, a field: the arithmetic of the network, recorded in results.
    """

    num_classes: int

    # Every `flax.linen.Module` has these:
    def init(self, *args: Any, **kwargs: Any) -> Any: ...
    def apply(self, *args: Any, **kwargs: Any) -> Any: ...
    def clone(self, **kwargs: Any) -> Any: ...
    def __hash__(self) -> int: ...

    @property
    def waveform_format(self) -> WaveformFormat:
        """The sample rate and length of the waveforms that the network takes."""

    @property
    def embedding_size(self) -> int:
        """The number of values in an embedding."""

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for int16[batch, samples], or a float array in int16's scale.

        An export traces the network for batches of any size. `waveforms.shape[0]` is then a symbol,
        and `len(waveforms)` fails.

        With `train` the network normalizes by the batch and uses its random streams.
        """

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The embeddings, float32[batch, embedding_size]."""

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size]."""


Network = Backbone | nn.Module
"""A backbone, or a classifier on embeddings (`heads.py`)."""


def random_streams(network: Network) -> tuple[str, ...]:
    """The Flax streams that a network needs in training."""
    return getattr(network, "random_streams", ())


def buffers(network: Network, inputs: Any) -> dict[str, Any]:
    """The collection `buffers` for training on a batch like `inputs`; {} if the network has none.

    Args:
      inputs: the batch, or its shape and dtype.
    """
    return network.buffers(inputs) if hasattr(network, "buffers") else {}


def sums_over_devices(network: Network) -> bool:
    """Whether a network can normalize by the statistics of a batch that devices share."""
    return hasattr(network, "axis_name")


def divided(network: Network, axis_name: str) -> Any:
    """The network for devices that share a batch along a mesh axis."""
    return network.clone(axis_name=axis_name) if sums_over_devices(network) else network


def exportable(network: Network) -> Any:
    """The network in the form that other frameworks run best."""
    return network.for_export() if hasattr(network, "for_export") else network


def export_facts(network: Network) -> dict[str, Any]:
    """The facts about the network, besides its options, in the `config.json` of an export."""
    return network.export_facts() if hasattr(network, "export_facts") else {}
