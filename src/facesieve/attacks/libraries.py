"""Attacks of maintained libraries, with the same signature as our own: ``attack(scores, images, labels, ...) -> images``.

AutoAttack and its parts from pyautoattack; those of the Adversarial Robustness Toolbox are in ``toolbox``. Both
draw from torch's global random state and make some decisions over a whole batch. So every image is
attacked separately, from its own seed, and the global state is restored; the result is what the
image gets alone. It is projected into ball and range exactly. All are untargeted, on scores (B, C) that
suit a softmax: logits, or ``objectives.similarities`` with a scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facesieve.attacks import ATTACKS, Attack, Budget, Craft, Goal, Norm
from facesieve.attacks.gradient import box, project_l2
from facesieve.attacks.objectives import Scores
from facesieve.errors import MissingExtraError, SettingError

NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}  # as pyautoattack spells them
TARGETS = 9  # classes that the targeted attacks try, as in AutoAttack
SHORTEST = 10  # gradients of a search that says something
FEWEST = 4  # of two searches, each of which takes one where it starts
QUIET = {"verbose": False}


def apgd_ce(
    scores: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seeds: Sequence[int],
    iterations: int = 100,
    norm: Norm = "linf",
) -> Tensor:
    """APGD on the cross-entropy: Croce and Hein, "Reliable evaluation of adversarial robustness ...", ICML 2020."""

    def tune(attack: Any) -> Any:
        attack.apgd.loss, attack.apgd.n_restarts = "ce", 1
        return _of_length(attack.apgd, iterations)

    return _part(tune, scores, images, labels, eps, seeds, norm)


def apgd_t(
    scores: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seeds: Sequence[int],
    iterations: int = 100,
    norm: Norm = "linf",
) -> Tensor:
    """APGD on the targeted DLR loss, over up to 9 targets (same paper). Raises ``SettingError`` for fewer than 4 people."""

    return _apgd_t(scores, images, labels, eps, seeds, iterations, _targets(scores, images, 4), norm)


def apgd(scores: Scores, images: Tensor, labels: Tensor, *, eps: float, seeds: Sequence[int], gradients: int) -> Tensor:
    """AutoAttack's two APGDs with so many ``gradients`` of an image in all: APGD-CE, then APGD-T on what is left.

    Half for each; APGD-T has ten or more for each target, if there are so many. What another attack is compared with at the
    same cost. Raises ``SettingError`` for fewer than 4 gradients, and as ``apgd_t``.
    """
    half = gradients // 2
    if gradients < FEWEST:
        raise SettingError(f"{gradients} gradients are too few: it takes {FEWEST}")
    targets = max(1, min(_targets(scores, images, 4), (gradients - half) // SHORTEST))

    found = apgd_ce(scores, images, labels, eps=eps, seeds=seeds, iterations=half - 1)  # one more where it starts
    with torch.no_grad():
        left = torch.cat([scores(image).argmax(1) for image in torch.split(found, 1)]) == labels
    if left.any():
        rest = [seed for seed, kept in zip(seeds, left.tolist(), strict=True) if kept]
        iterations = (gradients - half) // targets - 1
        found[left] = _apgd_t(scores, images[left], labels[left], eps, rest, iterations, targets, "linf")
    return found


def fab(
    scores: Scores,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    seeds: Sequence[int],
    iterations: int = 100,
    norm: Norm = "linf",
) -> Tensor:
    """FAB, a smallest perturbation: Croce and Hein, "Minimally distorted Adversarial Examples ...", ICML 2020.

    An image for which it finds none within ``eps`` stays as it is.
    """

    def tune(attack: Any) -> Any:
        attack.fab.targeted, attack.fab.n_iter, attack.fab.n_restarts = False, iterations, 1
        return attack.fab

    return _part(tune, scores, images, labels, eps, seeds, norm)


def square(
    scores: Scores, images: Tensor, labels: Tensor, *, eps: float, seeds: Sequence[int], queries: int = 5000, norm: Norm = "linf"
) -> Tensor:
    """The square attack, by scores alone: Andriushchenko et al., ECCV 2020. At most ``queries`` of the scores per image."""

    def tune(attack: Any) -> Any:
        attack.square.n_queries = queries
        return attack.square

    return _part(tune, scores, images, labels, eps, seeds, norm)


def auto_attack(
    scores: Scores, images: Tensor, labels: Tensor, *, eps: float, seeds: Sequence[int], norm: Norm = "linf"
) -> Tensor:
    """The standard ensemble, APGD-CE, APGD-T, FAB-T and square, each on the images that those before left correct.

    Raises ``SettingError`` for fewer than 4 people.
    """
    targets = _targets(scores, images, 4)

    def one(image: Tensor, label: Tensor, seed: int) -> Tensor:
        attack = _ensemble(scores, eps, norm, seed)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        found: Tensor = attack.run_standard_evaluation(image, label, batch_size=1)[0]
        return found

    return each_alone(one, images, labels, seeds, eps, norm)


def _apgd_t(
    scores: Scores,
    images: Tensor,
    labels: Tensor,
    eps: float,
    seeds: Sequence[int],
    iterations: int,
    targets: int,
    norm: Norm,
) -> Tensor:
    def tune(attack: Any) -> Any:
        attack.apgd_targeted.n_target_classes = targets
        return _of_length(attack.apgd_targeted, iterations)

    return _part(tune, scores, images, labels, eps, seeds, norm)


def _of_length(attack: Any, iterations: int) -> Any:
    """An APGD of so many iterations, after the same parts of which it looks whether to shorten its steps (its section 3)."""
    attack.n_iter = iterations
    attack.n_iter_2, attack.n_iter_min, attack.size_decr = (max(int(part * iterations), 1) for part in (0.22, 0.06, 0.03))
    return attack


def _part(
    tune: Callable[[Any], Any], scores: Scores, images: Tensor, labels: Tensor, eps: float, seeds: Sequence[int], norm: Norm
) -> Tensor:
    """One attack of the ensemble, on every image whether it is named correctly or not."""

    def one(image: Tensor, label: Tensor, seed: int) -> Tensor:
        attack = tune(_ensemble(scores, eps, norm, seed))
        attack.seed = seed
        with torch.no_grad():
            if scores(image).argmax(1) != label:
                return image  # already fooled; these attacks look for nothing better
        found = attack.perturb(image, label)
        return found if isinstance(found, Tensor) else found[0]

    return each_alone(one, images, labels, seeds, eps, norm)


def each_alone(
    one: Callable[[Tensor, Tensor, int], Tensor], images: Tensor, labels: Tensor, seeds: Sequence[int], eps: float, norm: Norm
) -> Tensor:
    """Each image (1, 3, H, W) separately, and the results in ball and range."""
    if eps <= 0 or len(seeds) != len(images):
        raise SettingError(f"eps {eps} must be above 0, and {len(seeds)} seeds for {len(images)} images must be one each")
    parts = []
    state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            for image, label, seed in zip(torch.split(images.detach(), 1), torch.split(labels, 1), seeds, strict=True):
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
                parts.append(one(image.clone(), label, seed).detach().to(images.dtype))
    finally:
        np.random.set_state(state)
    found = torch.cat(parts)
    if norm == "l2":
        return project_l2(images, found, eps)
    low, high = box(images, eps)
    return torch.min(torch.max(found, low), high)


class ScoresModule(nn.Module):
    """Scores as the module that the libraries ask for."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        """(B, C) of ``images`` (B, 3, H, W) in [0, 1]."""
        return self.scores(images)


def _ensemble(scores: Scores, eps: float, norm: Norm, seed: int) -> Any:
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise MissingExtraError("this attack", "evaluate") from error
    attack = AutoAttack(ScoresModule(scores), eps=eps, norm=NORMS[norm], seed=seed)
    attack.verbose = False
    return attack


def _targets(scores: Scores, images: Tensor, least: int) -> int:
    with torch.no_grad():
        classes = scores(images[:1]).shape[1]
    if classes < least:
        raise SettingError(f"this attack needs {least} people or more, here are {classes}")
    return min(TARGETS, classes - 1)


# --- by name -----------------------------------------------------------------------------------------


def _apgd(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    return apgd(goal.scores, images, goal.labels, eps=budget.eps, gradients=budget.iterations, seeds=seeds)


def _square(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    return square(goal.scores, images, goal.labels, eps=budget.eps, queries=budget.iterations, seeds=seeds)


def _auto_attack(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    return auto_attack(goal.scores, images, goal.labels, eps=budget.eps, seeds=seeds)


def iterated(attack: Callable[..., Tensor]) -> Craft:
    """By name, an attack that is called with ``iterations``."""

    def craft(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
        return attack(goal.scores, images, goal.labels, eps=budget.eps, iterations=budget.iterations, seeds=seeds)

    return craft


def register(name: str, craft: Craft, *, norm: Norm = "linf", needs_gradient: bool = True) -> None:
    """Add an attack of a library: one that takes an image at a time, and sees a defence through its scores."""
    ATTACKS.register(name, Attack(name, norm, needs_gradient=needs_gradient, sees_defence=True, craft=craft, alone=True))


register("apgd", _apgd)
register("apgd-ce", iterated(apgd_ce))
register("apgd-t", iterated(apgd_t))
register("fab", iterated(fab))
register("square", _square, needs_gradient=False)
register("auto-attack", _auto_attack)
