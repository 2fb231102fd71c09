"""What the page of results says of the tamper scores: from the records of ``tamper.toml`` and ``tamper-joint.toml``."""

from __future__ import annotations

from pathlib import Path

from facesieve.metrics.intervals import Estimate
from facesieve.report.record import load_record
from facesieve.report.text import percent

RECORDS = ("tamper", "tamper-joint")
SCORES = {"change": "tamper score", "disagreement": "disagreement", "both": "either"}
FOUND = "attacked images found at 1 % false alarms"
ABOVE = "attacked images above the default threshold"
ALARMS = "false alarms at the default threshold"

Rows = list[list[str]]


def of(results: Path) -> dict[str, Rows]:
    """Lines of three tables: what is told apart, false alarms, what each policy gives; and attacks that know of the scores."""
    tables: dict[str, Rows] = {"told": [], "alarms": [], "policies": [], "joint": []}
    for name in RECORDS:
        path = results / f"evaluation-{name}.json"
        if not path.exists():
            continue
        record = load_record(path)
        found = record.measures["tamper"]
        defences = [defence for defence in record.defences if any(f", {defence.name}" in figure for figure in found)]
        for defence in (one.name for one in defences):
            if name == RECORDS[0]:
                tables["alarms"].append([defence, *(cell(found.get(f"{score}: {ALARMS}, {defence}")) for score in SCORES)])
                tables["policies"].append([defence, "none: refused or unknown", *policies(found, "FRR clean, ", defence)])
            for attack in (one.name for one in record.attacks):
                place = f"{defence}, {attack.partition(', through ')[0]}"
                if f"change: {FOUND}, {place}" not in found:
                    continue
                tables["joint"] += [[attack]] if name != RECORDS[0] else []
                for score, called in SCORES.items():
                    area = found.get(f"{score}: area under the ROC curve, {place}")
                    told = [cell(found.get(f"{score}: {what}, {place}")) for what in (FOUND, ABOVE)]
                    count = "" if area is None else str(area.n)
                    tables["told"].append(
                        [*place.split(", ", 1), called, "" if area is None else f"{area.value:.3f}", *told, count]
                    )
                for what in ("named as somebody else", "named as who it shows"):
                    tables["policies"].append(
                        [defence, f"{place.split(', ', 1)[1]}: {what}", *policies(found, f"{what}, ", place)]
                    )
    tables["policies"] = [row for row in tables["policies"] if any(row[2:])]
    return {name: [row for number, row in enumerate(rows) if row not in rows[:number]] for name, rows in tables.items()}


def policies(found: dict[str, Estimate], begin: str, place: str) -> list[str]:
    """A figure by policy."""
    names = ["purify", *(f"refuse by {score}" for score in SCORES)]
    return [cell(found.get(f"{begin}{name}, {place}")) for name in names]


def cell(estimate: Estimate | None) -> str:
    """In percent, with its interval."""
    return "" if estimate is None else percent(estimate)
