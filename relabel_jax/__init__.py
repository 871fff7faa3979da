"""Re-labels AudioSet by its ontology, and measures by transfer learning what that is worth."""

from relabel_jax import interrupts

interrupts.begin()  # before the other imports, which Ctrl-C may interrupt

from typing import Any  # noqa: E402

from relabel_jax.version import __version__  # noqa: E402

__all__ = ["Embedder", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported late: it loads JAX, which users of the labels alone need not wait for.
    if name == "Embedder":
        from relabel_jax.inference.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
