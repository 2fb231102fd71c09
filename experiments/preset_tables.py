"""What the README and the page of results say of the presets in use, from the published records of today's weights.

What was measured of other weights is "?".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facesieve.errors import many
from facesieve.evaluate.experiment import AttackSettings, DefenceSettings, read_experiment
from facesieve.metrics.intervals import Estimate
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import prior_hash
from facesieve.purify import PRESETS
from facesieve.report.board import NOT_RUN, Entry, attackers_of
from facesieve.report.record import NONE, Record, load_record
from facesieve.report.result import results_of
from facesieve.report.tables import Row, tables_of
from facesieve.report.templates import markdown_row
from facesieve.report.text import percent

HERE = Path(__file__).parent

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


@dataclass(frozen=True, eq=False)
class PresetTables:
    """The tables, from the records in a folder."""

    results: Path
    _records: dict[Path, Record | None] = field(default_factory=dict)
    _rows: dict[tuple[str, str], Sequence[Row]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """The README's table in Markdown; presets of which nothing was measured are named under it."""
        head, rule, none, *rows = self.presets_in_short()
        there = [cells for cells in rows if set(cells[1:]) != {UNKNOWN}]
        yield from map(markdown_row, (head, rule, none, *there))
        if len(there) < len(rows):
            missing = ", ".join(cells[0] for cells in rows if cells not in there)
            yield from ("", f"?: not measured yet with the weights of today. Nothing was measured of {missing}.")

    def presets_in_short(self) -> Iterator[list[str]]:
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
            attacked = [self.both(name, attack, eps) for attack in (self.oblivious, self.worst) for eps in (2, 8)]
            cells = self.both(name, self.lost), self.both(name, self.frr), *attacked, self.milliseconds(name)
            yield ["no shield" if name == NONE else f"`{name}`", *cells]

    def both(self, preset: str, figure: Any, *eps: int) -> str:
        """A figure of a preset on SFace and on dlib."""
        found = [figure(preset, recogniser, *eps) for recogniser in ("sface", "dlib")]
        return found[0] if found[0] == found[1] in (UNKNOWN, "–") else " / ".join(found)

    def lost(self, preset: str, recogniser: str) -> str:
        """Points of clean accuracy."""
        return "–" if preset == NONE else next((shown(row.lost) for row in self.clean(preset, recogniser) if row.lost), UNKNOWN)

    def frr(self, preset: str, recogniser: str) -> str:
        """At the threshold for FAR 1 %."""
        return next((shown(row.frr) for row in self.clean(preset, recogniser) if row.frr), UNKNOWN)

    def oblivious(self, preset: str, recogniser: str, eps: int) -> str:
        """Accuracy under an attacker who does not know the preset."""
        found = [row for kind in ("oblivious", "worst-case") for row in self.known(kind, recogniser, preset)]
        return next((shown(row.accuracy) for row in found if row.attack == f"oblivious, eps {eps}/255"), UNKNOWN)

    def worst(self, preset: str, recogniser: str, eps: int) -> str:
        """Accuracy in the worst case of those who do; at most that where not all of them have been tried."""
        if preset == NONE:  # whoever knows no preset knows all there is
            return self.oblivious(preset, recogniser, eps)
        rows = [row for row in self.known("worst-case", recogniser, preset) if row.attack.endswith(f", eps {eps}/255")]
        rows = [row for row in rows if not row.attack.startswith("oblivious")]
        if rows:
            best = max(rows, key=lambda row: (min(row.accuracy.n, ENOUGH), attackers_of(row)))
            every = attackers_wanted(self.record("worst-case", recogniser).experiment, preset, eps)
            whole = (every >= FEWEST and attackers_of(best) >= every) or best.accuracy.value == 0  # less there is not
            return ("" if whole else "≤ ") + shown(best.accuracy)
        return UNKNOWN

    def figures(self) -> bytes:
        """What `facesieve presets` says of each: on SFace and dlib, as in the README's table."""
        made = {"clean_lost": self.lost, "unaware": self.oblivious, "aware": self.worst}
        found: dict[str, dict[str, str]] = {}
        for preset in PRESETS:
            both_of = {key: self.both(preset, figure, *([] if key == "clean_lost" else [2])) for key, figure in made.items()}
            found[preset] = {key: text for key, text in {**both_of, "ms": self.milliseconds(preset)}.items() if text != UNKNOWN}
        return (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode()

    def milliseconds(self, preset: str) -> str:
        """A face, on one core. Presets of one evaluation run the same network: of theirs the least."""
        if preset == NONE:
            return "–"
        if not (own := self.seconds(preset)):
            return UNKNOWN
        alike = [each for name in QUICK for each in self.seconds(name)] if preset in QUICK else []
        return f"{1000 * min(own + alike):.0f}"

    def seconds(self, preset: str) -> list[float]:
        """A face, as it was measured on clean images."""
        return [row.seconds for row in self.clean(preset, "sface") if row.seconds]

    def clean(self, preset: str, recogniser: str) -> list[Row]:
        """Its rows of clean images."""
        return [row for kind in ("clean", "worst-case") for row in self.known(kind, recogniser, preset) if row.attack == NONE]

    def record(self, kind: str, recogniser: str) -> Record | None:
        """The published one."""
        path = self.results / f"evaluation-{kind}-{recogniser}.json"
        if path not in self._records:
            self._records[path] = load_record(path) if path.exists() else None
        return self._records[path]

    def known(self, kind: str, recogniser: str, preset: str) -> list[Row]:
        """What was measured of images saved as 8 bit, with the weights that ship today."""
        found = self.record(kind, recogniser)
        if found is None:
            return []
        if preset != NONE:
            shipped = prior_hash(embedded_prior_folder(PRESETS[preset].prior))
            if shipped not in found.environment["prior_sha256"].split(", "):
                return []
        if (kind, recogniser) not in self._rows:
            self._rows[kind, recogniser] = tables_of(found).rows
        return [row for row in self._rows[kind, recogniser] if row.defence == preset and row.quantisation == "uint8"]

    def presets_at_length(self) -> list[list[str]]:
        """Every figure of every preset with its interval, of all records: where, preset, what, value, images."""
        found = []
        for kind in KINDS:
            for recogniser, name in RECOGNISERS.items():
                for preset in PRESETS:
                    for row in self.known(kind, recogniser, preset):
                        where = f"{name}, `{kind}`"
                        figures = {"accuracy": row.accuracy, "points lost": row.lost, "FRR": row.frr, "recovery": row.recovery}
                        figures = figures if row.attack == NONE else {"accuracy": row.accuracy, "recovery": row.recovery}
                        what = "clean" if row.attack == NONE else row.attack
                        found += [
                            [where, preset, f"{what}: {figure}", percent(e), str(e.n)] for figure, e in figures.items() if e
                        ]
        return found

    def worst_cases(self) -> list[list[str]]:
        """For every defence of `worst-case.toml`, on both recognisers at each eps: what is left, of how many."""
        made = read_experiment(HERE / "worst-case.toml")
        wanted = {NONE: None, **{defence.name: defence.preset for defence in made.all_defences()}}
        return [
            [RECOGNISERS[recogniser], name, *(self.worst_case(name, preset, recogniser, eps) for eps in (0.5, 2, 8))]
            for recogniser in ("sface", "dlib")
            for name, preset in wanted.items()
        ]

    def worst_case(self, name: str, preset: str | None, recogniser: str, eps: float) -> str:
        """The cell of most images, then of most attackers, among the records that have it."""
        rows = []
        for kind in ("worst-case", *(["oblivious"] if name == NONE else [])):  # who knows no defence knows all there is
            found = self.record(kind, recogniser)
            if found is None or (preset is not None and not self.known(kind, recogniser, preset)):
                continue
            entries = [Entry(result) for result in results_of(found) if result.defence.name == name]
            rows += [entry.balls["linf", eps] for entry in entries if entry.is_aware("linf", eps)]
        if not rows:
            return NOT_RUN
        best = max(rows, key=lambda row: (min(row.accuracy.n, ENOUGH), attackers_of(row), row.accuracy.n))
        return f"{percent(best.accuracy)} ({many(attackers_of(best), 'attacker')}, n = {best.accuracy.n})"

    def unmeasured(self) -> list[str]:
        """Experiments of the presets without a published record of today's weights."""
        named = [
            f"{kind}-{recogniser}"
            for kind in KINDS
            for recogniser in RECOGNISERS
            if (HERE / f"{kind}-{recogniser}.toml").exists()
        ]
        return [name for name in named if not any(self.known(*name.rsplit("-", 1), preset) for preset in PRESETS)]


def attackers_wanted(experiment: dict[str, Any], preset: str, eps: int) -> int:
    """How many attackers of an eps an experiment has for a preset, those on a few images left out."""
    attacks = [each for one in experiment["attacks"] for each in AttackSettings.model_validate(one).each()]
    defences = [each for one in experiment["defences"] for each in DefenceSettings.model_validate(one).each()]
    defence = next(each for each in defences if each.name == preset)
    return sum(each.eps == eps and each.probes is None and defence.faces(each) for each in attacks)


def shown(estimate: Estimate) -> str:
    """In percent, with the number of images where it is small."""
    return f"{100 * estimate.value:.1f}" + ("" if estimate.n >= ENOUGH else f" (n = {estimate.n})")
