"""Recordings in any format to waveforms as a data set stores them."""
