"""Attacks: functions that change images within a ball so that an objective rises.

An attack is ``attack(objective, images, eps=..., ...) -> images``; its goal is a separate object
(``objectives``). Threat models are composition: the oblivious attacker's objective is over an embedder,
the white-box attacker's over the embedder behind the purifier. ``ATTACKS`` holds those that an
experiment can name, each with what it needs and sees; a file of this room registers what it adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from facesieve.attacks.objectives import Objective, Scores
from facesieve.registry import Registry

Norm = Literal["linf", "l2"]


@dataclass(frozen=True, eq=False)
class Goal:
    """That a batch is given a wrong name: ``scores`` (B, C) that a softmax makes sense of, whom it shows, what is to rise."""

    scores: Scores
    labels: Tensor  # (B,)
    objective: Objective  # over the scores


@dataclass(frozen=True)
class Budget:
    """What an attacker may spend; images in [0, 1]."""

    eps: float  # radius of the ball, in the attack's norm
    step: float  # length of a step, in the same norm
    iterations: int  # or queries
    random_start: bool = True
    last_step: float | None = None  # length of the last step, to which the first falls evenly; None: all are equal


Craft = Callable[[Goal, Tensor, Budget, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Attack:
    """One attack by name.

    ``craft(goal, images, budget, seeds)`` takes images (B, 3, H, W) in [0, 1] and returns such images, inside ball
    and range; image ``i`` depends on its pixels, its label and ``seeds[i]`` alone, not on the batch. It may raise
    ``MissingExtraError`` where its library is not installed. One that is ``alone`` has a goal of its own, ignores the
    ``objective``, and is handed one image at a time where scores draw noise.
    """

    name: str
    norm: Norm
    needs_gradient: bool  # False: sees only scores
    sees_defence: bool  # whether its scores can be those behind a defence that draws noise
    craft: Craft
    alone: bool = False  # of a library that decides over a whole batch


ATTACKS: Registry[Attack] = Registry("attack", "facesieve.attacks")

__all__ = ["ATTACKS", "Attack", "Budget", "Craft", "Goal", "Norm"]
