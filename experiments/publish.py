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
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import tamper_page

from facesieve.errors import RecordError, many
from facesieve.evaluate.experiment import AttackSettings, DefenceSettings, read_experiment
from facesieve.files import write_atomic
from facesieve.metrics.intervals import Estimate
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import prior_hash
from facesieve.purify import PRESETS
from facesieve.report.board import NOT_RUN, Entry, attackers_of
from facesieve.report.board import markdown as draw_board
from facesieve.report.certificates import draw as draw_certificates
from facesieve.report.pages.markdown import markdown
from facesieve.report.record import NONE, Record, load_record
from facesieve.report.result import read_results, results_of
from facesieve.report.tables import Row, tables_of
from facesieve.report.targets import Target, read_targets
from facesieve.report.templates import fill
from facesieve.report.text import number
from facesieve.report.text import percent as in_percent

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
RESULTS = DOCS / "results"
README = HERE.parent / "README.md"
FIGURES = HERE.parent / "src" / "facesieve" / "purify" / "figures.json"  # in the package
MARKED = re.compile(r"(?<=<!-- presets: written by experiments/publish.py -->\n).*?(?=<!-- presets: end -->)", re.S)

# Records of the presets are called by what was measured, and by recogniser.
KINDS = (
    "clean",
    "oblivious",
    "worst-case",
    "worst-congress",
    "london",
    "congress",
    "transfer",
    "published",
    "published-slow",
)
RECOGNISERS = {"sface": "SFace", "dlib": "dlib", "facenet": "FaceNet-105"}
UNKNOWN = "?"
QUICK = [name for name, preset in PRESETS.items() if preset.evaluations == 1]
FEWEST = 3  # attackers of a worst case: the exact gradient, a substitute for it, and none of the prior's
ENOUGH = 100  # images; a figure of fewer has their number beside it

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
        presets=presets_at_length(),
        unmeasured=unmeasured(),
        worst_cases=worst_cases(),
        strengths=read("strengths.json"),
        **{function.__name__: function for function in (percent, points, interval, reached, bands, searched, number)},
    )


# --- the presets in use ----------------------------------------------------------------------------------


def readme() -> str:
    """The README with the table of today."""
    head, rule, none, *rows = presets_in_short()
    there = [cells for cells in rows if set(cells[1:]) != {UNKNOWN}]
    lines = [line(cells) for cells in (head, rule, none, *there)]
    if len(there) < len(rows):
        missing = ", ".join(cells[0] for cells in rows if cells not in there)
        lines += ["", f"?: not measured yet with the weights of today. Nothing was measured of {missing}."]
    return MARKED.sub(lambda _: "\n".join(lines) + "\n", README.read_text())


