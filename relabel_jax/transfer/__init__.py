"""Transfer: what a trained base gives to the target side."""
