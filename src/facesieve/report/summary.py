"""What a reader must know first: a record in three sentences, and what is left at a glance."""

from __future__ import annotations

from collections.abc import Iterable

from facesieve.errors import many
from facesieve.metrics.intervals import Estimate
from facesieve.report.record import NONE, THROUGH
from facesieve.report.tables import Row, Tables
from facesieve.report.text import Table, names_of, percent
from facesieve.report.worst import size_name

SHOWN = 3  # defences, or sizes of attacks, that a sentence names one by one
Ball = tuple[str, float]  # norm and eps


def summary(tables: Tables, warnings: int) -> list[str]:
    """Three sentences: on clean images, under attack, and how far to trust it; ``warnings`` is how many stand below."""
    return [_clean(tables), _attacked(tables), _trust(tables, warnings)]


def glance(tables: Tables) -> Table | None:
    """Each defence's accuracy on clean images and, of each size of attack, under the worst that was tried; None without any."""
    worst = {ball: rows for ball, rows in _worst(tables).items() if rows}
    clean = {row.defence: row for row in tables.rows if row.attack == NONE}
    if not worst:
        return None
    header = ("defence", "clean, %", *(f"{_size(ball)}, %" for ball in worst))
    known = {ball: _known(tables, ball) for ball in worst}

    def left(name: str, ball: Ball, rows: dict[str, Row]) -> str:
        """What is left of it; beside defences that some attack knew it is said of one that none did."""
        told = " (unaware)" if name in rows and name != NONE and known[ball] and name not in known[ball] else ""
        return percent(rows[name].accuracy if name in rows else None) + told

    lines = [
        (name, percent(row.accuracy), *(left(name, ball, rows) for ball, rows in worst.items())) for name, row in clean.items()
    ]
    note = "Under the attack, or the worst case of several, that leaves least; saved as 8 bit where that was tried."
    if any("(unaware)" in cell for line in lines for cell in line):
        note += " Unaware: no attack of that size knew this defence, so it stands beside no other."
    return Table("What is left, at a glance", header, tuple(lines), note)


def _known(tables: Tables, ball: Ball) -> set[str]:
    """The defences that an attack of one size knew."""
    made = (attack for attack in tables.record.attacks if (attack.norm, attack.eps) == ball)
    return {attack.name.partition(THROUGH)[2] for attack in made} - {""}


def _worst(tables: Tables) -> dict[Ball, dict[str, Row]]:
    """By size of attack and defence: the row that leaves least, of those on most images and, where there are some, in 8 bits."""
    balls: dict[Ball, dict[str, list[Row]]] = {}
    for attack in tables.record.attacks:
        balls.setdefault((attack.norm, attack.eps), {})
    for ball, found in balls.items():
        names = names_of(tables.record, ball)
        for row in (row for row in tables.rows if row.attack in names):
            found.setdefault(row.defence, []).append(row)
    return {ball: {name: _least(rows) for name, rows in found.items()} for ball, found in sorted(balls.items())}


def _least(rows: list[Row]) -> Row:
    saved = [row for row in rows if row.quantisation == "uint8"] or rows
    most = max(row.accuracy.n for row in saved)
    return min((row for row in saved if row.accuracy.n == most), key=lambda row: row.accuracy.value)


def _size(ball: Ball) -> str:
    norm, eps = ball
    return size_name(eps, norm)


def _clean(tables: Tables) -> str:
    rows = {row.defence: row for row in tables.rows if row.attack == NONE}
    behind = [row for name, row in rows.items() if name != NONE]
    count, names = many(len(tables.record.labels), "clean image"), len(tables.record.people)
    parts = [f"{_share(rows[NONE].accuracy)} without a defence"] if NONE in rows else []
    if len(behind) <= SHOWN:
        parts += [f"{_share(row.accuracy)} behind {row.defence}" for row in behind]
    else:
        least, best = (pick(behind, key=lambda row: row.accuracy.value) for pick in (min, max))
        low, high = (f"{100 * row.accuracy.value:.1f} % ({row.defence})" for row in (least, best))
        parts.append(f"from {low} to {high} behind {many(len(behind), 'defence')}")
    return f"Of {count}, {_listed(parts)} get the right one of {many(names, 'name')}." if parts else f"There are {count}."


def _attacked(tables: Tables) -> str:
    worst = {ball: rows for ball, rows in _worst(tables).items() if rows}
    if not worst:
        return "Nothing was attacked."
    parts = []
    for ball, rows in list(worst.items())[:SHOWN]:
        known = _known(tables, ball)
        behind = [row for name, row in rows.items() if name != NONE and (not known or name in known)]
        best = max(behind, key=lambda row: row.accuracy.value, default=None)
        said = [] if best is None else [f"{_share(best.accuracy)} behind {best.defence}" + " (the best)" * (len(behind) > 1)]
        said += [f"{_share(rows[NONE].accuracy)} without a defence"] if NONE in rows else []
        parts.append(f"at {_size(ball)}, {_listed(said)}")
    more = f"; {many(len(worst) - SHOWN, 'more size')} below" if len(worst) > SHOWN else ""
    return f"The worst attacks that were tried leave, {'; '.join(parts)}{more}."


def _trust(tables: Tables, warnings: int) -> str:
    record = tables.record
    every = {attack.attack for attack in record.attacks}
    knew = {attack.attack for attack in record.attacks if THROUGH in attack.name}
    if not every:
        said = "What is left to an attacker was not measured"
    elif not knew:
        said = "No attack knew a defence: one that does leaves less"
    else:
        said = f"{len(knew)} of {many(len(every), 'attack')} knew the defence"
    if not record.complete:
        said += ", and the run is not finished"
    return f"{said}; {many(warnings, 'warning')} below." if warnings else f"{said}."


def _share(found: Estimate) -> str:
    """``98.1 % [95.2, 100.0]``."""
    value, _, interval = percent(found).partition(" ")
    return f"{value} % {interval}".strip()


def _listed(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
