"""Classifiers that take embeddings instead of waveforms."""

import jax
from flax import linen as nn

from relabel_jax.models.backbone import Outputs
from relabel_jax.models.waveform_cnn import Dense
from relabel_jax.ops.normalization import ActivationAndNorm, Activations


class EmbeddingClassifier(nn.Module):
    """The paper's classifier on frozen embeddings: a dense layer with ELU and batch normalization,
    and a dense output layer. All of it is computed in float32.

    Attributes:
      num_classes: outputs, one sigmoid each.
      hidden_units: units of the hidden layer.
      norm_order: "elu_bn" or "bn_elu".
      axis_name: the mesh axis of the devices that share a batch, if several do (`batch_axis.py`).
    """

    num_classes: int
    hidden_units: int = 256
    norm_order: str = "elu_bn"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, embeddings: jax.Array, train: bool) -> Outputs:
        """The outputs for float32[batch, embedding_size]."""
        layer = Dense(self.hidden_units)(Activations(embeddings))
        norm = ActivationAndNorm(self.norm_order, axis_name=self.axis_name)
        hidden = norm(layer, train)
        return Outputs.of_logits(Dense(self.num_classes, name="output")(hidden).sums())
