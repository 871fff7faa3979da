"""relabel_jax: AudioSet re-labelled by its ontology, and the proof by transfer learning, in JAX."""

__version__ = "0.1.0"
