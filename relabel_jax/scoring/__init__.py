"""Scores of any network on AudioSet's clips, measured under every labeling. Needs no JAX."""
