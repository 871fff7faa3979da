"""Training: a pure step of one member, the loop around it, checkpoints and metrics."""
