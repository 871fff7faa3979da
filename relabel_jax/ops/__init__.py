"""The convolution family, sums over a divided batch, and the devices of a CPU."""
