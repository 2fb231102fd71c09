"""Attacks of maintained libraries, with the same signature as our own: ``attack(scores, images, labels, ...) -> images``.

MI-FGSM and C&W from the Adversarial Robustness Toolbox, AutoAttack and its parts from pyautoattack. Both
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

from facesieve.attacks import ATTACKS, Attack, Budget, Goal, Norm
from facesieve.attacks.gradient import box, project_l2
from facesieve.attacks.objectives import Scores
from facesieve.errors import MissingExtraError, SettingError

NORMS: dict[Norm, str] = {"linf": "Linf", "l2": "L2"}  # as pyautoattack spells them
TARGETS = 9  # classes that the targeted attacks try, as in AutoAttack
QUIET = {"verbose": False}


def mi_fgsm(
    scores: Scores, images: Tensor, labels: Tensor, *, eps: float, step: float, iterations: int, decay: float = 1.0
) -> Tensor:
    """Momentum iterative FGSM in L-inf: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018."""
    attacks = _toolbox()

    def one(image: Tensor, label: Tensor, _: int) -> Tensor:
        estimator = _estimator(scores, image)
        attack = attacks.MomentumIterativeMethod(estimator, eps=eps, eps_step=step, decay=decay, max_iter=iterations, **QUIET)
        return torch.from_numpy(attack.generate(image.numpy(), y=label.numpy()))

    return _each(one, images, labels, range(len(images)), eps, "linf")


def carlini_wagner_l2(
    scores: Scores, images: Tensor, labels: Tensor, *, eps: float, iterations: int = 100, seeds: Sequence[int] | None = None
) -> Tensor:
    """Carlini and Wagner's smallest L2 perturbation, "Towards Evaluating the Robustness of Neural Networks", S&P 2017.

    ``iterations`` in each of 10 searches for the constant. A perturbation longer than ``eps`` is cut to it.
    """
    attacks = _toolbox()

    def one(image: Tensor, label: Tensor, _: int) -> Tensor:
        estimator = _estimator(scores, image)
        attack = attacks.CarliniL2Method(estimator, max_iter=iterations, binary_search_steps=10, learning_rate=0.01, **QUIET)
        return torch.from_numpy(attack.generate(image.numpy(), y=label.numpy()))

    return _each(one, images, labels, range(len(images)) if seeds is None else seeds, eps, "l2")


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
        attack.apgd.loss, attack.apgd.n_iter, attack.apgd.n_restarts = "ce", iterations, 1
        return attack.apgd

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

    def tune(attack: Any) -> Any:
        attack.apgd_targeted.n_iter, attack.apgd_targeted.n_target_classes = iterations, _targets(scores, images, 4)
        return attack.apgd_targeted

    return _part(tune, scores, images, labels, eps, seeds, norm)


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

    return _each(one, images, labels, seeds, eps, norm)


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

    return _each(one, images, labels, seeds, eps, norm)


def _each(
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


class _Module(nn.Module):
    """Scores as the module that the libraries ask for."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images)


def _toolbox() -> Any:
    try:
        from art.attacks import evasion
    except ImportError as error:
        raise MissingExtraError("this attack", "evaluate") from error
    return evasion


def _estimator(scores: Scores, image: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        classes = scores(image).shape[1]
    shape = tuple(image.shape[1:])
    return PyTorchClassifier(_Module(scores), nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type="cpu")


def _ensemble(scores: Scores, eps: float, norm: Norm, seed: int) -> Any:
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise MissingExtraError("this attack", "evaluate") from error
    attack = AutoAttack(_Module(scores), eps=eps, norm=NORMS[norm], seed=seed)
    attack.verbose = False
    return attack


def _targets(scores: Scores, images: Tensor, least: int) -> int:
    with torch.no_grad():
        classes = scores(images[:1]).shape[1]
    if classes < least:
        raise SettingError(f"this attack needs {least} people or more, here are {classes}")
    return min(TARGETS, classes - 1)


# --- by name -----------------------------------------------------------------------------------------


def _mi_fgsm(goal: Goal, images: Tensor, budget: Budget, _: Sequence[int]) -> Tensor:
    return mi_fgsm(goal.scores, images, goal.labels, eps=budget.eps, step=budget.step, iterations=budget.iterations)


def _square(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    return square(goal.scores, images, goal.labels, eps=budget.eps, queries=budget.iterations, seeds=seeds)


def _auto_attack(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    return auto_attack(goal.scores, images, goal.labels, eps=budget.eps, seeds=seeds)


def _iterated(attack: Callable[..., Tensor]) -> Callable[[Goal, Tensor, Budget, Sequence[int]], Tensor]:
    def craft(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
        return attack(goal.scores, images, goal.labels, eps=budget.eps, iterations=budget.iterations, seeds=seeds)

    return craft


for _attack in (
    Attack("mi-fgsm", "linf", needs_gradient=True, sees_defence=False, craft=_mi_fgsm),
    Attack("carlini-wagner-l2", "l2", needs_gradient=True, sees_defence=False, craft=_iterated(carlini_wagner_l2)),
    Attack("apgd-ce", "linf", needs_gradient=True, sees_defence=False, craft=_iterated(apgd_ce)),
    Attack("apgd-t", "linf", needs_gradient=True, sees_defence=False, craft=_iterated(apgd_t)),
    Attack("fab", "linf", needs_gradient=True, sees_defence=False, craft=_iterated(fab)),
    Attack("square", "linf", needs_gradient=False, sees_defence=False, craft=_square),
    Attack("auto-attack", "linf", needs_gradient=True, sees_defence=False, craft=_auto_attack),
):
    ATTACKS.register(_attack.name, _attack)
