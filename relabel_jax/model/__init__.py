"""The network of Table II: its convolutions, and the network itself."""
