"""An attacker who wants two things at once: that an objective succeeds, and that a second score stays low.

As Carlini and Wagner do with the length of a perturbation (2017), the sum ``objective - c * score`` is attacked, and ``c`` is
found for each image by bisection: the largest with which the objective still succeeds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from facesieve.attacks.objectives import Objective

Parts = Callable[[Tensor], tuple[Tensor, Tensor]]  # images (B, 3, H, W) -> objective (B,), above 0 a success; score (B,)

GROWTH = 4.0  # of a weight that is not too large yet


def jointly(attack: Callable[[Objective], Tensor], parts: Parts, *, rounds: int, first: float = 10.0) -> Tensor:
    """The images (B, 3, H, W) with the lowest score of those whose objective is above 0.

    ``attack(objective)`` makes images; it is asked once with the objective alone, then ``rounds`` times with a weight of the
    score for each image, ``first`` to begin with. Where no weight brings a success, the images of the objective alone are kept.
    """
    best = attack(lambda images: parts(images)[0])
    with torch.no_grad():
        won, lowest = parts(best)
    lowest = torch.where(won > 0, lowest, torch.inf)
    low, high = torch.zeros_like(won), torch.full_like(won, torch.inf)
    weight = torch.full_like(won, first)
    for _ in range(rounds):

        def objective(images: Tensor, weight: Tensor = weight) -> Tensor:
            margin, score = parts(images)
            return margin - weight * score

        made = attack(objective)
        with torch.no_grad():
            won, score = parts(made)
        success = won > 0
        better = success & (score < lowest)
        best = torch.where(better[:, None, None, None], made, best)
        lowest = torch.where(better, score, lowest)
        low, high = torch.where(success, weight, low), torch.where(success, high, weight)
        weight = torch.where(torch.isinf(high), GROWTH * weight, (low + high) / 2)
    return best
