"""Measures the train step on this machine: `python -m relabel_jax.benchmark`."""
