"""A loss that only the label study has, because it needs the ontology."""

import jax
import jax.numpy as jnp
import numpy as np

from relabel_jax.labels.ontology import Ontology
from relabel_jax.models.backbone import Outputs
from relabel_jax.train.losses import Loss, masked_binary_cross_entropy


def max_constraint(ontology: Ontology, columns: np.ndarray) -> Loss:
    """Returns the loss of C-HMCNN for some classes.

    The score of a class is the largest score among the class and its descendants. For a present
    class, only the present ones count: another descendant must not learn from it (MCLoss of
    E. Giunchiglia and T. Lukasiewicz, Coherent hierarchical multi-label classification networks,
    2020). The rest is the masked cross-entropy. A masked class has no part in the scores of its
    ancestors.

    The labels are bool and must have all ancestors, as those of PEL do. Otherwise the parent's 0
    would contradict the child's 1.

    Args:
      ontology: the ontology of the classes.
      columns: int64[classes], their numbers in the ontology.
    """
    contains = np.array(
        [[a == b or a in ontology.ancestor_sets[b] for b in columns] for a in columns]
    )

    def largest(scores: jax.Array) -> jax.Array:
        return jnp.where(contains, scores[:, None, :], 0.0).max(axis=-1)

    def loss(
        outputs: Outputs, labels: jax.Array, masked: jax.Array, axis_name: str | None = None
    ) -> jax.Array:
        known = jnp.where(masked, 0.0, outputs.scores)
        scores = jnp.where(labels, largest(known * labels), largest(known))
        return masked_binary_cross_entropy(Outputs(scores), labels, masked, axis_name)

    return loss
