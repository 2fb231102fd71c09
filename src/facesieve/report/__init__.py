"""The record of an evaluation, and the pages made from it."""
