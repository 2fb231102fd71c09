"""Data protocol and metrics: how well people are identified, measured."""
