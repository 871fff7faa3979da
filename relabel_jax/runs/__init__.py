"""Run folders: their files, checkpoints, and the one process that writes them."""
