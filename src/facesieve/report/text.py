"""A record's numbers as text: titles, headers and cells, the same for every page that shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from facesieve.errors import many
from facesieve.metrics.intervals import Estimate
from facesieve.report import published
from facesieve.report.record import NONE, AttackRecord, Record
from facesieve.report.tables import Row, Steps, Tables
from facesieve.report.worst import worst_name


@dataclass(frozen=True)
class Table:
    """Plain text, ready to be laid out."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def title(record: Record) -> str:
    """What was evaluated, in a line."""
    people, images = many(len(record.people), "person", "people"), many(len(record.labels), "image")
    return f"Evaluation: {record.environment['recogniser']}; {people}, {images}"


def names_of(record: Record, ball: tuple[str, float]) -> set[str]:
    """The names of the rows of one size of attack, by norm and eps: those of the attacks, and of their worst cases."""
    norm, eps = ball
    names = {attack.attack for attack in record.attacks if (attack.norm, attack.eps) == ball}
    return names | {worst_name(count, eps, norm) for count in range(2, len(names) + 1)}


def percent(found: Estimate | None) -> str:
    """``69.3 [64.1, 74.0]``, in percent."""
    if found is None:
        return "–"
    if math.isnan(found.low):
        return f"{100 * found.value:.1f}"
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def worded(tables: Tables) -> list[Table]:
    """Clean images first, the worst cases, each attack in each form that it was saved in; steps within defences; measures."""
    record = tables.record
    attacks = {attack.attack: attack for attack in reversed(record.attacks)}  # the first of each name
    by_set: dict[tuple[str, str], list[Row]] = {}
    for row in tables.rows:
        by_set.setdefault((row.attack, row.quantisation), []).append(row)
    sets = sorted(by_set.items(), key=lambda item: (item[0][0] != NONE, item[0][0] in attacks))  # worst cases are no attack's
    found = [_table(record, name, attacks.get(name), quantisation, group) for (name, quantisation), group in sets]
    found += [_steps(record, steps) for steps in tables.steps]
    return [*found, *filter(None, (_measured(name, values) for name, values in record.measures.items()))]


def _table(record: Record, name: str, attack: AttackRecord | None, quantisation: str, group: list[Row]) -> Table:
    clean = name == NONE
    columns = ["defence", "images", "accuracy, %"]
    columns += ["points lost"] if clean else ["recovery, %"]
    if record.closed_set:
        columns += ["p(correct), %"]
    if any(row.frr is not None for row in group):
        columns += ["FRR, %", "FAR, %"]
    theirs = _is_published(record, attack)
    if theirs:
        columns += ["published: accuracy, %", "published: points lost" if clean else "published: recovery, %"]
    columns += ["ms a face"]
    lines = []
    for row in group:
        line = [row.defence, str(row.accuracy.n), percent(row.accuracy)]
        line += [percent(row.lost if clean else row.recovery)]
        if record.closed_set:
            line += [percent(row.probability)]
        if "FRR, %" in columns:
            line += [percent(row.frr), percent(row.far)]
        if theirs:
            line += _published(row, clean=clean)
        line += ["–" if row.seconds is None else f"{1000 * row.seconds:.0f}"]
        lines.append(tuple(line))
    return _filled(Table(_title(name, quantisation), tuple(columns), tuple(lines), _note(record, name, attack)))


def _filled(table: Table) -> Table:
    """Without columns in which nothing stands."""
    keep = [place for place in range(len(table.header)) if any(line[place] != "–" for line in table.rows)]
    rows = tuple(tuple(line[place] for place in keep) for line in table.rows)
    return replace(table, header=tuple(table.header[place] for place in keep), rows=rows)


def _title(attack: str, quantisation: str) -> str:
    if attack == NONE:
        return "Clean images"
    return f"{attack}, {'as they are (float)' if quantisation == 'float' else 'saved as 8 bit (uint8)'}"


def _note(record: Record, name: str, attack: AttackRecord | None) -> str:
    if name == NONE:
        return (
            "" if record.closed_set else f"FRR and FAR at the threshold for FAR {100 * record.experiment['run']['far']:g} % here."
        )
    if attack is None:
        return "An image counts as kept only where each of these attacks fails, by itself and with noise of its own."
    own = "" if record.is_shared(name) else " Each defence faces a set of its own, crafted through it."
    draws = f", {many(attack.draws, 'draw')} a step" if attack.draws > 1 else ""
    starts = f", the best of {attack.starts} starts" if attack.starts > 1 else ""
    of = "" if attack.made_for is None else f" Made for {many(attack.made_for, 'image')} that the attacks before it left."
    return (
        f"The attack saw {attack.sees}{_VIEWS.get(attack.view, '')}.{own}{of} {attack.iterations} iterations{draws}{starts}, "
        f"{attack.seconds:g} s an image. Times are of the run as it was, whatever else the machine did."
    )


_VIEWS = {
    "identity": " (its results, with the identity's gradient)",
    "observation": " (its results, with the gradient of what it observes)",
    "range": " (without its prior: what it observes, interpolated)",
}


def _is_published(record: Record, attack: AttackRecord | None) -> bool:
    if not record.closed_set or not record.oblivious:
        return False
    return attack is None or (attack.method, attack.eps, attack.iterations) == ("pgd", 0.5, 40)


def _published(row: Row, *, clean: bool) -> list[str]:
    if row.defence == NONE:
        return [f"{100 * (published.CLEAN if clean else published.ADVERSARIAL):.2f}", "–"]
    if row.defence not in published.PURIFIED:
        return ["–", "–"]
    adversarial, kept = published.PURIFIED[row.defence]
    if clean:
        return ["–", "–"] if kept is None else [f"{100 * kept:.2f}", f"{100 * (published.CLEAN - kept):.2f}"]
    return [f"{100 * adversarial:.2f}", f"{100 * published.recovery(row.defence):.1f}"]


def _steps(record: Record, along: Steps) -> Table:
    """The probability of the correct person along a defence's steps, or its score where there is no closed set."""
    measure = "p(correct), %" if record.closed_set else "score of the correct person"
    lines = []
    for step in along.steps:
        quartiles = ", ".join(f"{100 * q:.1f}" for q in np.quantile(step.values, [0.25, 0.5, 0.75]))
        first = f"{100 * step.values[0]:.1f}"
        lines.append((step_name(step.point), str(len(step.values)), percent(step.mean), quartiles, first))
    header = ("after", "images", f"mean {measure}", "quartiles", "the first image")
    theirs = "; ".join(f"{name} {100 * p:.2f}" for name, p in published.PROBABILITIES.items())
    note = f"Published, of one sample: {theirs}." if record.closed_set and along.attack != NONE else ""
    return Table(f"Step by step: {along.defence}, {along.attack} ({along.quantisation})", header, tuple(lines), note)


def step_name(point: str | None) -> str:
    """Where images stand on the way through a defence."""
    return "before" if point is None else point or "at the end"


def _measured(measure: str, values: dict[str, Estimate]) -> Table | None:
    """A measure's figures; of ``accuracy``, which is the tables' numbers by name, those that no table has."""
    shown = {name: value for name, value in values.items() if measure != "accuracy" or name.startswith("margin")}
    rows = tuple((name, number(value), str(value.n)) for name, value in shown.items())
    if not rows:
        return None
    return Table(f"Measured: {measure}", ("figure", "value", "n"), rows)


def number(found: Estimate) -> str:
    """``0.159 [0.151, 0.167]``, as it is."""
    if math.isnan(found.low):
        return f"{found.value:.4g}"
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"
