"""Attacks: functions that change images within a ball so that an objective rises.

An attack is ``attack(objective, images, eps=..., ...) -> images``; its goal is an object apart from it
(``objectives``). Threat models are composition: the oblivious attacker's objective is over an embedder,
the white-box attacker's over the embedder behind the purifier.
"""
