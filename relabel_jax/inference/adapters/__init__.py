"""Trained networks behind the interfaces of other libraries."""
