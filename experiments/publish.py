"""Publish what was measured: a run's record in ``docs/results``, the records' pages, ``docs/results.md`` and ``docs/board.md``,
the README's table.

    python experiments/publish.py [RUN ... --name NAME]

``RUN`` is the folder of a `facesieve evaluate`, whose record becomes ``evaluation-NAME.json``; several of one experiment, each
of other defences (``--defence``), become one record.
Without it the pages alone are written, from the files in ``docs/results`` and from nothing else. What they say of a preset in
use is of the weights that ship with it today: what was measured of others is "?".
"""

from __future__ import annotations

import argparse
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import tamper_page
from preset_tables import PresetTables

from facesieve.errors import RecordError
from facesieve.files import write_atomic
from facesieve.report.board import markdown as draw_board
from facesieve.report.certificates import draw as draw_certificates
from facesieve.report.pages.markdown import markdown
from facesieve.report.record import Record, load_record
from facesieve.report.result import read_results
from facesieve.report.tables import tables_of
from facesieve.report.targets import Target, read_targets
from facesieve.report.templates import fill
from facesieve.report.text import number

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = DOCS / "results"
README = HERE.parent / "README.md"
FIGURES = HERE.parent / "src" / "facesieve" / "purify" / "figures.json"  # in the package
MARKED = re.compile(r"(?<=<!-- presets: written by experiments/publish.py -->\n).*?(?=<!-- presets: end -->)", re.S)

# Records with attacks: of the presets in use, and of baselines.
ON_THE_BOARD = ("worst-case-sface", "worst-case-dlib", "oblivious-sface", "sface-adaptive")

GALLERY = {
    "back_end": "back end", "templates": "templates", "search": "search", "recall_at_1": "recall at 1",
    "recall_at_10": "recall at 10", "ms_p50": "ms, median", "ms_p95": "ms, 95 %",
    "process_MiB": "process MiB", "server_MiB": "server MiB", "index_seconds": "index s",
}  # fmt: skip


DISTILLED = (
    "FaceNet-105 was distilled from SFace: an attack on one of the two transfers to the other more than between strangers."
)


def keep(runs: list[Path], name: str) -> None:
    """The record of a run or of several, or the figures of certificates."""
    if (runs[0] / "certificates.json").exists():
        write_atomic(RESULTS / f"{name}.json", (runs[0] / "certificates.json").read_bytes())
        draw_certificates(read(f"{name}.json"), RESULTS)
        return
    made = together([load_record(run) for run in runs])
    write_atomic(RESULTS / f"evaluation-{name}.json", (made.model_dump_json() + "\n").encode())


def together(parts: list[Record]) -> Record:
    """Records of one experiment on one selection, each of other defences, as one. Raises ``RecordError`` for any others."""
    first, *others = parts

    def same(part: Record) -> tuple[object, ...]:
        rest = {key: value for key, value in part.experiment.items() if key not in {"defences", "targets"}}
        return rest, part.labels, part.environment["recogniser"], part.environment["manifest_sha256"]

    if any(same(part) != same(first) for part in others):
        raise RecordError("the runs are of several experiments or selections", advice="publish each under its own name")
    hashes = sorted({one for part in parts for one in part.environment["prior_sha256"].split(", ")})
    cells = {(cell.attack, cell.quantisation, cell.defence, cell.point): cell for part in parts for cell in part.cells}
    return first.model_copy(
        update={
            "experiment": {**first.experiment, "defences": [each for part in parts for each in part.experiment["defences"]]},
            "environment": {**first.environment, "prior_sha256": ", ".join(hashes)},
            "defences": tuple(each for part in parts for each in part.defences),
            "attacks": tuple({attack.name: attack for part in parts for attack in part.attacks}.values()),
            "cells": tuple(cells.values()),
            "measures": {
                name: {k: v for part in parts for k, v in part.measures.get(name, {}).items()} for name in first.measures
            },
            "complete": all(part.complete for part in parts),
        }
    )


def evaluation(path: Path) -> str:
    """A record's page, which says of FaceNet-105 where it comes from."""
    record = load_record(path)
    title, rest = markdown(tables_of(record)).split("\n", 1)
    return f"{title}\n\n{DISTILLED}\n{rest}" if "facenet-105" in record.model_dump_json() else f"{title}\n{rest}"


def board() -> str:
    """Our board, as the command at its end draws it."""
    places = [Path("docs/results") / f"evaluation-{name}.json" for name in ON_THE_BOARD]
    places = [place for place in places if (HERE.parent / place).exists()]
    found = read_results([HERE.parent / place for place in places])
    return draw_board(found, f"facesieve board {' '.join(map(str, places))} -o docs")


def records() -> list[Path]:
    """The published records."""
    return sorted(RESULTS.glob("evaluation-*.json"))


def page() -> str:
    """All results as Markdown."""
    tables = PresetTables(RESULTS)
    return fill(
        "results.md.j2",
        folder=HERE,
        **{name: read(f"{name}.json") for name in ("core", "tuning", "gallery")},
        metrics=read("identification-metrics.json"),
        templates=read("identification-templates.json"),
        tamper=tamper_page.of(RESULTS),
        targets=read_targets(RESULTS / "targets.json"),
        evaluations=[path.stem.removeprefix("evaluation-") for path in records()],
        survival={path.stem.removeprefix("survival-"): read(path.name) for path in sorted(RESULTS.glob("survival-*.json"))},
        speed=(RESULTS / "speed.md").read_text(),
        gallery_columns=GALLERY,
        presets=tables.presets_at_length(),
        unmeasured=tables.unmeasured(),
        worst_cases=tables.worst_cases(),
        strengths=read("strengths.json"),
        **{function.__name__: function for function in (percent, points, interval, reached, bands, searched, number)},
    )


def readme() -> str:
    """The README with the table of today."""
    return MARKED.sub(lambda _: "\n".join(PresetTables(RESULTS).lines()) + "\n", README.read_text())


def figures() -> bytes:
    """What `facesieve presets` says of each."""
    return PresetTables(RESULTS).figures()


# --- the rest ----------------------------------------------------------------------------------------------


def read(name: str) -> Any:
    """A file of docs/results."""
    return json.loads((RESULTS / name).read_text())


def percent(row: dict[str, Any]) -> str:
    """A value with its interval; nothing where it was not measured."""
    return "" if not row else f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def points(row: dict[str, float]) -> str:
    """A share with its interval, in points."""
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * row[key] for key in ("value", "low", "high")))


def interval(target: Target) -> str:
    """From where to where a figure may lie."""
    return "" if target.low is None else f"{target.low} to {target.high}"


def reached(target: Target) -> str:
    """Whether the figure is as wanted."""
    return {True: "reached", False: "**missed**", None: "-"}[target.reached]


def searched(row: dict[str, Any]) -> list[object]:
    """A row of the galleries' table."""
    return [row.get(key, "") for key in GALLERY]


def bands(edges: list[float]) -> list[str]:
    """Between which spatial frequencies each band lies."""
    return [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="*")
    parser.add_argument("--name", help="of the run, in file names")
    args = parser.parse_args()
    if (not args.run) != (args.name is None):
        parser.error("give a run and its --name, or neither")
    if args.run:
        keep(args.run, args.name)
    for path in records():
        write_atomic(path.with_suffix(".md"), evaluation(path).encode())
    write_atomic(DOCS / "results.md", page().encode())
    write_atomic(DOCS / "board.md", board().encode())
    write_atomic(README, readme().encode())
    write_atomic(FIGURES, figures())


if __name__ == "__main__":
    main()
