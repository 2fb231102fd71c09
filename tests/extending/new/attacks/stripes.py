"""An attack: the worst of as many random patterns of stripes as there are iterations. It sees scores alone."""

import torch

from facesieve.attacks import ATTACKS, Attack
from facesieve.attacks.gradient import box


def craft(goal, images, budget, seeds):
    low, high = box(images, budget.eps)
    best, found = images, goal.objective(images).detach()
    for turn in range(budget.iterations):
        signs = [torch.randint(2, (1, 1, images.shape[-1]), generator=_generator(seed, turn)) for seed in seeds]
        tried = torch.minimum(torch.maximum(images + budget.eps * (2.0 * torch.stack(signs) - 1), low), high)
        value = goal.objective(tried).detach()
        better = value > found
        best = torch.where(better[:, None, None, None], tried, best)
        found = torch.where(better, value, found)
    return best


def _generator(seed, turn):
    return torch.Generator().manual_seed((seed + turn) % 2**63)


ATTACKS.register("stripes", Attack("stripes", "linf", needs_gradient=False, sees_defence=True, craft=craft))
