"""The board: results of several defences side by side, and why others are refused.

What is checked of an attack is what Carlini et al., "On Evaluating Adversarial Robustness", 2019, ask for: that it knows the
defence, that its gradient does not vanish, that more iterations do not help, and that nobody who knows less does better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from facesieve.errors import InputError, many
from facesieve.metrics.intervals import Estimate, Means
from facesieve.report.checks import STILL
from facesieve.report.record import NONE, THROUGH, AttackRecord, Cell
from facesieve.report.result import SAVED, Result
from facesieve.report.tables import Row, tables_of
from facesieve.report.templates import fill
from facesieve.report.text import Table, percent
from facesieve.report.worst import size_name
from facesieve.specs import RETIRED_PRESETS

GAIN = 0.02  # accuracy that twice the iterations, or an attacker who knows less, must not take beyond chance
EXACT, SUBSTITUTE, RANGE = "exact gradient", "substitute gradient", "range"
OBLIVIOUS, TRANSFER, SCORES = "oblivious", "transfer", "scores alone"
ATTACKERS = (OBLIVIOUS, EXACT, SUBSTITUTE, RANGE, TRANSFER, SCORES)  # that a full row has
NOT_RUN = "not run"
BLIND = {OBLIVIOUS, TRANSFER, SCORES}
VIEWS = {"gradient": EXACT, "identity": SUBSTITUTE, "observation": SUBSTITUTE, "range": RANGE}


@dataclass(frozen=True, eq=False)
class Entry:
    """A result on the board, with its numbers."""

    result: Result

    @cached_property
    def rows(self) -> list[Row]:
        """Those of the defence: clean images, each attack, the worst case of several."""
        return [row for row in tables_of(self.result.record()).rows if row.defence == self.result.defence.name]

    @property
    def bare(self) -> bool:
        """Whether it is of no defence, before which everybody knows everything."""
        return self.result.defence.name == NONE

    @property
    def clean(self) -> Row:
        """The clean images."""
        return next(row for row in self.rows if row.attack == NONE)

    def kind(self, attack: AttackRecord) -> str:
        """What an attacker has of the defence: one of ``ATTACKERS``."""
        if attack.black_box:
            return SCORES
        if not attack.sees.startswith(self.result.recogniser):
            return TRANSFER
        if attack.view:
            return VIEWS[attack.view]
        return EXACT if self.bare or THROUGH in attack.name else OBLIVIOUS  # older records do not say the view

    @cached_property
    def balls(self) -> dict[tuple[str, float], Row]:
        """By norm and eps: the worst case on as many images as an attacker who knows the defence was tried on."""
        found: dict[tuple[str, float], Row] = {}
        for norm, eps in sorted({(attack.norm, attack.eps) for attack in self.result.attackers}):
            members = self.members(norm, eps)
            together, alone = self.together(norm, eps), [row for row in self.rows if row.attack in {a.attack for a in members}]
            most = max(
                (len(cell.predicted) for attack in members if self._aware(attack) for cell in self._cells(attack)), default=0
            )
            fitting = [row for row in together if row.accuracy.n <= most] or together
            found[norm, eps] = max(fitting, key=lambda row: (row.accuracy.n, attackers_of(row))) if fitting else alone[0]
        return found

    def together(self, norm: str, eps: float) -> list[Row]:
        """The worst cases of several attackers of one ball, each of those that were tried on as many images."""
        return [row for row in self.rows if row.attack.startswith("worst case of") and _is_of(row.attack, norm, eps)]

    def members(self, norm: str, eps: float) -> list[AttackRecord]:
        """The attackers of one ball."""
        return [attack for attack in self.result.attackers if (attack.norm, attack.eps) == (norm, eps)]

    @property
    def lacking(self) -> list[str]:
        """Attackers of a full row that some ball does not have."""
        wanted = [EXACT, TRANSFER, SCORES] if self.bare else ATTACKERS
        return [kind for kind in wanted if any(kind not in map(self.kind, self.members(*ball)) for ball in self.balls)]

    @property
    def unchecked(self) -> list[str]:
        """Attackers who know the defence of whom it was not tried whether more iterations help."""
        return [
            attack.attack for attack in self.result.attackers if self._aware(attack) and attack.attack not in self.result.health
        ]

    def _aware(self, attack: AttackRecord) -> bool:
        return self.kind(attack) in {EXACT, SUBSTITUTE}

    def is_aware(self, norm: str, eps: float) -> bool:
        """Whether somebody who knows the defence attacked it in this ball."""
        return any(map(self._aware, self.members(norm, eps)))

    @cached_property
    def refusals(self) -> list[str]:
        """Why it gets no row; empty for one that does."""
        if not self.balls:
            return ["no attack"]
        missing = [f"{eps:g}/255" for norm, eps in self.balls if not self.is_aware(norm, eps)]
        if missing:
            return [f"no adaptive attack at {', '.join(missing)}: nobody had a gradient through the defence"]
        return [*self._still(), *self._helped(), *self._blind()]

    def _still(self) -> Iterator[str]:
        for attack in self.result.attackers:
            if self._aware(attack) and attack.still > STILL:
                yield f"{attack.attack}: its gradient vanishes at {100 * attack.still:.0f} % of the images"

    def _helped(self) -> Iterator[str]:
        for name, gained in self.result.health.items():
            if _is_more(gained):
                yield f"{name}: more iterations still help, twice as many take {percent(gained)} points more"

    def _blind(self) -> Iterator[str]:
        for ball in self.balls:
            members = self.members(*ball)
            aware = [cell for attack in members if self._aware(attack) for cell in self._cells(attack)]
            for attack in members:
                blind = self.kind(attack) in BLIND and attack.made_for is None  # of a cascade nobody knows what it does alone
                for cell in self._cells(attack) if blind and not self.bare else []:
                    worse = [gap for gap in (self._gap(one, cell) for one in aware) if gap is not None]
                    if worse and all(map(_is_more, worse)):
                        least = min(worse, key=lambda gap: gap.value)
                        yield f"{attack.attack} knows less than the adaptive attacks and takes {percent(least)} points more"

    def _cells(self, attack: AttackRecord) -> list[Cell]:
        wanted = (attack.attack, self.result.defence.name, SAVED)
        return [cell for cell in self.result.trials if (cell.attack, cell.defence, cell.quantisation) == wanted]

    def _gap(self, aware: Cell, blind: Cell) -> Estimate | None:
        """Accuracy that the blind attack takes beyond the other, on the images of both; None for one person's."""
        n = min(len(aware.predicted), len(blind.predicted))
        labels = np.array(self.result.data.labels[:n])
        kept = [(np.array(cell.predicted[:n]) == labels).astype(np.float64) for cell in (aware, blind)]
        try:
            means = Means(labels)
        except InputError:
            return None
        return means.estimate(means.of(kept[0]) - means.of(kept[1]))


