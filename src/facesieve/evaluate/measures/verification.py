"""Verification beside identification: how often genuine people are refused, and how often an impersonator is let in.

A system that is told whom to expect compares a probe with that person's template. Its threshold is chosen for a false-accept rate
of clean pairs, each probe with every other person's template, behind the defence that probes go through. An impersonator is
compared with the template of one fixed other person (``objectives.target_of``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.attacks.objectives import IMPERSONATING, target_of
from facesieve.errors import InputError
from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Means
from facesieve.metrics.rates import threshold_at_far
from facesieve.report.record import NONE

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

Floats = NDArray[np.float64]
FARS = (0.001, 0.01)  # of clean pairs


def verification(run: Run) -> dict[str, Estimate]:
    """For none and each defence ``FRR at FAR 0.1 %`` and 1 % of clean pairs.

    Then, for each attack that impersonates, ``FAR under attack`` at the same thresholds, and how many images are ``named as
    the target``. A rate that so few pairs cannot resolve is left out.
    """
    found: dict[str, Estimate] = {}
    every: list[tuple[Defence | None, int]] = [(None, len(run.images)), *run.plan.faced_by(None)]
    for defence, n in every:
        name = NONE if defence is None else defence.name
        clean, labels = _table(run, defence, run.images[:n], "purify"), run.labels[:n]
        thresholds = _thresholds(clean, labels)
        genuine = clean[np.arange(n), labels]
        for far, threshold in thresholds.items():
            found[f"FRR at FAR {far:.1%}, {name}"] = Means(labels).share(genuine < threshold)
        for attack in run.attacks:
            faces = run.plan.is_bare(attack) if defence is None else defence.settings.faces(attack)
            if attack.objective not in IMPERSONATING or not faces:
                continue
            many = min(n, run.plan.count(attack))
            images = run.adversarial(attack, many).images["uint8"] if defence is None else run.faced(attack, defence, many)
            table, targets = _table(run, defence, images, *run.plan.noise(attack)), _targets(labels[:many], clean.shape[1])
            score, means = table[np.arange(many), targets], Means(labels[:many])
            for far, threshold in thresholds.items():
                found[f"FAR under attack, threshold for FAR {far:.1%}, {name}, {attack.name}"] = means.share(score >= threshold)
            found[f"named as the target, {name}, {attack.name}"] = means.share(table.argmax(1) == targets)
    return found


def _table(run: Run, defence: Defence | None, images: Tensor, *noise: str) -> Floats:
    """Scores (n, people) of images behind a defence, which draws its noise as it does for the run's own figures."""
    if defence is not None:
        images = defend(defence, images, run.context, *noise).images
    return run.recogniser_for(defence).table(images)


def _thresholds(clean: Floats, labels: NDArray[np.int64]) -> dict[float, float]:
    """By false-accept rate, of all pairs of a probe and another person's template."""
    other = np.ones(clean.shape, bool)
    other[np.arange(len(labels)), labels] = False
    chosen = {}
    for far in FARS:
        try:
            chosen[far] = threshold_at_far(clean[other], far).value
        except InputError:
            continue
    return chosen


def _targets(labels: NDArray[np.int64], people: int) -> NDArray[np.int64]:
    return target_of(torch.from_numpy(labels), people).numpy()


MEASURES.register("verification", verification)
