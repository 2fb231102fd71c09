"""The health of the attacks that know a defence: whether more iterations would still help them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from facesieve.evaluate.defend import Defence, defend
from facesieve.evaluate.experiment import AttackSettings
from facesieve.evaluate.measures import MEASURES
from facesieve.evaluate.recogniser import judge
from facesieve.metrics.intervals import Estimate, Means, of_difference
from facesieve.report.record import NONE

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

IMAGES = 21  # the first so many: the check costs twice what the attack did for them
THROUGH_IT = {"gradient", "identity", "observation"}


def health(run: Run) -> dict[str, Estimate]:
    """For each defence (or none) and each attack with a gradient through it: the accuracy that twice the iterations take beyond.

    A share of the same images, in [-1, 1]; above 0.02 the attack has not converged. One of an attack on one person's images
    alone is left out.
    """
    found = {}
    for attack in run.attacks:
        if attack.surrogates:  # who has other recognisers alone
            continue
        view = attack.view(run.settings.threat)
        pairs = run.plan.faced_by(attack) if view in THROUGH_IT else []
        bare: list[tuple[Defence | None, int]] = [(None, run.plan.count(attack))] if view is None else []
        for defence, n in [*bare, *pairs]:
            few = min(n, IMAGES)
            if len(np.unique(run.labels[:few])) > 1:
                found[f"{NONE if defence is None else defence.name}, {attack.name}"] = _gained(run, attack, defence, few)
    return found


def _gained(run: Run, attack: AttackSettings, defence: Defence | None, n: int) -> Estimate:
    means, labels = Means(run.labels[:n]), run.labels[:n]

    def left(attack: AttackSettings) -> np.ndarray:
        images: Tensor = run.adversarial(attack, n, defence).images["uint8"]
        if defence is not None:
            images = defend(defence, images, run.context, "purify", attack.name).images
        return means.of(np.array(judge(run.recogniser_for(defence), images, labels).predicted) == labels)

    longer = attack.model_copy(update={"name": f"{attack.name}, twice", "iterations": 2 * attack.iterations, "probes": None})
    return of_difference(means.estimate(left(attack.model_copy(update={"name": f"{attack.name}, once"})) - left(longer)))


MEASURES.register("health", health)