def attackers_of(row: Row) -> int:
    """Of how many attackers it is: several of a worst case, else one."""
    return int(row.attack.split()[3]) if row.attack.startswith("worst case of") else 1


def _is_more(gained: Estimate) -> bool:
    return gained.value > GAIN and gained.low > 0


def _is_of(worst: str, norm: str, eps: float) -> bool:
    return worst.endswith(f", eps {size_name(eps, norm)}")


def board(results: Sequence[Result]) -> tuple[Table, Table, list[str]]:
    """The rows, the refused results with their reasons, and notes on what rows lack."""
    entries = [Entry(result) for result in results]
    shown = sorted((entry for entry in entries if not entry.refusals), key=_place)
    balls = sorted({ball for entry in shown for ball in entry.balls})
    header = ["defence", "recogniser", "people, images", "clean, %", "FRR, %"]
    header += [f"{eps:g}/255" + ("" if norm == "linf" else f" {norm}") + ", %" for norm, eps in balls]
    rows = [tuple(_cells(entry, balls)) for entry in shown]
    keep = [n for n in range(len(header)) if any(row[n] not in {"–", NOT_RUN} for row in rows)]
    table = Table("Defences", tuple(header[n] for n in keep), tuple(tuple(row[n] for n in keep) for row in rows))
    refused = [(e.result.defence.name, _recogniser(e), _size(e), "; ".join(e.refusals)) for e in entries if e.refusals]
    return (
        table,
        Table("Refused", ("defence", "recogniser", "people, images", "why"), tuple(refused)),
        [note for entry in shown for note in _notes(entry)],
    )


def _place(entry: Entry) -> tuple[bool, float]:
    """No defence first, then by what the worst case of the middle ball leaves."""
    row = list(entry.balls.values())[len(entry.balls) // 2]
    return not entry.bare, -row.accuracy.value


def _cells(entry: Entry, balls: Sequence[tuple[str, float]]) -> Iterator[str]:
    yield from (entry.result.defence.name, _recogniser(entry), _size(entry), percent(entry.clean.accuracy))
    yield percent(entry.clean.frr)
    yield from (percent(entry.balls[ball].accuracy) if ball in entry.balls else NOT_RUN for ball in balls)


def _recogniser(entry: Entry) -> str:
    return entry.result.recogniser.partition(",")[0]


def _size(entry: Entry) -> str:
    return f"{entry.result.data.people}, {entry.clean.accuracy.n}"


def _notes(entry: Entry) -> Iterator[str]:
    name = f"{entry.result.defence.name}, {_recogniser(entry)}"
    if entry.result.defence.preset in RETIRED_PRESETS:
        yield f"{name}: this preset is retired; its weights do not ship."
    if not entry.result.complete:
        yield f"{name}: the run is not finished."
    if entry.lacking:
        yield f"{name}: no attack of the kinds {', '.join(entry.lacking)} at every eps, so what is left may be less."
    if entry.unchecked:
        yield f"{name}: it was not tried whether more iterations help {', '.join(entry.unchecked)}."
    for ball, shown in entry.balls.items():
        for row in entry.together(*ball):
            if row.accuracy.n < shown.accuracy.n:
                left = f"all {attackers_of(row)} attackers of {ball[1]:g}/255 leave {percent(row.accuracy)}"
                yield f"{name}: on {many(row.accuracy.n, 'image')} {left}."
    small = [f"{eps:g}/255: {many(row.accuracy.n, 'image')}" for (_, eps), row in entry.balls.items()
             if row.accuracy.n < entry.clean.accuracy.n]  # fmt: skip
    if small:
        yield f"{name}: fewer images were attacked, {'; '.join(small)}."


def markdown(results: Sequence[Result], command: str) -> str:
    """The board as Markdown."""
    return _page("board.md.j2", results, command)


def html(results: Sequence[Result], command: str) -> str:
    """The board as one HTML file that loads nothing else."""
    return _page("board.html.j2", results, command)


def _page(template: str, results: Sequence[Result], command: str) -> str:
    table, refused, notes = board(results)
    return fill(
        template, table=table, refused=refused, notes=notes, command=command, gain=f"{100 * GAIN:g}", still=f"{100 * STILL:g}"
    )
