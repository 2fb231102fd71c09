"""Checkpoint families of other programs, and how their weights are renamed."""
