"""A result: one defence before one recogniser, with every trial, as one JSON file; ``result.schema.json`` is its JSON Schema.

It is cut out of a run's record, and a board is drawn from results alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from facesieve.errors import InputError, RecordError, one_line
from facesieve.files import first_problem, write_with_folder
from facesieve.metrics.intervals import Estimate
from facesieve.report.record import NONE, THROUGH, AttackRecord, Cell, DefenceRecord, Record

HEALTH = "health"  # the measure of an attack's own health
SAVED: Literal["uint8"] = "uint8"  # how the attacked images of a board were saved
HASHES = ("prior_sha256", "manifest_sha256")  # keys of a record's environment


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Data(_Part):
    """The images that were attacked: the first of each person, then the second, and so on."""

    manifest_sha256: str
    people: int
    labels: tuple[int, ...]  # whom each image shows
    selection: dict[str, Any] = {}


class Result(_Part):
    """One row of a board."""

    kind: Literal["facesieve-result-1"] = "facesieve-result-1"
    defence: DefenceRecord
    settings: dict[str, Any]  # the defence as the experiment says it
    recogniser: str
    enrolled: Literal["raw", "purified"]  # what people's templates were made from
    closed_set: bool
    far: float  # of the threshold for FRR
    data: Data
    attackers: tuple[AttackRecord, ...]
    trials: tuple[Cell, ...]  # of the defence and, for comparison, of none; images saved as 8 bit
    health: dict[str, Estimate] = Field(default={}, description="by attack: what twice the iterations take, in [-1, 1]")
    complete: bool
    versions: dict[str, str]
    hashes: dict[str, str]
    command: str

    @model_validator(mode="after")
    def _fits(self) -> Result:
        if len(set(self.data.labels)) > self.data.people or any(not 0 <= one < self.data.people for one in self.data.labels):
            raise ValueError("labels of people that there are not")
        for cell in self.trials:
            counts = {len(cell.predicted), len(cell.genuine), len(cell.impostor)}
            if len(counts) > 1 or max(counts) > len(self.data.labels):
                raise ValueError(f"the trials of {cell.attack} have not one entry for each image")
        known = {attack.attack for attack in self.attackers}
        if strange := {cell.attack for cell in self.trials} - known - {NONE}:
            raise ValueError(f"trials of {min(strange)}, which is not among the attackers")
        return self

    def record(self) -> Record:
        """As a record, from which numbers are computed."""
        return Record(
            experiment={"run": {"far": self.far}, "recogniser": {"enrolled": self.enrolled}},
            environment={**self.versions, **self.hashes, "recogniser": self.recogniser, "command": self.command},
            people=tuple(map(str, range(self.data.people))),
            labels=self.data.labels,
            closed_set=self.closed_set,
            defences=(self.defence,),
            attacks=self.attackers,
            cells=self.trials,
            pictures={},
            complete=self.complete,
        )


def results_of(record: Record) -> Iterator[Result]:
    """A result for each defence that a record has clean images of, and for none where it was attacked."""
    bare = DefenceRecord(name=NONE, family=NONE, preset=None, baseline=None, swept={}, draws_noise=False)
    attacked = any(cell.defence == NONE != cell.attack for cell in record.cells)
    for defence in (*([bare] if attacked else []), *record.defences):
        if record.cell(NONE, SAVED, defence.name) is not None:
            yield _result(record, defence)


def _result(record: Record, defence: DefenceRecord) -> Result:
    scored = [cell for cell in record.cells if cell.point == "" and cell.quantisation == SAVED]
    tried = {cell.attack for cell in scored if cell.defence == defence.name}
    trials = [cell for cell in scored if cell.defence == defence.name or (cell.defence == NONE and cell.attack in tried)]
    attackers = [
        attack for attack in record.attacks if attack.attack in tried and attack.name.partition(THROUGH)[2] in {"", defence.name}
    ]
    experiment, environment = record.experiment, dict(record.environment)
    asked = (one for one in experiment.get("defences", ()) if defence.family in {one.get("name"), one["preset"], one["baseline"]})
    command, recogniser = environment.pop("command", "unknown"), environment.pop("recogniser")
    health = {name.partition(f"{defence.name}, ")[2]: value for name, value in record.measures.get(HEALTH, {}).items()
              if name.startswith(f"{defence.name}, ")}  # fmt: skip
    return Result(
        defence=defence,
        settings=next(asked, {}),
        recogniser=recogniser,
        enrolled=defence.enrolled or experiment.get("recogniser", {}).get("enrolled", "raw"),
        closed_set=record.closed_set,
        far=experiment["run"]["far"],
        data=Data(
            manifest_sha256=environment.get("manifest_sha256", "unknown"),
            people=len(record.people),
            labels=record.labels,
            selection=experiment.get("data", {}),
        ),
        attackers=tuple(attackers),
        trials=tuple(trials),
        health=health,
        complete=record.complete,
        versions={name: value for name, value in environment.items() if name not in HASHES},
        hashes={name: environment[name] for name in HASHES if name in environment},
        command=command,
    )


def write_results(record: Record, folder: Path) -> list[Path]:
    """A file for each result of a record; returns their paths. Raises ``InputError`` where one cannot be written."""
    paths = []
    for result in results_of(record):
        about = f"{result.defence.name} {result.recogniser.split(',')[0]} {result.data.manifest_sha256[:8]}"
        paths.append(folder / f"{re.sub(r'[^a-z0-9.]+', '-', about.lower()).strip('-')}.json")
        write_with_folder(paths[-1], (result.model_dump_json(indent=1) + "\n").encode())
    return paths


def read_results(places: Sequence[Path]) -> list[Result]:
    """The results in files and folders; a run's record has one for each of its defences.

    Raises ``InputError`` for a place that cannot be read or has none, ``RecordError`` for a file that is neither.
    """
    found = []
    for place in places:
        paths = sorted(place.glob("*.json")) if place.is_dir() else [place]
        if not paths:
            raise InputError("no results in it", place, "`facesieve report RUN --results FOLDER` writes some")
        for path in paths:
            found += _read(path)
    return found


def _read(path: Path) -> list[Result]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", path) from error
    try:
        if b'"facesieve-result-' in text[:200]:
            return [Result.model_validate_json(text)]
        return list(results_of(Record.model_validate_json(text)))
    except ValidationError as error:
        place, problem = first_problem(error)
        raise RecordError(f"neither a result nor a run's record: {place}: {problem}", path) from error
