"""From a report's trials to the numbers of its tables, each with a 95 % interval over resampled people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import InputError
from facesieve.metrics.intervals import Estimate, bootstrap
from facesieve.metrics.rates import far, frr, mean, threshold_at_far
from facesieve.report.record import NONE, Cell, Report

Weights = NDArray[np.float64]
CLEAN_KIND = "uint8"  # clean images come as 8 bit


@dataclass(frozen=True)
class Row:
    """One attack, one form of saving, one defence."""

    attack: str
    quantisation: str
    defence: str
    accuracy: Estimate
    undefended: Estimate  # accuracy on the same images without a defence
    recovery: Estimate | None  # of what the attack took; None for clean images, or where it took nothing
    lost: Estimate | None  # clean images: accuracy that the defence costs
    probability: Estimate | None  # mean probability of the right person
    frr: Estimate | None  # share of the right people under the threshold
    far: Estimate | None  # share of strangers at or over it
    seconds: float | None


def rows(report: Report) -> list[Row]:
    """Every cell that is the end of a defence, or has none."""
    threshold = open_set_threshold(report)
    return [_row(report, cell, threshold) for cell in report.cells if cell.point == ""]


def hits(report: Report, cell: Cell) -> Weights:
    """For each image of the cell 1 if it was given the right name, else 0: (n,)."""
    labels = np.array(report.labels[: len(cell.predicted)])
    right: Weights = (np.array(cell.predicted) == labels).astype(np.float64)
    return right


def open_set_threshold(report: Report) -> float | None:
    """Cosine under which a face is unknown, from the clean images as strangers; None for a closed set or too few images."""
    clean = report.cell(NONE, CLEAN_KIND, NONE)
    wanted = float(report.experiment["run"]["far"])
    if report.closed_set or clean is None:
        return None
    try:
        return threshold_at_far(clean.other, wanted).value
    except InputError:
        return None


def estimate(statistic: Callable[[Weights], float], report: Report, n: int) -> Estimate | None:
    """With its interval; None where the statistic is undefined, or there is one person only."""
    try:
        return bootstrap(statistic, np.array(report.labels[:n]))
    except InputError:
        return None


def _row(report: Report, cell: Cell, threshold: float | None) -> Row:
    n = len(cell.predicted)
    own = hits(report, cell)
    bare = _hits_of(report, cell.attack, cell.quantisation, n)
    clean = _hits_of(report, NONE, CLEAN_KIND, n)
    recovery = lost = None
    if cell.defence != NONE and cell.attack == NONE:
        lost = estimate(lambda w: mean(clean, w) - mean(own, w), report, n)
    elif cell.defence != NONE:
        recovery = estimate(lambda w: _share(mean(own, w), mean(bare, w), mean(clean, w)), report, n)
    return Row(
        cell.attack,
        cell.quantisation,
        cell.defence,
        _of(own, report),
        _of(bare, report),
        recovery,
        lost,
        None if cell.probability is None else _of(np.array(cell.probability), report),
        None if threshold is None else estimate(lambda w: frr(cell.own, threshold, w), report, n),
        None if threshold is None else estimate(lambda w: far(cell.other, threshold, w), report, n),
        cell.seconds,
    )


def _share(purified: float, adversarial: float, clean: float) -> float:
    """Recovery: (adversarial purified - adversarial) / (clean - adversarial)."""
    return (purified - adversarial) / (clean - adversarial) if clean > adversarial else math.nan


def _hits_of(report: Report, attack: str, quantisation: str, n: int) -> Weights:
    cell = report.cell(attack, quantisation, NONE)
    assert cell is not None  # a run scores every attack without a defence first
    return hits(report, cell)[:n]


def _of(values: Weights, report: Report) -> Estimate:
    found = estimate(lambda w: mean(values, w), report, len(values))
    if found is not None:
        return found
    value = float(values.mean())
    return Estimate(value, math.nan, math.nan, len(values), 1)
