"""The record of an evaluation: what ran, on what, with which seeds and versions, every trial, every warning.

Tables and pictures are drawn from it and from nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from facesieve.errors import InputError
from facesieve.files import write_with_folder

FILE = "report.json"
NONE = "none"  # the name of no attack, and of no defence


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(_Record):
    """One attack, one defence, and what every image was taken for."""

    attack: str
    quantisation: Literal["float", "uint8"]
    defence: str
    point: str  # "" where the defence ends; else the step of it after which the images were scored
    predicted: tuple[int, ...]  # people by number, of the images in the report's order
    own: tuple[float, ...]  # score of the right person
    other: tuple[float, ...]  # best score of anybody else
    probability: tuple[float, ...] | None  # of the right person
    seconds: float | None  # a face, in the run that made it; None where nothing was computed


class AttackRecord(_Record):
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


class Report(_Record):
    """Everything."""

    experiment: dict[str, Any]
    environment: dict[str, str]
    people: tuple[str, ...]
    labels: tuple[int, ...]  # of the test images, in the order of the cells; a cell of n images has the first n
    closed_set: bool
    random_defences: tuple[str, ...]  # those that draw noise
    attacks: tuple[AttackRecord, ...]
    cells: tuple[Cell, ...]
    pictures: dict[str, str]  # by defence: a JPEG of the sample faces' way through it, in base64
    complete: bool

    def cell(self, attack: str, quantisation: str, defence: str, point: str = "") -> Cell | None:
        """The cell of these names, if it was run."""
        wanted = (attack, quantisation, defence, point)
        return next((c for c in self.cells if (c.attack, c.quantisation, c.defence, c.point) == wanted), None)


def save_report(folder: Path, report: Report) -> None:
    """Write it whole, or not at all."""
    write_with_folder(folder / FILE, (report.model_dump_json(indent=1) + "\n").encode())


def load_report(folder: Path) -> Report:
    """Read it. Raises ``InputError`` for a folder without one."""
    path = folder / FILE if folder.is_dir() else folder
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; `facesieve evaluate` writes it") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: not a report: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from error
