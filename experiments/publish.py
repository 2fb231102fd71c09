"""Publish what was measured: a run's record and page in ``docs/results``, then ``docs/results.md`` from all that lies there.

    python experiments/publish.py [RUN --name NAME]

``RUN`` is the folder of a `facesieve evaluate`, whose record becomes ``evaluation-NAME.json`` and ``evaluation-NAME.md``.
Without it the page alone is written, by ``results.md.j2``, from the files in ``docs/results`` and from nothing else.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from facesieve.files import write_atomic
from facesieve.metrics.intervals import Estimate
from facesieve.report.pages.markdown import markdown
from facesieve.report.record import load_record
from facesieve.report.tables import tables_of
from facesieve.report.targets import Target, read_targets
from facesieve.report.templates import fill
from facesieve.report.text import number

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = DOCS / "results"

GALLERY = {
    "back_end": "back end", "search": "search", "recall_at_1": "recall at 1", "recall_at_10": "recall at 10",
    "ms_p50": "ms, median", "ms_p95": "ms, 95 %", "process_MiB": "process MiB", "server_MiB": "server MiB",
    "index_seconds": "index s",
}  # fmt: skip


DISTILLED = (
    "FaceNet-105 was distilled from SFace: an attack on one of the two transfers to the other more than between strangers."
)


def keep(run: Path, name: str) -> None:
    """The record of a run and its page, which says of FaceNet-105 where it comes from."""
    record = load_record(run)
    title, rest = markdown(tables_of(record)).split("\n", 1)
    text = f"{title}\n\n{DISTILLED}\n{rest}" if "facenet-105" in record.model_dump_json() else f"{title}\n{rest}"
    write_atomic(RESULTS / f"evaluation-{name}.json", (record.model_dump_json() + "\n").encode())
    write_atomic(RESULTS / f"evaluation-{name}.md", text.encode())


def page() -> str:
    """All results as Markdown."""
    return fill(
        "results.md.j2",
        folder=HERE,
        **{name: read(f"{name}.json") for name in ("core", "tuning", "gallery")},
        metrics=read("identification-metrics.json"),
        templates=read("identification-templates.json"),
        tamper=tamper(),
        targets=read_targets(RESULTS / "targets.json"),
        evaluations=[path.stem.removeprefix("evaluation-") for path in sorted(RESULTS.glob("evaluation-*.md"))],
        survival={path.stem.removeprefix("survival-"): read(path.name) for path in sorted(RESULTS.glob("survival-*.json"))},
        speed=(RESULTS / "speed.md").read_text(),
        gallery_columns=GALLERY,
        **{function.__name__: function for function in (percent, interval, reached, bands, searched, number)},
    )


def tamper() -> dict[str, Estimate]:
    """What the tamper score tells apart, without the names of the one defence and attack."""
    record = load_record(RESULTS / "evaluation-tamper.json")
    (defence,), (attack,) = record.defences, record.attacks
    return {name.removesuffix(f", {defence.name}, {attack.name}"): value for name, value in record.measures["tamper"].items()}


def read(name: str) -> Any:
    """A file of docs/results."""
    return json.loads((RESULTS / name).read_text())


def percent(row: dict[str, Any]) -> str:
    """A value with its interval; nothing where it was not measured."""
    return "" if not row else f"{row['value']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


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
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--name", help="of the run, in file names")
    args = parser.parse_args()
    if (args.run is None) != (args.name is None):
        parser.error("give a run and its --name, or neither")
    if args.run is not None:
        keep(args.run, args.name)
    write_atomic(DOCS / "results.md", page().encode())


if __name__ == "__main__":
    main()
