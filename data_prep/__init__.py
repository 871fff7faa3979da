"""Run once: metadata and recordings in, a data set that relabel_jax trains on out."""
