"""Recordings in any format to mono waveforms of one sample rate and length."""
