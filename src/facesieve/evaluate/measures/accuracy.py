"""What a defence costs on clean images and what it gives back on attacked ones, with intervals over people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from facesieve.errors import InputError
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Means
from facesieve.report.record import NONE
from facesieve.report.tables import CLEAN_KIND, tables_of

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run


def accuracy(run: Run) -> dict[str, Estimate]:
    """For each defence ``clean accuracy lost``; under each attack its ``recovery`` and ``clean accuracy kept``.

    All are shares: ``recovery`` of what the attack took, ``kept`` of the accuracy on the same images, clean and without a
    defence. One that is undefined, as the recovery of an attack that took nothing, is left out.
    """
    found: dict[str, Estimate | None] = {}
    for row in tables_of(run.record).rows:
        if row.defence == NONE:
            continue
        if row.attack == NONE:
            found[f"clean accuracy lost, {row.defence}"] = row.lost
        else:
            where = f"{row.defence}, {row.attack}, {row.quantisation}"
            found[f"recovery, {where}"] = row.recovery
            found[f"clean accuracy kept, {where}"] = _kept(run, row.attack, row.quantisation, row.defence)
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _kept(run: Run, attack: str, quantisation: str, defence: str) -> Estimate | None:
    cell, clean = run.record.cell(attack, quantisation, defence), run.record.cell(NONE, CLEAN_KIND, NONE)
    assert cell is not None
    assert clean is not None
    n = len(cell.predicted)
    labels = np.array(run.record.labels[:n])
    try:
        means = Means(labels)
        with np.errstate(divide="ignore", invalid="ignore"):
            return means.estimate(means.of(np.equal(cell.predicted, labels)) / means.of(np.equal(clean.predicted[:n], labels)))
    except InputError:
        return None


MEASURES.register("accuracy", accuracy)
