"""One's own attack beside those of libraries, on the same images: what each leaves of the accuracy, image by image."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Means, of_difference

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run

OWN = "pgd"  # the method that the others are compared with


def paired(run: Run) -> dict[str, Estimate]:
    """``accuracy left by OURS minus THEIRS, DEFENCE``, in [-1, 1], for each attack of method ``pgd`` and each of another one.

    Of one ball and one form of saving; below 0 ours is the stronger. Of as many images as both were tried on.
    """
    found: dict[str, Estimate] = {}
    made = {attack.attack: attack for attack in run.record.attacks}
    cells = [cell for cell in run.record.cells if cell.attack in made and cell.point == ""]
    for ours, theirs in product(cells, cells):
        one, other = made[ours.attack], made[theirs.attack]
        same = (one.eps, one.norm, ours.quantisation, ours.defence) == (
            other.eps,
            other.norm,
            theirs.quantisation,
            theirs.defence,
        )
        if not same or one.method != OWN or other.method == OWN:
            continue
        n = min(len(ours.predicted), len(theirs.predicted))
        means, labels = Means(run.labels[:n]), run.labels[:n]
        left = [means.of(np.array(cell.predicted[:n]) == labels) for cell in (ours, theirs)]
        name = f"accuracy left by {ours.attack} minus {theirs.attack}, {ours.defence}, {ours.quantisation}"
        found[name] = of_difference(means.estimate(left[0] - left[1]))
    return found


MEASURES.register("paired", paired)
