"""PGD, MI-FGSM and C&W of the Adversarial Robustness Toolbox, as ``libraries`` has those of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from facesieve.attacks import Budget, Goal
from facesieve.attacks.libraries import QUIET, ScoresModule, each_alone, iterated, register
from facesieve.attacks.objectives import Scores
from facesieve.errors import MissingExtraError


def toolbox_pgd(
    scores: Scores, images: Tensor, labels: Tensor, *, eps: float, step: float, iterations: int, seeds: Sequence[int]
) -> Tensor:
    """The toolbox's PGD on the cross-entropy, from one random start: ``iterations`` gradients of an image."""
    attacks = _toolbox()

    def one(image: Tensor, label: Tensor, _: int) -> Tensor:
        settings = {"eps": eps, "eps_step": step, "max_iter": iterations, "num_random_init": 1, **QUIET}
        found = attacks.ProjectedGradientDescent(_estimator(scores, image), **settings)
        return torch.from_numpy(found.generate(image.numpy(), y=label.numpy()))

    return each_alone(one, images, labels, seeds, eps, "linf")


def mi_fgsm(
    scores: Scores, images: Tensor, labels: Tensor, *, eps: float, step: float, iterations: int, decay: float = 1.0
) -> Tensor:
    """Momentum iterative FGSM in L-inf: Dong et al., "Boosting Adversarial Attacks with Momentum", CVPR 2018."""
    attacks = _toolbox()

    def one(image: Tensor, label: Tensor, _: int) -> Tensor:
        estimator = _estimator(scores, image)
        attack = attacks.MomentumIterativeMethod(estimator, eps=eps, eps_step=step, decay=decay, max_iter=iterations, **QUIET)
        return torch.from_numpy(attack.generate(image.numpy(), y=label.numpy()))

    return each_alone(one, images, labels, range(len(images)), eps, "linf")


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

    return each_alone(one, images, labels, range(len(images)) if seeds is None else seeds, eps, "l2")


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
    return PyTorchClassifier(ScoresModule(scores), nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type="cpu")


# --- by name -----------------------------------------------------------------------------------------


def _toolbox_pgd(goal: Goal, images: Tensor, budget: Budget, seeds: Sequence[int]) -> Tensor:
    eps, step, iterations = budget.eps, budget.step, budget.iterations
    return toolbox_pgd(goal.scores, images, goal.labels, eps=eps, step=step, iterations=iterations, seeds=seeds)


def _mi_fgsm(goal: Goal, images: Tensor, budget: Budget, _: Sequence[int]) -> Tensor:
    return mi_fgsm(goal.scores, images, goal.labels, eps=budget.eps, step=budget.step, iterations=budget.iterations)


register("toolbox-pgd", _toolbox_pgd)
register("mi-fgsm", _mi_fgsm)
register("carlini-wagner-l2", iterated(carlini_wagner_l2), norm="l2")
