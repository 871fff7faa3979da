"""The data set on disk, and the way from it to batches."""
