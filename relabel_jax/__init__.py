"""relabel_jax: AudioSet re-labelled by its ontology, and the proof by transfer learning, in JAX."""

from typing import Any

from relabel_jax.version import __version__

__all__ = ["Embedder", "__version__"]


def __getattr__(name: str) -> Any:
    # Embedder imports JAX, which users of the labelings alone should not wait for.
    if name == "Embedder":
        from relabel_jax.inference.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
