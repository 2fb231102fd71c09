"""What a defence costs on clean images and what it gives back on attacked ones, with intervals over people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import InputError
from facesieve.evaluate.measures import MEASURES
from facesieve.metrics.intervals import Estimate, Statistic, bootstrap
from facesieve.metrics.rates import mean
from facesieve.report.record import NONE, Cell, Record

if TYPE_CHECKING:
    from facesieve.evaluate.run import Run


def accuracy(run: Run) -> dict[str, Estimate]:
    """For each defence ``clean accuracy lost``; under each attack its ``recovery`` and ``clean accuracy kept``.

    All are shares: ``recovery`` of what the attack took, ``kept`` of the accuracy on clean images without a defence. One
    that is undefined, as the recovery of an attack that took nothing, is left out.
    """
    record, found = run.record, {}
    for cell in record.cells:
        if cell.point or cell.defence == NONE:
            continue
        labels = np.array(record.labels[: len(cell.predicted)])
        behind, clean = _correct(record, cell), _correct_without(record, NONE, "uint8", len(labels))
        if cell.attack == NONE:
            wanted: dict[str, Statistic] = {"clean accuracy lost": lambda w, a=clean, b=behind: mean(a, w) - mean(b, w)}  # type: ignore[misc]
        else:
            bare = _correct_without(record, cell.attack, cell.quantisation, len(labels))
            wanted = {
                "recovery": lambda w, a=behind, b=bare, c=clean: _ratio(mean(a, w) - mean(b, w), mean(c, w) - mean(b, w)),  # type: ignore[misc]
                "clean accuracy kept": lambda w, a=behind, c=clean: _ratio(mean(a, w), mean(c, w)),  # type: ignore[misc]
            }
        where = cell.defence if cell.attack == NONE else f"{cell.defence}, {cell.attack}, {cell.quantisation}"
        for what, statistic in wanted.items():
            try:
                found[f"{what}, {where}"] = bootstrap(statistic, labels)
            except InputError:
                continue
    return found


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan


def _correct(record: Record, cell: Cell) -> NDArray[np.float64]:
    """For each image of the cell 1 if it was given the correct name, else 0: (n,)."""
    correct: NDArray[np.float64] = np.equal(cell.predicted, record.labels[: len(cell.predicted)]).astype(np.float64)
    return correct


def _correct_without(record: Record, attack: str, quantisation: str, n: int) -> NDArray[np.float64]:
    cell = record.cell(attack, quantisation, NONE)
    assert cell is not None  # a run scores every attack without a defence first
    return _correct(record, cell)[:n]


MEASURES.register("accuracy", accuracy)
