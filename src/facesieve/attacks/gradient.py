"""Gradient attacks: FGSM and PGD, in the maximum norm and in L2, on all pixels or under a mask.

Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015; Madry et al.,
"Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from facesieve.attacks import ATTACKS, Attack, Budget, Goal
from facesieve.attacks.objectives import Objective
from facesieve.errors import SettingError

# The published attack: the step is larger than eps, so that every pixel sits on the border of the ball.
PUBLISHED: dict[str, float] = {"eps": 0.5 / 255, "step": 2 / 255, "iterations": 40}

SMALL = 1e-12  # a length below which a gradient has no direction


def fgsm(objective: Objective, images: Tensor, *, eps: float, mask: Tensor | None = None) -> Tensor:
    """One step to the corner of the L-inf ball of radius ``eps`` where a linear objective is highest.

    ``images`` (B, 3, H, W) in [0, 1]; ``mask`` (1, H, W) or (B, 1, H, W) in {0, 1}, where pixels may
    change. Returns such images, inside ball and range. Raises ``SettingError`` for ``eps`` that is not above 0.
    """
    return pgd(objective, images, eps=eps, step=eps, iterations=1, mask=mask)


def pgd(
    objective: Objective,
    images: Tensor,
    *,
    eps: float | Tensor,
    step: float | Tensor,
    iterations: int,
    seeds: Sequence[int] | None = None,
    mask: Tensor | None = None,
    last_step: float | Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent in the L-inf ball of radius ``eps`` around ``images`` (B, 3, H, W) in [0, 1].

    Radius and steps are one number each, or one for each image, (B, 1, 1, 1). Steps fall evenly from ``step`` to
    ``last_step``, if one is given.
    ``seeds``, one per image, start each at a uniformly drawn place in its ball; None starts at the images. Each
    image's result is the one that it gets alone. ``mask`` (1, H, W) or (B, 1, H, W) in {0, 1} says
    where pixels may change: a patch, with ``eps`` 1. The result is inside the ball and [0, 1], exactly:
    no value, as it is stored, is further than ``eps`` from the image's. Raises ``SettingError`` for
    settings that make no ball.
    """
    _check(images, eps, step, iterations, seeds, last_step)
    low, high = box(images, eps)

    def project(x: Tensor) -> Tensor:
        return torch.min(torch.max(x, low), high)

    start = images if seeds is None else images + eps * (2 * _uniform(images, seeds) - 1)
    return _ascend(objective, images, start, torch.sign, project, _lengths(step, last_step, iterations), mask)


def pgd_l2(
    objective: Objective,
    images: Tensor,
    *,
    eps: float,
    step: float,
    iterations: int,
    seeds: Sequence[int] | None = None,
    mask: Tensor | None = None,
    last_step: float | None = None,
) -> Tensor:
    """Projected gradient ascent in the L2 ball of radius ``eps`` around each image, by steps of length ``step``.

    Otherwise as ``pgd``. The range [0, 1] is applied after the ball: that can only shorten a perturbation.
    """
    _check(images, eps, step, iterations, seeds, last_step)

    def project(x: Tensor) -> Tensor:
        return project_l2(images, x, eps)

    def ascent(slope: Tensor) -> Tensor:
        return slope / _length(slope).clamp(min=SMALL)

    start = images
    if seeds is not None:  # a random direction, a random part of the radius
        draws = 2 * _uniform(images, seeds) - 1
        part = draws.flatten(1)[:, :1].abs()[:, :, None, None]
        start = images + eps * part * draws / _length(draws).clamp(min=SMALL)
    return _ascend(objective, images, start, ascent, project, _lengths(step, last_step, iterations), mask)


def project_l2(images: Tensor, x: Tensor, eps: float) -> Tensor:
    """``x`` brought into the L2 ball of radius ``eps`` around ``images``, then into [0, 1]; both (B, 3, H, W)."""
    # Every value is rounded by up to a quarter of its type's eps when it is added: that must not leave the ball.
    radius = max(eps - math.sqrt(images[0].numel()) * torch.finfo(images.dtype).eps / 4, eps / 2)
    change = x - images
    return (images + change * (radius / _length(change).clamp(min=SMALL)).clamp(max=1)).clamp(0, 1)


def _ascend(
    objective: Objective,
    images: Tensor,
    start: Tensor,
    ascent: Callable[[Tensor], Tensor],
    project: Callable[[Tensor], Tensor],
    lengths: Sequence[float | Tensor],
    mask: Tensor | None,
) -> Tensor:
    free = torch.ones_like(images, dtype=torch.bool) if mask is None else (mask != 0).expand_as(images)
    x = torch.where(free, project(start), images)
    for length in lengths:
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(x).sum(), x)
        x = torch.where(free, project(x.detach() + length * ascent(torch.where(free, slope, 0.0))), images)
    return x.detach()


def box(images: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor]:
    """The corners of ball and range; rounding outwards is taken back: ``|x - image| <= eps`` as numbers are stored."""
    radius = torch.as_tensor(eps, dtype=images.dtype)
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    low = torch.where(images - low > radius, torch.nextafter(low, images), low)
    high = torch.where(high - images > radius, torch.nextafter(high, images), high)
    return low, high


def _uniform(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Uniform draws in [0, 1), for each image from its own seed; drawn on the CPU, the same for every device."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = [torch.rand(images.shape[1:], generator=generator, dtype=images.dtype) for generator in generators]
    return torch.stack(draws).to(images.device)


def _length(images: Tensor) -> Tensor:
    length: Tensor = images.flatten(1).norm(dim=1)
    return length[:, None, None, None]


def _lengths(first: float | Tensor, last: float | Tensor | None, steps: int) -> list[float | Tensor]:
    """Of each step, falling evenly from the first to the last."""
    if last is None or steps == 1:
        return [first] * steps
    return [first + (last - first) * step / (steps - 1) for step in range(steps)]


def _check(
    images: Tensor,
    eps: float | Tensor,
    step: float | Tensor,
    iterations: int,
    seeds: Sequence[int] | None,
    last_step: float | Tensor | None,
) -> None:
    if iterations < 1 or not all(
        bool((torch.as_tensor(size) > 0).all()) for size in (eps, step, 1.0 if last_step is None else last_step)
    ):
        raise SettingError(f"eps {eps}, step {step} and iterations {iterations} must be above 0, and so must the last step")
    if images.dim() != 4 or (seeds is not None and len(seeds) != len(images)):
        given = "no" if seeds is None else len(seeds)
        raise SettingError(f"{given} seeds for images of shape {tuple(images.shape)}: one per (3, H, W) image is needed")


# --- by name -----------------------------------------------------------------------------------------


def _fgsm(goal: Goal, images: Tensor, budget: Budget, _: Sequence[int]) -> Tensor:
    return fgsm(goal.objective, images, eps=budget.eps)


def _projected(attack: Callable[..., Tensor], goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    starts = seeds if budget.random_start else None
    settings = {"eps": budget.eps, "step": budget.step, "last_step": budget.last_step, "iterations": budget.iterations}
    return attack(goal.objective, images, **settings, seeds=starts)


ATTACKS.register("fgsm", Attack("fgsm", "linf", needs_gradient=True, sees_defence=True, craft=_fgsm))
ATTACKS.register("pgd", Attack("pgd", "linf", needs_gradient=True, sees_defence=True, craft=partial(_projected, pgd)))
ATTACKS.register("pgd-l2", Attack("pgd-l2", "l2", needs_gradient=True, sees_defence=True, craft=partial(_projected, pgd_l2)))
