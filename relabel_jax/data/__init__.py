"""The data set on disk: its files and records, and how batches are read from it."""
