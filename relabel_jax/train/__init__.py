"""Training: the step of one member, the loop over epochs, checkpoints and metrics."""
