"""What a persistent attacker gains: one image, submitted again and again, each time with fresh noise of the defence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from facesieve.evaluate.defend import defend
from facesieve.evaluate.experiment import AttackSettings
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Means
from facesieve.report.record import NONE

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

SUBMISSIONS = {1: None, 10: None, 100: 21}  # how often, and on how many images at most


def persistence(run: Run) -> dict[str, Estimate]:
    """For clean images and each attack, behind each defence that draws noise: the share of which every submission is named right.

    Of clean images that is how many a genuine person is named on at each of so many attempts.
    """
    found = {}
    attacks: list[AttackSettings | None] = [None, *run.attacks]
    for attack in attacks:
        for defence, n in run.plan.faced_by(attack):
            if not defence.purifier.draws_noise:
                continue
            images = run.images[:n] if attack is None else run.faced(attack, defence, n)
            own = run.plan.noise(attack)
            kept, tried = np.ones(n, bool), 0
            for times, most in SUBMISSIONS.items():
                some = min(n, most or n)
                for number in range(tried, times):
                    noise = own if number == 0 else (*own, f"submission {number}")
                    table = run.recogniser_for(defence).table(defend(defence, images[:some], run.context, *noise).images)
                    kept[:some] &= table.argmax(1) == run.labels[:some]
                tried = times
                name = f"kept at each of {times} submissions, {defence.name}, {NONE if attack is None else attack.name}"
                found[name] = Means(run.labels[:some]).share(kept[:some])
    return found


MEASURES.register("persistence", persistence)
