"""From a config to results: one run, a transfer, a grid of runs."""
