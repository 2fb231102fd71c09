"""Keep what an evaluation found: its pages in ``docs/results``, its figures for which a mark is set in ``marks.json``.

    facesieve evaluate experiments/paper-sface.toml --source DIR --manifest JSON -o RUN
    python experiments/evaluation_marks.py RUN --name sface

``docs/results/evaluation-NAME.json`` is the record itself, from which ``facesieve report`` draws the rest again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import RESULTS, Record, how, keep_marks

from facesieve.files import write_with_folder
from facesieve.metrics.intervals import Estimate
from facesieve.report.pages import markdown
from facesieve.report.record import NONE, Report, load_report
from facesieve.report.tables import Row, rows

OURS = "best of ours"
# by the kind of recogniser: eps, preset, wanted recovery in percent, points of clean accuracy that may be lost
WANTED = {
    True: ((0.5, "paper", 58.0, 2.25), (0.5, OURS, 90.0, 0.5)),
    False: ((2.0, OURS, 95.0, 1.0), (8.0, OURS, 80.0, 1.0)),
}


def marks(report: Report, name: str) -> list[Record]:
    """Recovery and loss at the settings that have a mark, in both forms of saving."""
    found, made = rows(report), []
    published = {None, "paper", "stage1", "stage2"}
    ours = [d["name"] or d["preset"] for d in report.experiment["defences"] if d["preset"] not in published]
    for eps, preset, recovery, lost in WANTED[report.closed_set]:
        for quantisation in ("float", "uint8"):
            attack = f"pgd, eps {eps:g}/255"
            chosen = [r for r in found if (r.attack, r.quantisation) == (attack, quantisation) and r.recovery is not None]
            names = ours if preset == OURS else [preset]
            chosen = [r for r in chosen if any(r.defence == n or r.defence.startswith(f"{n},") for n in names)]
            if not chosen:
                continue
            best = max(chosen, key=lambda r: r.recovery.value)  # type: ignore[union-attr]
            clean = next(r for r in found if r.attack == NONE and r.defence == best.defence)
            where = f"{preset}, {name}, eps {eps:g}/255, {quantisation}"
            made.append(mark(f"recovery, {where}", f">= {recovery:g}", best.recovery, best))
            made.append(mark(f"clean accuracy lost, {where}", f"<= {lost:g}", clean.lost, clean))
    return made


def mark(title: str, wanted: str, estimate: Estimate | None, row: Row) -> Record:
    """In percent."""
    assert estimate is not None
    value, low, high = (round(100 * number, 2) for number in (estimate.value, estimate.low, estimate.high))
    return {"mark": title, "wanted": wanted, "value": value, "low": low, "high": high, "n": estimate.n, "defence": row.defence}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--name", required=True, help="of the recogniser, in file names and marks; what follows a dash is in file names alone"
    )
    parser.add_argument("--pages-only", action="store_true", help="keep no marks: of a study of settings, or of few people")
    args = parser.parse_args()
    report = load_report(args.run)
    found = [] if args.pages_only else marks(report, args.name.partition("-")[0])
    if found:
        keep_marks("C", found, how(args.run))
    write_with_folder(RESULTS / f"evaluation-{args.name}.json", (report.model_dump_json() + "\n").encode())
    write_with_folder(RESULTS / f"evaluation-{args.name}.md", markdown(report).encode())
    for entry in found:
        print(f"{entry['mark']}: {entry['value']} [{entry['low']}, {entry['high']}] (wanted {entry['wanted']})")


if __name__ == "__main__":
    main()
