"""A report's tables as text: titles, headers and cells, the same for every page that shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from facesieve.metrics.intervals import Estimate
from facesieve.report import published
from facesieve.report.record import NONE, AttackRecord, Report
from facesieve.report.tables import Row, estimate, rows


@dataclass(frozen=True)
class Table:
    """Plain text, ready to be laid out."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def percent(found: Estimate | None) -> str:
    """``69.3 [64.1, 74.0]``, in percent."""
    if found is None:
        return "–"
    if math.isnan(found.low):
        return f"{100 * found.value:.1f}"
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def tables(report: Report) -> list[Table]:
    """Clean images first, then every attack in each form that it was saved in; then the steps within defences."""
    by_set: dict[tuple[str, str], list[Row]] = {}
    for row in rows(report):
        by_set.setdefault((row.attack, row.quantisation), []).append(row)
    attacks = {attack.name: attack for attack in report.attacks}
    found = [_table(report, attacks.get(name), quantisation, group) for (name, quantisation), group in by_set.items()]
    return [*found, *_steps(report)]


def _table(report: Report, attack: AttackRecord | None, quantisation: str, group: list[Row]) -> Table:
    columns = ["defence", "images", "accuracy, %"]
    columns += ["points lost"] if attack is None else ["recovery, %"]
    if report.closed_set:
        columns += ["p(right), %"]
    if any(row.frr is not None for row in group):
        columns += ["FRR, %", "FAR, %"]
    theirs = _is_published(report, attack)
    if theirs:
        columns += ["published: accuracy, %", "published: points lost" if attack is None else "published: recovery, %"]
    columns += ["ms a face"]
    lines = []
    for row in group:
        line = [row.defence, str(row.accuracy.n), percent(row.accuracy)]
        line += [percent(row.lost if attack is None else row.recovery)]
        if report.closed_set:
            line += [percent(row.probability)]
        if "FRR, %" in columns:
            line += [percent(row.frr), percent(row.far)]
        if theirs:
            line += _published(row, clean=attack is None)
        line += ["–" if row.seconds is None else f"{1000 * row.seconds:.0f}"]
        lines.append(tuple(line))
    return Table(_title(attack, quantisation), tuple(columns), tuple(lines), _note(report, attack))


def _title(attack: AttackRecord | None, quantisation: str) -> str:
    if attack is None:
        return "Clean images"
    return f"{attack.name}, {'as they are (float)' if quantisation == 'float' else 'saved as 8 bit (uint8)'}"


def _note(report: Report, attack: AttackRecord | None) -> str:
    if attack is None:
        return (
            "" if report.closed_set else f"FRR and FAR at the threshold for FAR {100 * report.experiment['run']['far']:g} % here."
        )
    own = "" if _oblivious(report) else " Each defence faces a set of its own, crafted through it."
    return (
        f"The attack saw {attack.sees}.{own} {attack.iterations} iterations, {attack.seconds:g} s an image. "
        "Times are of the run as it was, whatever else the machine did."
    )


def _oblivious(report: Report) -> bool:
    return bool(report.experiment["run"].get("threat", "oblivious") == "oblivious")


def _is_published(report: Report, attack: AttackRecord | None) -> bool:
    if not report.closed_set or not _oblivious(report):
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


def _steps(report: Report) -> list[Table]:
    """The probability of the right person along a defence's steps, or its score where there is no closed set."""
    found: list[Table] = []
    measure = "p(right), %" if report.closed_set else "score of the right person"
    for first in report.cells:
        if first.point == "" or any(
            t.title.startswith(f"Step by step: {first.defence}, {first.attack} ({first.quantisation}") for t in found
        ):
            continue
        same = [
            c for c in report.cells if (c.attack, c.quantisation, c.defence) == (first.attack, first.quantisation, first.defence)
        ]
        start = report.cell(first.attack, first.quantisation, NONE)
        faced = first.attack == NONE or _oblivious(report)  # else the defence faces another set than no defence does
        points = [*([("before", start)] if faced else []), *((c.point or "at the end", c) for c in same)]
        lines = []
        for name, cell in points:
            assert cell is not None
            values = np.array(cell.probability if cell.probability is not None else cell.own)[: len(first.own)]
            mean = estimate(lambda w, v=values: float(v @ w / w.sum()) if w.sum() else math.nan, report, len(values))  # type: ignore[misc]
            quartiles = ", ".join(f"{100 * q:.1f}" for q in np.quantile(values, [0.25, 0.5, 0.75]))
            lines.append((name, str(len(values)), percent(mean), quartiles, f"{100 * values[0]:.1f}"))
        header = ("after", "images", f"mean {measure}", "quartiles", "the first image")
        theirs = "; ".join(f"{name} {100 * p:.2f}" for name, p in published.PROBABILITIES.items())
        note = f"Published, of one sample: {theirs}." if report.closed_set and first.attack != NONE else ""
        found.append(Table(f"Step by step: {first.defence}, {first.attack} ({first.quantisation})", header, tuple(lines), note))
    return found
