"""Run once: metadata and recordings in, a data set that relabel_jax trains on out."""

import relabel_jax  # noqa: F401  (prepares Ctrl-C before a command imports what takes long)
