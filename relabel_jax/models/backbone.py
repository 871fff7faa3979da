"""What training, transfer, embedding and export may know of a network: a protocol, not a class.

A network is a `flax.linen.Module` with the attributes and methods of `Backbone`. It inherits
nothing from this package. Whatever is optional has a function here that reads it, so that a network
without it needs no stub.
"""

from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax

from relabel_jax.audio.waveform_format import WaveformFormat


class Outputs(NamedTuple):
    """What a network says of a batch.

    Attributes:
      scores: float32[batch, classes] in [0, 1].
      logits: float32[batch, classes] whose sigmoid the scores are; None for a network that has
        none. A loss on logits is computed from these where there are any.
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

    - `axis_name: str | None = None`, a field. Devices that share a batch are named by it. A network
      that normalizes by statistics of the batch must have it and sum over that axis.
    - `batch_stats`, a Flax collection of running statistics. Networks without one work too.
    - `random_streams: tuple[str, ...]`, the Flax streams that training needs, such as "dropout".
    - `buffers(waveforms)`, a Flax collection `buffers` for training on such a batch: arrays that a
      step writes to and leaves for the next step (`ops/buffers.py`).
    - `from_config(num_classes, **options)`, a class method that builds the network where options
      such as "auto" must be resolved first. Without it the class itself is called.
    - `for_export()`, the network in the form that other frameworks can run best.
    - `export_facts()`, a dict for the `config.json` of an export: sizes that a reader in another
      framework needs.
    - `description: str`, a sentence about the network for the model card of an export.
    - `pytorch_example: str`, the name of a file beside the network's module: a Python program that
      runs an export of the network in PyTorch. An export has a copy of it.
    - `precision: str`, a field: the arithmetic of the network, noted in results.
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
        """Values of an embedding."""

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for int16[batch, samples]. Float arrays of int16's scale are taken too.

        An export traces the network for batches of any size: `waveforms.shape[0]` is then a symbol,
        for which `len(waveforms)` fails.

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
    """The collection `buffers` for training on a batch like `inputs`, {} if the network has none.

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
    """The network in the form that other frameworks can run best."""
    return network.for_export() if hasattr(network, "for_export") else network


def export_facts(network: Network) -> dict[str, Any]:
    """What the `config.json` of an export says of the network beside its options."""
    return network.export_facts() if hasattr(network, "export_facts") else {}
