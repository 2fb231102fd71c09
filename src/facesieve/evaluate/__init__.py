"""Evaluation: attacks and defences run against a recogniser, and what is measured."""