def line(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def presets_in_short() -> Iterator[list[str]]:
    """The README's table: no shield, then each preset, on SFace and dlib."""
    yield [
        "",
        "clean accuracy lost",
        "FRR at FAR 1 %",
        "unaware, 2/255",
        "unaware, 8/255",
        "aware, 2/255",
        "aware, 8/255",
        "ms a face",
    ]
    yield ["---"] * 8
    for name in (NONE, *PRESETS):
        attacked = [both(name, attack, eps) for attack in (oblivious, worst) for eps in (2, 8)]
        yield ["no shield" if name == NONE else f"`{name}`", both(name, lost), both(name, frr), *attacked, milliseconds(name)]


def both(preset: str, figure: Any, *eps: int) -> str:
    """A figure of a preset on SFace and on dlib."""
    found = [figure(preset, recogniser, *eps) for recogniser in ("sface", "dlib")]
    return found[0] if found[0] == found[1] in (UNKNOWN, "–") else " / ".join(found)


def lost(preset: str, recogniser: str) -> str:
    """Points of clean accuracy."""
    return "–" if preset == NONE else next((shown(row.lost) for row in clean(preset, recogniser) if row.lost), UNKNOWN)


def frr(preset: str, recogniser: str) -> str:
    """At the threshold for FAR 1 %."""
    return next((shown(row.frr) for row in clean(preset, recogniser) if row.frr), UNKNOWN)


def oblivious(preset: str, recogniser: str, eps: int) -> str:
    """Accuracy under an attacker who does not know the preset."""
    found = [row for kind in ("oblivious", "worst-case") for row in known(kind, recogniser, preset)]
    return next((shown(row.accuracy) for row in found if row.attack == f"oblivious, eps {eps}/255"), UNKNOWN)


def worst(preset: str, recogniser: str, eps: int) -> str:
    """Accuracy in the worst case of those who do; at most that where not all of them have been tried."""
    if preset == NONE:  # whoever knows no preset knows all there is
        return oblivious(preset, recogniser, eps)
    rows = [row for row in known("worst-case", recogniser, preset) if row.attack.endswith(f", eps {eps}/255")]
    rows = [row for row in rows if not row.attack.startswith("oblivious")]
    if rows:
        best = max(rows, key=lambda row: (min(row.accuracy.n, ENOUGH), attackers_of(row)))
        every = attackers_wanted(record("worst-case", recogniser).experiment, preset, eps)
        whole = every >= FEWEST and attackers_of(best) >= every
        return ("" if whole else "≤ ") + shown(best.accuracy)
    return UNKNOWN


def attackers_wanted(experiment: dict[str, Any], preset: str, eps: int) -> int:
    """How many attackers of an eps an experiment has for a preset, those on a few images left out."""
    attacks = [each for one in experiment["attacks"] for each in AttackSettings.model_validate(one).each()]
    defences = [each for one in experiment["defences"] for each in DefenceSettings.model_validate(one).each()]
    defence = next(each for each in defences if each.name == preset)
    return sum(each.eps == eps and each.probes is None and defence.faces(each) for each in attacks)


def figures() -> bytes:
    """What `facesieve presets` says of each: on SFace and on dlib, as in the README's table; none of what was not measured."""
    made = {"clean_lost": lost, "unaware": oblivious, "aware": worst}
    found: dict[str, dict[str, str]] = {}
    for preset in PRESETS:
        both_of = {key: both(preset, figure, *([] if key == "clean_lost" else [2])) for key, figure in made.items()}
        found[preset] = {key: text for key, text in {**both_of, "ms": milliseconds(preset)}.items() if text != UNKNOWN}
    return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()


def milliseconds(preset: str) -> str:
    """A face, on one core. Presets of one evaluation run the same network: of theirs the least, since others' work only adds."""
    if preset == NONE:
        return "–"
    if not (own := seconds(preset)):
        return UNKNOWN
    alike = [each for name in QUICK for each in seconds(name)] if preset in QUICK else []
    return f"{1000 * min(own + alike):.0f}"


def seconds(preset: str) -> list[float]:
    """A face, as it was measured on clean images."""
    return [row.seconds for row in clean(preset, "sface") if row.seconds]


def shown(estimate: Estimate) -> str:
    """In percent, with the number of images where it is small."""
    return f"{100 * estimate.value:.1f}" + ("" if estimate.n >= ENOUGH else f" (n = {estimate.n})")


def clean(preset: str, recogniser: str) -> list[Row]:
    """Its rows of clean images."""
    return [row for kind in ("clean", "worst-case") for row in known(kind, recogniser, preset) if row.attack == NONE]


@cache
def record(kind: str, recogniser: str) -> Record | None:
    """The published one."""
    path = RESULTS / f"evaluation-{kind}-{recogniser}.json"
    return load_record(path) if path.exists() else None


@cache
def known(kind: str, recogniser: str, preset: str) -> list[Row]:
    """What was measured of images saved as 8 bit, with the weights that ship today."""
    found = record(kind, recogniser)
    if found is None:
        return []
    if preset != NONE:
        shipped = prior_hash(embedded_prior_folder(PRESETS[preset].prior))
        if shipped not in found.environment["prior_sha256"].split(", "):
            return []
    return [row for row in tables_of(found).rows if row.defence == preset and row.quantisation == "uint8"]


def presets_at_length() -> list[list[str]]:
    """Every figure of every preset with its interval, of all records: where, preset, what, value, images."""
    found = []
    for kind in KINDS:
        for recogniser, name in RECOGNISERS.items():
            for preset in PRESETS:
                for row in known(kind, recogniser, preset):
                    where = f"{name}, `{kind}`"
                    figures = {"accuracy": row.accuracy, "points lost": row.lost, "FRR": row.frr, "recovery": row.recovery}
                    figures = figures if row.attack == NONE else {"accuracy": row.accuracy, "recovery": row.recovery}
                    what = "clean" if row.attack == NONE else row.attack
                    found += [[where, preset, f"{what}: {figure}", in_percent(e), str(e.n)] for figure, e in figures.items() if e]
    return found


def worst_cases() -> list[list[str]]:
    """For every defence of `worst-case.toml`, on both recognisers at each eps: what is left, of how many attackers and images."""
    made = read_experiment(HERE / "worst-case.toml")
    wanted = {NONE: None, **{defence.name: defence.preset for defence in made.all_defences()}}
    return [
        [RECOGNISERS[recogniser], name, *(worst_case(name, preset, recogniser, eps) for eps in (0.5, 2, 8))]
        for recogniser in ("sface", "dlib")
        for name, preset in wanted.items()
    ]


def worst_case(name: str, preset: str | None, recogniser: str, eps: float) -> str:
    """The cell of most images, then of most attackers, among the records that have it."""
    rows = []
    for kind in ("worst-case", *(["oblivious"] if name == NONE else [])):  # who knows no defence knows all there is
        found = record(kind, recogniser)
        if found is None or (preset is not None and not known(kind, recogniser, preset)):
            continue
        entries = [Entry(result) for result in results_of(found) if result.defence.name == name]
        rows += [entry.balls["linf", eps] for entry in entries if entry.is_aware and ("linf", eps) in entry.balls]
    if not rows:
        return NOT_RUN
    best = max(rows, key=lambda row: (min(row.accuracy.n, ENOUGH), attackers_of(row), row.accuracy.n))
    return f"{in_percent(best.accuracy)} ({many(attackers_of(best), 'attacker')}, n = {best.accuracy.n})"


def unmeasured() -> list[str]:
    """Experiments of the presets without a published record of today's weights."""
    named = [
        f"{kind}-{recogniser}" for kind in KINDS for recogniser in RECOGNISERS if (HERE / f"{kind}-{recogniser}.toml").exists()
    ]
    return [name for name in named if not any(known(*name.rsplit("-", 1), preset) for preset in PRESETS)]


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
