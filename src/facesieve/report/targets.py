"""What was wanted and what was measured: a list in one JSON file; whatever measures a figure records it there."""

from __future__ import annotations

import json
import math
import operator
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from facesieve.errors import InputError, SettingError, one_line
from facesieve.files import first_problem, write_with_folder
from facesieve.report.record import Record
from facesieve.report.tables import figures as of_tables
from facesieve.report.tables import tables_of

Area = Literal["purifier", "worst case", "light", "service", "photograph", "faces", "result", "doors", "house"]

ACCURACY = "accuracy"  # the measure that is the tables' numbers: it can be taken of a run that was stopped

SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


class Target(BaseModel):
    """One figure; what was missed stays in the list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    area: Area
    target: str
    wanted: str  # such as ``>= 0.99``; words where no number is wanted
    value: float
    low: float | None = None  # of a 95 % interval; None where there is none
    high: float | None = None
    n: int  # observations
    command: str
    commit: str  # that it was measured at
    defence: str | None = None  # that has this value, where the target leaves it open

    @property
    def reached(self) -> bool | None:
        """Whether the value is as wanted; None where ``wanted`` is no comparison with a number."""
        sign, _, rest = self.wanted.partition(" ")
        if sign not in SIGNS or not rest:
            return None
        return bool(SIGNS[sign](self.value, float(rest.split()[0])))


_LIST = TypeAdapter(list[Target])


def read_targets(path: Path) -> list[Target]:
    """The list. Raises ``InputError`` for a file that cannot be read or holds something else."""
    try:
        return _LIST.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", path) from error
    except ValidationError as error:
        place, problem = first_problem(error)
        raise InputError(f"not a list of targets: {place}: {problem}", path) from error


def keep_targets(path: Path, measured: Sequence[Target]) -> None:
    """Put figures into the list, each in place of an older one of its area and name; the file is replaced atomically.

    Raises ``InputError`` as ``read_targets``, and where it cannot be written.
    """
    new = {(target.area, target.target): target for target in measured}
    merged = [new.pop((old.area, old.target), old) for old in (read_targets(path) if path.exists() else [])]
    plain = [target.model_dump(exclude={"defence"} if target.defence is None else None) for target in [*merged, *new.values()]]
    write_with_folder(path, (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode())


def measured(record: Record) -> list[Target]:
    """The targets that a record's experiment asks for, by what it was measured by; its command made them, at this commit.

    Of a run that was stopped those that it came to; its other measures are taken at the end. Raises ``SettingError`` for one of a
    figure that no measure gave.
    """
    found, made = [], {"command": record.environment.get("command", "unknown"), "commit": commit()}
    for wanted in record.experiment.get("targets", ()):
        figures = record.measures.get(wanted["measure"], {})
        if not record.complete and wanted["measure"] == ACCURACY:
            figures = of_tables(tables_of(record))
        if wanted["figure"] not in figures and not record.complete:
            continue
        if wanted["figure"] not in figures:
            raise SettingError(f"measure {wanted['measure']!r} gave no figure {wanted['figure']!r}; it gave {'; '.join(figures)}")
        estimate, factor = figures[wanted["figure"]], 100 if wanted["percent"] else 1
        numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
        rounded = {name: float(f"{factor * number:.4g}") for name, number in numbers.items() if not math.isnan(number)}
        about = {"area": wanted["area"], "target": wanted["target"] or wanted["figure"], "wanted": wanted["wanted"]}
        found.append(Target.model_validate({**about, **rounded, "n": estimate.n, **made}))
    return found


def commit() -> str:
    """The short hash of the commit that is checked out where this runs; "unknown" outside of a repository."""
    try:
        asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()
