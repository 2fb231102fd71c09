"""From a record's trials to the numbers of its pages, each with a 95 % interval over resampled people; computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import InputError
from facesieve.metrics.intervals import Estimate, Means
from facesieve.metrics.rates import threshold_at_far
from facesieve.report.record import NONE, Cell, Record

Floats = NDArray[np.float64]
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
    kept: Estimate | None  # accuracy as a share of that on the clean images; None for clean images
    lost: Estimate | None  # clean images: accuracy that the defence costs
    probability: Estimate | None  # mean probability of the correct person
    frr: Estimate | None  # share of known people under the threshold
    far: Estimate | None  # share of strangers at or over it
    seconds: float | None


@dataclass(frozen=True, eq=False)
class Step:
    """Images after one step of a defence."""

    point: str | None  # the step; "" for the defence's end, None for the images that it was given
    values: Floats  # (n,) probability of the correct person, or their score where there is no closed set
    mean: Estimate


@dataclass(frozen=True, eq=False)
class Steps:
    """One attack, one form of saving, one defence whose steps were scored; in their order."""

    attack: str
    quantisation: str
    defence: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Tables:
    """All numbers of a record's pages."""

    record: Record
    rows: tuple[Row, ...]  # every cell that is the end of a defence, or has none
    steps: tuple[Steps, ...]


def tables_of(record: Record) -> Tables:
    """Compute them."""
    made = _Making(record)
    rows = tuple(made.row(cell) for cell in record.cells if cell.point == "")
    scored = dict.fromkeys((cell.attack, cell.quantisation, cell.defence) for cell in record.cells if cell.point)
    return Tables(record, rows, tuple(made.steps(*names) for names in scored))


def open_set_threshold(record: Record) -> float | None:
    """Cosine under which a face is unknown, from the clean images as strangers; None for a closed set or too few images."""
    clean = record.cell(NONE, CLEAN_KIND, NONE)
    if record.closed_set or clean is None:
        return None
    try:
        return threshold_at_far(clean.impostor, float(record.experiment["run"]["far"])).value
    except InputError:
        return None


class _Making:
    """What the rows share: the draws of people for each number of images, and the threshold."""

    def __init__(self, record: Record) -> None:
        self.record, self.labels = record, np.array(record.labels)
        self.threshold = open_set_threshold(record)
        self.means = cache(self._means)

    def _means(self, n: int) -> Means | None:
        """The draws for the first ``n`` images; None where they are all of one person."""
        try:
            return Means(self.labels[:n])
        except InputError:
            return None

    def row(self, cell: Cell) -> Row:
        """The numbers of a cell."""
        n = len(cell.predicted)
        behind, bare, clean = self.hits(cell), self.undefended(cell, n), self.undefended(None, n)
        recovery = kept = lost = None
        if (means := self.means(n)) is not None and cell.defence != NONE:
            left, taken, wanted = means.of(behind), means.of(bare), means.of(clean)
            if cell.attack == NONE:
                lost = means.estimate(wanted - left)
            else:
                # (adversarial purified - adversarial) / (clean - adversarial); undefined where the attack took nothing
                recovery = _share(means, left - taken, wanted - taken)
                kept = _share(means, left, wanted)
        known = self.threshold is not None
        return Row(
            cell.attack,
            cell.quantisation,
            cell.defence,
            self.mean(behind),
            self.mean(bare),
            recovery,
            kept,
            lost,
            None if cell.probability is None else self.mean(np.array(cell.probability)),
            self.rate(np.array(cell.genuine) < self.threshold) if known else None,
            self.rate(np.array(cell.impostor) >= self.threshold) if known else None,
            cell.seconds,
        )

    def steps(self, attack: str, quantisation: str, defence: str) -> Steps:
        """What a defence's steps leave of the correct person's probability or score."""
        names = (attack, quantisation, defence)
        cells = [c for c in self.record.cells if (c.attack, c.quantisation, c.defence) == names]
        n = len(cells[0].predicted)
        found = [(cell.point, cell) for cell in cells]
        start = self.record.cell(attack, quantisation, NONE)
        if start is not None and (attack == NONE or self.record.oblivious):  # else the defence faces a set of its own
            found = [(None, start), *found]  # type: ignore[list-item]
        return Steps(*names, tuple(self._step(point, cell, n) for point, cell in found))

    def _step(self, point: str | None, cell: Cell, n: int) -> Step:
        values = np.array(cell.genuine if cell.probability is None else cell.probability)[:n]
        return Step(point, values, self.mean(values))

    def hits(self, cell: Cell) -> Floats:
        """For each image of the cell 1 if it was given the correct name, else 0: (n,)."""
        correct: Floats = (np.array(cell.predicted) == self.labels[: len(cell.predicted)]).astype(np.float64)
        return correct

    def undefended(self, cell: Cell | None, n: int) -> Floats:
        """The same of the first ``n`` images without a defence, under the cell's attack or (None) clean."""
        names = (NONE, CLEAN_KIND) if cell is None else (cell.attack, cell.quantisation)
        found = self.record.cell(*names, NONE)
        assert found is not None  # a run scores every attack without a defence first
        return self.hits(found)[:n]

    def mean(self, values: Floats) -> Estimate:
        """Without an interval where there is one person only."""
        means = self.means(len(values))
        if means is None:
            return Estimate(float(values.mean()), math.nan, math.nan, len(values), 1)
        return means.estimate(means.of(values))

    def rate(self, flags: NDArray[np.bool_]) -> Estimate | None:
        """The share of true ones; None where there is one person only."""
        return None if self.means(len(flags)) is None else self.mean(flags.astype(np.float64))


def _share(means: Means, part: Floats, whole: Floats) -> Estimate | None:
    """Part over whole, with its interval; None where the whole is nothing."""
    try:
        return means.estimate(part / np.where(whole > 0, whole, np.nan))
    except InputError:
        return None
