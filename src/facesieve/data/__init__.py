"""Labelled photographs: sources, and which of them an experiment takes."""
