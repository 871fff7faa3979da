"""relabel_jax: AudioSet re-labelled by its ontology, and the proof by transfer learning, in JAX."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # `relabel_jax.Embedder` loads JAX; who imports only the labelings does not wait for it.
    if name == "Embedder":
        from relabel_jax.inference.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
