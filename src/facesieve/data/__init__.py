"""Labelled photographs: sources, and the selection that an experiment uses."""
