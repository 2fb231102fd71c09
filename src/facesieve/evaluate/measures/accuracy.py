"""What a defence costs on clean images and what it recovers on attacked ones: the tables' numbers by name, for targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate
from facesieve.report.record import NONE
from facesieve.report.tables import tables_of

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run


def accuracy(run: Run) -> dict[str, Estimate]:
    """For each defence its ``accuracy`` and ``clean accuracy lost``; under each attack ``recovery`` and ``clean accuracy kept``.

    All are shares: ``recovery`` of what the attack took, ``kept`` of the accuracy on the same images, clean and without a
    defence. One that is undefined, as the recovery of an attack that took nothing, is left out.
    """
    found = {}
    for row in tables_of(run.record).rows:
        where = row.defence if row.attack == NONE else f"{row.defence}, {row.attack}, {row.quantisation}"
        figures = {"accuracy": row.accuracy, "clean accuracy lost": row.lost, "recovery": row.recovery}
        for what, estimate in {**figures, "clean accuracy kept": row.kept}.items():
            if estimate is not None:
                found[f"{what}, {where}"] = estimate
    return found


MEASURES.register("accuracy", accuracy)
