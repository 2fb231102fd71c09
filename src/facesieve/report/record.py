"""The record of an evaluation: what ran, on what, with which seeds and versions, every trial, every warning.

Tables and pictures are drawn from it and from nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from facesieve.errors import RecordError, one_line
from facesieve.files import first_problem, write_with_folder
from facesieve.metrics.intervals import Estimate

FILE = "report.json"
NONE = "none"  # the name of no attack, and of no defence
THROUGH = ", through "  # between an attack's name and that of the defence which a set of its own was crafted through

# settings of an experiment that older records have under another name
RENAMED = {"averaged": "eot_samples", "steps_too": "score_steps", "on": "surrogate"}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Part):
    """One attack, one defence, and what every image was taken for."""

    attack: str
    quantisation: Literal["float", "uint8"]
    defence: str
    point: str  # "" where the defence ends; else the step of it after which the images were scored
    predicted: tuple[int, ...]  # people by number, of the images in the record's order
    genuine: tuple[float, ...] = Field(validation_alias=AliasChoices("genuine", "own"))  # score of the person it shows
    impostor: tuple[float, ...] = Field(validation_alias=AliasChoices("impostor", "other"))  # best score of anybody else
    probability: tuple[float, ...] | None  # of the person it shows
    seconds: float | None  # a face, in the run that made it; None where nothing was computed


class AttackRecord(_Part):
    """How one attack went, apart from what it did to the scores."""

    name: str
    method: str
    eps: float  # levels of 255
    norm: Literal["linf", "l2"]
    iterations: int
    sees: str  # whose scores, or gradients, it had
    black_box: bool
    left_ball: float  # share of the images that being saved as 8 bit took further than eps from the clean ones
    still: float  # share of the images whose gradient is zero or not finite at the clean image
    seconds: float  # an image
    starts: int = 1  # random ones, of which the best was kept
    draws: int = 1  # of a defence's noise, averaged over at each step
    made_for: int | None = None  # of a cascade: the images that the attacks before it left; None: all that it was tried on
    view: str = ""  # what it had of the defence that it was crafted through, as an experiment says it; "" for nothing

    @property
    def attack(self) -> str:
        """The attack's name in the cells: without the defence that this set was crafted through."""
        return self.name.partition(THROUGH)[0]


class DefenceRecord(_Part):
    """One defence: what it is made from, and which of its settings a sweep chose."""

    name: str
    family: str  # its name without the swept settings
    preset: str | None
    baseline: str | None
    swept: dict[str, bool | int | float | str]
    draws_noise: bool
    enrolled: Literal["raw", "purified"] | None = None  # what is behind this one alone; None: as the recogniser's settings say


class Record(_Part):
    """Everything."""

    model_config = ConfigDict(ser_json_inf_nan="constants")  # a measure of one value has no interval: nan

    experiment: dict[str, Any]
    environment: dict[str, str]
    people: tuple[str, ...]
    labels: tuple[int, ...]  # of the test images, in the order of the cells; a cell of n images has the first n
    closed_set: bool
    defences: tuple[DefenceRecord, ...]
    attacks: tuple[AttackRecord, ...]
    cells: tuple[Cell, ...]
    pictures: dict[str, str]  # by title: a JPEG in base64, of the sample faces behind each defence or on their way through one
    complete: bool
    measures: dict[str, dict[str, Estimate]] = {}  # by measure and name: what else the run was measured by

    @model_validator(mode="before")
    @classmethod
    def _of_older(cls, given: Any) -> Any:
        """A record of before settings were renamed, or of before it listed its defences."""
        if not isinstance(given, dict) or not isinstance(given.get("experiment"), dict):
            return given
        experiment = {name: _renamed(table) for name, table in given["experiment"].items()}
        rest = {name: value for name, value in given.items() if name != "random_defences"}
        if "random_defences" in given:
            rest["defences"] = described_defences(experiment, given["random_defences"])
        return {**rest, "experiment": experiment}

    @property
    def oblivious(self) -> bool:
        """Whether the attacks saw the recogniser alone."""
        threat = self.experiment["run"].get("threat", "oblivious")
        return bool(threat == "oblivious") and not any(THROUGH in attack.name for attack in self.attacks)

    def is_shared(self, attack: str) -> bool:
        """Whether all defences face one set of images under this attack (or none), and not each a set of its own."""
        return not any(made.attack == attack and made.name != attack for made in self.attacks)

    def cell(self, attack: str, quantisation: str, defence: str, point: str = "") -> Cell | None:
        """The cell of these names, if it was run."""
        wanted = (attack, quantisation, defence, point)
        return next((c for c in self.cells if (c.attack, c.quantisation, c.defence, c.point) == wanted), None)


def described_defences(experiment: dict[str, Any], noisy: Collection[str]) -> tuple[DefenceRecord, ...]:
    """Each defence of an experiment, as plain data; ``noisy`` are the names of those that draw noise."""
    found = []
    for entry in experiment["defences"]:
        family, kind = (
            entry["name"] or entry["preset"] or entry["baseline"],
            {key: entry.get(key) for key in ("preset", "baseline", "enrolled")},
        )
        for name, swept in combinations(family, entry["sweep"]):
            found.append(DefenceRecord(name=name, family=family, swept=swept, draws_noise=name in noisy, **kind))
    return tuple(found)


def combinations(family: str, sweep: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each combination of a sweep: the name of its defence, and what it sets."""
    for values in itertools.product(*sweep.values()):
        swept = dict(zip(sweep, values, strict=True))
        yield ", ".join([family, *(f"{key} {value}" for key, value in swept.items())]), swept


def _renamed(table: Any) -> Any:
    """A table of an experiment, or a list of such, with today's names."""
    if isinstance(table, list):
        return [_renamed(entry) for entry in table]
    return {RENAMED.get(name, name): value for name, value in table.items()} if isinstance(table, dict) else table


def save_record(folder: Path, record: Record) -> None:
    """Write it, atomically. Raises ``InputError``."""
    write_with_folder(folder / FILE, (record.model_dump_json(indent=1) + "\n").encode())


def load_record(folder: Path) -> Record:
    """Read it from a run's folder, or its file. Raises ``RecordError`` where there is none."""
    path = folder / FILE if folder.is_dir() else folder
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RecordError(f"cannot be read: {one_line(error)}", path) from error
    except ValidationError as error:
        place, problem = first_problem(error)
        raise RecordError(f"not a report: {place}: {problem.lower()}", path) from error
