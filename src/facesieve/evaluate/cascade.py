"""A cascade of attacks: each is made for the images alone that those before it left, as the worst case asks for no more.

After Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
ICML 2020. What such an attack would do to the other images is not known: they keep the trial in which they were lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facesieve.attacks import ATTACKS
from facesieve.evaluate.experiment import AttackSettings
from facesieve.report.record import AttackRecord, Cell
from facesieve.report.worst import worst_of


@dataclass(frozen=True)
class Left:
    """What the attacks of one ball left of the first ``n`` images."""

    places: tuple[int, ...]  # of the images that are still named correctly
    worst: Cell  # of all ``n`` images, the trial that came out worst for each, under the name of the attack that follows

    def joined(self, cell: Cell) -> Cell:
        """The cell of the attack that follows: its trials at the ``places``, the worst of before elsewhere."""
        parts = {}
        for name in ("predicted", "genuine", "impostor", "probability"):
            values = getattr(self.worst, name)
            if values is not None:
                new = dict(zip(self.places, getattr(cell, name), strict=True))
                parts[name] = tuple(new.get(place, value) for place, value in enumerate(values))
        return cell.model_copy(update=parts)


def left_by(
    cells: Sequence[Cell], records: Sequence[AttackRecord], attack: AttackSettings, defence: str, labels: NDArray[np.int64]
) -> Left | None:
    """What the attacks so far left of the first images, of the people ``labels`` (n,); None where no attack was tried.

    Counted are those of the same norm and eps that were tried on as many images or more, saved in the same way.
    """
    ball = attack.eps, ATTACKS.load(attack.method).norm
    same = {record.attack for record in records if (record.eps, record.norm) == ball}
    (quantisation,) = attack.quantisation
    members = [
        cell for cell in cells
        if cell.attack in same and (cell.defence, cell.quantisation, cell.point) == (defence, quantisation, "")
        and len(cell.predicted) >= len(labels)
    ]  # fmt: skip
    if not members:
        return None
    worst = worst_of(attack.name, members, len(labels))
    return Left(tuple(np.flatnonzero(np.array(worst.predicted) == labels).tolist()), worst)
