"""From a record's trials to the numbers of its pages, each with a 95 % interval over resampled people; computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import InputError
from facesieve.metrics.intervals import Estimate, Means, of_difference, of_share
from facesieve.metrics.rates import threshold_at_far
from facesieve.report.record import NONE, Cell, Record
from facesieve.report.worst import worst_cells

Floats = NDArray[np.float64]
CLEAN_KIND = "uint8"  # clean images come as 8 bit


@dataclass(frozen=True)
class Row:
    """One attack, one form of saving, one defence."""

    attack: str
    quantisation: str
    defence: str
    accuracy: Estimate
    undefended: Estimate | None  # accuracy on the same images without a defence; None for an attack that was not tried so
    recovery: Estimate | None  # of what the attack took; None for clean images, and where it took nothing or was not tried
    kept: Estimate | None  # accuracy as a share of that on the clean images; None for clean images
    lost: Estimate | None  # clean images: accuracy that the defence costs
    probability: Estimate | None  # mean probability of the correct person
    margin: Estimate  # mean of the correct person's score minus the best other one's
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
    """Compute them; the worst case of several attacks follows theirs."""
    made = _Making(record.model_copy(update={"cells": (*record.cells, *worst_cells(record))}))
    rows = tuple(made.row(cell) for cell in made.record.cells if cell.point == "")
    scored = dict.fromkeys((cell.attack, cell.quantisation, cell.defence) for cell in record.cells if cell.point)
    return Tables(record, rows, tuple(made.steps(*names) for names in scored))


def figures(tables: Tables) -> dict[str, Estimate]:
    """For each defence its ``accuracy`` and ``clean accuracy lost``; under each attack ``recovery`` and ``clean accuracy kept``.

    These are shares: ``recovery`` of what the attack took, ``kept`` of the accuracy on the same images, clean and without a
    defence. Then ``FRR``, at the threshold for the run's FAR, and ``margin``, the mean of the correct person's score minus the
    best other one's. One that is undefined, as the recovery of an attack that took nothing, is left out.
    """
    found = {}
    for row in tables.rows:
        where = row.defence if row.attack == NONE else f"{row.defence}, {row.attack}, {row.quantisation}"
        numbers = {"accuracy": row.accuracy, "clean accuracy lost": row.lost, "recovery": row.recovery}
        for what, estimate in {**numbers, "clean accuracy kept": row.kept, "FRR": row.frr, "margin": row.margin}.items():
            if estimate is not None:
                found[f"{what}, {where}"] = estimate
    return found


def open_set_threshold(record: Record, defence: str = NONE) -> float | None:
    """Cosine under which a face is unknown, from the clean images as strangers; None for a closed set or too few images.

    Where people are enrolled behind each defence, each has a threshold of its own, from the clean images behind it.
    """
    alone = next((each.enrolled for each in record.defences if each.name == defence), None)
    own = (alone or record.experiment.get("recogniser", {}).get("enrolled")) == "purified"
    clean = record.cell(NONE, CLEAN_KIND, defence if own else NONE)
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
        self.threshold = cache(lambda defence: open_set_threshold(record, defence))
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
        behind, bare = self.hits(cell), self.undefended(n, cell.attack, cell.quantisation)
        clean = self.undefended(n)
        assert clean is not None  # a run scores clean images without a defence first
        recovery = kept = lost = None
        if (means := self.means(n)) is not None and cell.defence != NONE:
            left, wanted = means.of(behind), means.of(clean)
            if cell.attack == NONE:
                lost = of_difference(means.estimate(wanted - left))
            else:
                kept = _share(means, left, wanted, self.labels[:n][clean[:n] > 0])
            if cell.attack != NONE and bare is not None:
                # (adversarial purified - adversarial) / (clean - adversarial); undefined where the attack took nothing
                taken = means.of(bare)
                recovery = _share(means, left - taken, wanted - taken, self.labels[:n][clean[:n] > bare[:n]])
        threshold = self.threshold(cell.defence)
        known = threshold is not None
        return Row(
            cell.attack,
            cell.quantisation,
            cell.defence,
            of_share(self.mean(behind)),
            None if bare is None else of_share(self.mean(bare)),
            recovery,
            kept,
            lost,
            None if cell.probability is None else self.mean(np.array(cell.probability)),
            self.mean(np.array(cell.genuine) - np.array(cell.impostor)),
            self.rate(np.array(cell.genuine) < threshold) if known else None,
            self.rate(np.array(cell.impostor) >= threshold) if known else None,
            cell.seconds,
        )

    def steps(self, attack: str, quantisation: str, defence: str) -> Steps:
        """What a defence's steps leave of the correct person's probability or score."""
        names = (attack, quantisation, defence)
        cells = [c for c in self.record.cells if (c.attack, c.quantisation, c.defence) == names]
        n = len(cells[0].predicted)
        found = [(cell.point, cell) for cell in cells]
        start = self.record.cell(attack, quantisation, NONE)
        if start is not None and self.record.is_shared(attack):  # else the defence faces a set of its own
            found = [(None, start), *found]  # type: ignore[list-item]
        return Steps(*names, tuple(self._step(point, cell, n) for point, cell in found))

    def _step(self, point: str | None, cell: Cell, n: int) -> Step:
        values = np.array(cell.genuine if cell.probability is None else cell.probability)[:n]
        return Step(point, values, self.mean(values))

    def hits(self, cell: Cell) -> Floats:
        """For each image of the cell 1 if it was given the correct name, else 0: (n,)."""
        correct: Floats = (np.array(cell.predicted) == self.labels[: len(cell.predicted)]).astype(np.float64)
        return correct

    def undefended(self, n: int, attack: str = NONE, quantisation: str = CLEAN_KIND) -> Floats | None:
        """The same of the first ``n`` images without a defence; None for an attack that was not tried on so many without one."""
        found = self.record.cell(attack, quantisation, NONE)
        return None if found is None or len(found.predicted) < n else self.hits(found)[:n]

    def mean(self, values: Floats) -> Estimate:
        """Without an interval where there is one person only."""
        means = self.means(len(values))
        if means is None:
            return Estimate(float(values.mean()), math.nan, math.nan, len(values), 1)
        return means.estimate(means.of(values))

    def rate(self, flags: NDArray[np.bool_]) -> Estimate | None:
        """The share of true ones; None where there is one person only."""
        return None if self.means(len(flags)) is None else of_share(self.mean(flags.astype(np.float64)))


def _share(means: Means, part: Floats, whole: Floats, labels: NDArray[np.int64]) -> Estimate | None:
    """Part over whole, with its interval; None where the whole is nothing. ``labels``: whom the images of the whole show."""
    try:
        return of_share(means.estimate(part / np.where(whole > 0, whole, np.nan)), people=len(np.unique(labels)))
    except InputError:
        return None
