"""The record of an evaluation, and the pages that are made from it."""
