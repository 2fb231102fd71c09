"""The worst case per image: an image counts as kept only where every attack of one ball fails."""

from __future__ import annotations

import numpy as np

from facesieve.report.record import NONE, Cell, Record

Kind = tuple[float, str, str, str]  # eps, norm, how it was saved, defence


def worst_cells(record: Record) -> list[Cell]:
    """What the attacks of one ball do together to each defence: a cell each time that two or more were tried on as many images.

    Attacks that were tried on more images join those that were tried on fewer, for the first of theirs. Each image has
    the trial with the smallest margin of the correct person's score over the best other one.
    """
    balls = {attack.attack: (attack.eps, attack.norm) for attack in record.attacks}
    tried: dict[Kind, list[Cell]] = {}
    for cell in record.cells:
        if cell.attack != NONE and cell.point == "" and cell.attack in balls:
            tried.setdefault((*balls[cell.attack], cell.quantisation, cell.defence), []).append(cell)
    found = []
    for (eps, norm, *_), cells in tried.items():
        for n in sorted({len(cell.predicted) for cell in cells}, reverse=True):
            members = [cell for cell in cells if len(cell.predicted) >= n]
            if len(members) > 1:
                found.append(worst_of(worst_name(len(members), eps, norm), members, n))
    return found


def size_name(eps: float, norm: str = "linf") -> str:
    """What the size of an attack is called, ``2/255``; ``eps`` in levels of 255."""
    return f"{eps:g}/255" + ("" if norm == "linf" else f" ({norm})")


def worst_name(attacks: int, eps: float, norm: str = "linf") -> str:
    """What the worst case of so many attacks is called; ``eps`` in levels of 255."""
    return f"worst case of {attacks} attacks, eps {size_name(eps, norm)}"


def worst_of(name: str, cells: list[Cell], n: int) -> Cell:
    """For each of the first ``n`` images the trial in which its person's margin over the best other one is smallest."""
    margins = np.array([np.array(cell.genuine[:n]) - np.array(cell.impostor[:n]) for cell in cells])
    chosen = [cells[place] for place in margins.argmin(0)]
    shown = [cell.probability for cell in cells]
    return Cell(
        attack=name,
        quantisation=cells[0].quantisation,
        defence=cells[0].defence,
        point="",
        predicted=tuple(cell.predicted[i] for i, cell in enumerate(chosen)),
        genuine=tuple(cell.genuine[i] for i, cell in enumerate(chosen)),
        impostor=tuple(cell.impostor[i] for i, cell in enumerate(chosen)),
        probability=None if None in shown else tuple(np.array([p[:n] for p in shown if p is not None]).min(0).tolist()),
        seconds=None,
    )
