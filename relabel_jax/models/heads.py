"""Classifiers that take embeddings instead of waveforms."""

import jax
from flax import linen as nn

from relabel_jax.models.backbone import Outputs
from relabel_jax.ops.layers import Hidden, KernelAndBias, dense, dense_elu_norm
from relabel_jax.ops.normalization import Normalization


class EmbeddingClassifier(nn.Module):
    """The paper's classifier on frozen embeddings: one hidden layer, and one sigmoid per class.

    It computes in float32.

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
        """The outputs for float32[batch, embedding_size], float32[batch, num_classes]."""
        # Checkpoints have the variables under these names.
        norm = Normalization(self.norm_order, axis_name=self.axis_name, name="ActivationAndNorm_0")
        weights = KernelAndBias(self.hidden_units, name="Dense_0")(embeddings.shape[-1])
        hidden = dense_elu_norm(Hidden(embeddings), weights, norm, train=train)
        weights = KernelAndBias(self.num_classes, name="output")(hidden.channels)
        return Outputs.of_logits(dense(hidden, weights))
